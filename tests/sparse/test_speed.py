"""The prediction of speed: bytes, unions, timed layers, and the verdict."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

import actratio
from actratio import ActratioError, measure, predict_speed
from actratio.counting.counts import SiteCounts
from actratio.errors import SiteError
from actratio.sites.linear import is_linear
from actratio.sparse import (
    Speed,
    autotune,
    check_speed,
    conversion,
    layer_times,
    measure_and_predict_speed,
    plans,
    prediction,
    timing,
)
from actratio.sparse.comparing import speedup
from actratio.sparse.converted import Converted
from actratio.sparse.crossover import ALWAYS
from actratio.sparse.layer_times import needed_share, random_activations
from actratio.sparse.planning import Plan
from actratio.sparse.rehearsal import RehearsalTimes
from actratio.sparse.saved import save_sparse
from actratio.sparse.speed import LayerSpeed, OtherLayers, SpeedCheck, SpeedPrediction, small_gain_reason
from actratio.sparse.text import text_tokens
from actratio.sparse.timing import ForwardPasses
from actratio.statistics.estimate import Estimate
from tests.sparse.calibration_text import token_batches

TinyGPT2 = Callable[..., Any]


def layer(kind: str, needed: float, dense: float, sparse: float) -> LayerSpeed:
    site: Any = None
    return LayerSpeed(Plan(site, kind, needed, "it has no true zeros"), needed, 1.0, 8, 8, 8, 8, 8, dense, sparse)


def test_bytes_and_ideal_speed_up_by_hand(tiny_gpt2: TinyGPT2) -> None:
    model = tiny_gpt2("relu")
    measurement = measure(model, token_batches())
    prediction = predict_speed(model, measurement)
    (speed,) = prediction.speeds
    ratios = [float(row.counts.activation_ratio) for row in measurement]
    one = 16 * 48 * 4
    assert [layer.dense_bytes for layer in speed.layers] == [2 * one] * 2
    assert [layer.sparse_bytes for layer in speed.layers] == pytest.approx([one * (1 + ratio) for ratio in ratios])
    assert speed.ideal_mlp == pytest.approx(4 / (2 + sum(ratios)))
    parameters = [value for name, value in model.named_parameters() if "wpe" not in name]
    others = 4 * sum(value.numel() for value in parameters) - 4 * one
    assert speed.ideal == pytest.approx((others + 4 * one) / (others + one * (2 + sum(ratios))), rel=1e-6)
    assert prediction.machine.bandwidth > 0
    assert prediction.to_frame()["dense_bytes"].tolist() == [4 * one]
    assert prediction.verdicts[0] == f"Batch 1: {speed.verdict}."


def test_several_sequences_need_the_union(tiny_gpt2: TinyGPT2) -> None:
    model = tiny_gpt2("relu")
    measurement = measure(model, token_batches())
    one, four = predict_speed(model, measurement, [1, 4]).speeds
    for row, single, several in zip(measurement, one.layers, four.layers, strict=True):
        assert single.needed == pytest.approx(float(row.counts.activation_ratio))
        idle = 1 - row.counts.active.double() / row.counts.tokens
        assert several.needed == pytest.approx(float((1 - idle**4).mean()))


def test_needed_share_holds_for_independent_sequences() -> None:
    """Neurons fire for whole sequences: successive tokens are alike, and tokens of four sequences aren't."""
    torch.manual_seed(0)
    fires = (torch.rand(200, 1, 32) < 0.2).expand(200, 8, 32)
    counts = SiteCounts(1600, fires.flatten(0, 1).sum(0))
    union = fires[:, 0].reshape(50, 4, 32).any(1).float().mean()
    assert needed_share(counts, 4) == pytest.approx(float(union), abs=0.02)


@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize(("ratio", "share"), [(0.1, 0.15), (0.1, 0.9), (0.3, 0.3), (1.0, 1.0)])
def test_random_activations_have_the_ratio_and_the_union(batch: int, ratio: float, share: float) -> None:
    needed = share * (1 - (1 - ratio / share) ** batch)
    draws = torch.stack(random_activations(20000, batch, ratio, needed)) != 0
    assert float(draws.float().mean()) == pytest.approx(ratio, abs=0.01)
    assert float(draws.any(1).float().mean()) == pytest.approx(needed, abs=0.01)


def test_experts_are_read_if_tokens_are_routed_to_them() -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_local_experts=4,
        num_key_value_heads=4,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config).eval()
    measurement = measure(model, [{"input_ids": torch.arange(16).view(1, 16)}])
    one, many = predict_speed(model, measurement, [1, 1000]).speeds
    expert = 3 * 32 * 64 * 4
    assert {layer.held_bytes for layer in one.layers} == {expert}
    assert sum(layer.dense_bytes for layer in one.layers) == pytest.approx(2 * 2 * expert)  # two of four, in two layers
    assert sum(layer.dense_flops for layer in one.layers) == pytest.approx(2 * 2 * 2 * expert / 4)
    reached = sum(1 for row in {row.site.name: row for row in measurement}.values() if row.counts.tokens)
    assert sum(layer.dense_bytes for layer in many.layers) == pytest.approx(reached * expert)
    assert one.verdict == "no, because silu has no true zeros, and experts that share one weight cannot have thresholds"


@pytest.mark.parametrize(
    ("routed", "tokens", "read"), [(1.0, 128, 128), (0.25, 128, 32), (0.25, 4, 1.462857), (0.5, 1, 1), (0.0, 9, 1)]
)
def test_an_expert_reads_the_tokens_that_reach_it(routed: float, tokens: int, read: float) -> None:
    """Of four tokens, a quarter reaches an expert: 1.46 tokens if any does."""
    assert prediction._tokens_read(routed, tokens) == pytest.approx(read)


def relu_mixture() -> tuple[Any, actratio.Measurement]:
    """Return a mixture of one layer, and what was measured of it on 64 tokens."""
    import transformers

    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, num_local_experts=4,
        num_key_value_heads=4, hidden_act="relu",
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config).eval()
    measurement = measure(model, [{"input_ids": torch.arange(64).view(1, 64)}], criteria=["nonzero"])
    return model, measurement


def test_experts_are_timed_with_the_tokens_that_reach_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model, measurement = relu_mixture()
    timed: list[int] = []

    def seconds(self: Any, number: int, batch: int, counts: Any) -> tuple[float, float]:
        timed.append(batch)
        return 1.0, 0.5

    monkeypatch.setattr(layer_times.MLPProducts, "expert_seconds", seconds)
    (speed,) = predict_speed(model, measurement, [1], prompt=64).speeds
    assert timed == [row.counts.tokens for row in measurement if row.tensor == "hidden"]
    assert sum(timed) == 2 * 64
    for layer, row in zip(speed.layers, (row for row in measurement if row.tensor == "hidden"), strict=True):
        assert layer.needed == pytest.approx(needed_share(row.counts, row.counts.tokens))


def test_int8_weights_are_a_quarter_of_the_bytes(tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "_SMALLEST", 1)
    model = tiny_gpt2("relu")
    measurement = measure(model, token_batches(), criteria=["nonzero"])
    (speed,) = predict_speed(model, measurement, weights="int8").speeds
    ratios = [float(row.counts.activation_ratio) for row in measurement]
    one = 16 * 48
    assert [layer.sparse_bytes for layer in speed.layers] == pytest.approx([one * (4 + ratio) for ratio in ratios])
    linears = sum(module.weight.numel() for module in model.modules() if is_linear(module))
    assert speed.others.dense_bytes == 4 * (linears - 2 * one)  # all but the down projections
    assert speed.others.new_bytes == speed.others.dense_bytes / 4
    assert speed.others.new_seconds > 0
    (dense,) = predict_speed(model, measurement).speeds
    assert dense.others == OtherLayers()
    assert speed.ideal > 2 * dense.ideal
    assert not any(isinstance(module, Converted) for module in model.modules())


def test_what_is_replaced_is_timed_inside_the_model(tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer takes 3 seconds and a look at the clock 1; the latter isn't part of the layer's time."""
    model = tiny_gpt2("relu")
    layers = [module for module in model.modules() if is_linear(module)]
    now = 0.0

    def look() -> float:
        nonlocal now
        now += 1
        return now

    monkeypatch.setattr(timing.time, "perf_counter", look)
    for kind in {type(layer) for layer in layers}:
        forward = kind.forward

        def slow(self: torch.nn.Module, x: torch.Tensor, forward: Any = forward) -> Any:
            nonlocal now
            now += 3
            return forward(self, x)

        monkeypatch.setattr(kind, "forward", slow)
    times = timing.time_in_forward_pass(model, layers[:3], 2)
    assert times.seconds == 3 * len(layers) + 1
    assert times.parts == pytest.approx(dict.fromkeys(layers[:3], 3.0))
    assert times.rest == 3 * (len(layers) - 3) + 1
    assert layer_times.ModelTimes().forward_pass(model, 2, 0).parts == pytest.approx(dict.fromkeys(layers, 3.0))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_layers_are_left_out_of_a_pass_for_a_moment(tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its linear layers, a GPT-2 gives every token the same logits: those of its last normalisation's bias."""
    model = tiny_gpt2("relu")
    logits: list[torch.Tensor] = []
    handle = model.register_forward_hook(lambda module, inputs, out: logits.append(out.logits))
    layers = [module for module in model.modules() if is_linear(module)]
    model.lm_head.weight = torch.nn.Parameter(torch.ones_like(model.lm_head.weight))
    monkeypatch.setattr(timing, "_PASSES", 2)
    timing.time_in_forward_pass(model, layers, 2, prompt=4)
    handle.remove()
    whole, timed, *without = logits[4:]
    assert whole.abs().max() > 0
    assert timed.abs().max() > 0
    assert [logits.abs().max() for logits in without] == [0, 0]
    assert not any("forward" in vars(module) for module in layers)


def test_what_the_rest_loses_to_the_layers_grows_with_the_root_of_their_time() -> None:
    """Of 11 seconds, 4 are in the layers, 3 remain without them, and 4 are lost to them."""
    first, second = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    times = timing.PassTimes(11.0, {first: 3.0, second: 1.0}, 3.0)
    assert times.remaining(4.0, 4.0) == 7.0
    assert times.remaining(4.0, 0.0) == 3.0
    assert times.remaining(4.0, 1.0) == 3.0 + 4.0 / 2
    assert times.remaining(3.0, 0.0) == 1.0 + 3.0 + 4.0 / 2
    assert timing.PassTimes(10.0, {first: 9.0}, 3.0).remaining(9.0, 3.0) == 1.0  # noise: nothing is lost


def verdict_of(batch: int, layers: list[LayerSpeed], ideal: float, expected: float, others: OtherLayers) -> str:
    """Return the verdict on a model of whose weights half are in the MLPs."""
    reason = small_gain_reason(batch, layers, ideal, expected, 0.5, others)
    return Speed(batch, layers, 1.0, ideal, ideal, expected, reason, others).verdict


@pytest.mark.parametrize(
    ("layers", "expected", "verdict"),
    [
        ([layer("dense", 1.0, 0.0, 0.0)], 1.5, "yes, about 1.50 times as fast"),  # without reading fewer bytes
        ([layer("dense", 1.0, 0.0, 0.0)], 1.05, "no, because the rest of the model takes most of the time"),
        ([layer("down", 0.9, 1.0, 1.0)], 0.9, "no, it would be slower, about 0.90 times as fast"),
    ],
)
def test_verdict_with_other_layers(layers: list[LayerSpeed], expected: float, verdict: str) -> None:
    assert verdict_of(1, layers, 1.0, expected, OtherLayers(8, 8, 2.0, 1.0)).startswith(verdict)


def test_many_decoding_steps_stay_within_what_the_model_reads(tiny_gpt2: TinyGPT2) -> None:
    passes = timing.ForwardPasses(tiny_gpt2("relu", n_positions=24), 1)
    assert all(passes.seconds() > 0 for _ in range(40))


def test_prompts(tiny_gpt2: TinyGPT2) -> None:
    """A prompt of 10 tokens needs what 10 independent tokens need, and computes only the active neurons of each."""
    model = tiny_gpt2("relu")
    measurement = measure(model, token_batches(), criteria=["nonzero"])
    (step,) = predict_speed(model, measurement, [10]).speeds
    (speed,) = predict_speed(model, measurement, prompt=10).speeds
    assert (speed.batch, speed.prompt, step.prompt) == (1, 10, 0)
    assert speed.row()["prompt"] == 10
    for with_prompt, with_batch in zip(speed.layers, step.layers, strict=True):
        assert with_prompt.needed == with_batch.needed
        assert with_prompt.dense_flops == with_batch.dense_flops == 2 * 10 * 2 * 16 * 48
        assert with_prompt.sparse_flops < with_prompt.dense_flops
    assert speed.ideal > step.ideal  # arithmetic is saved even where all weights are read


def test_prompts_of_a_model_that_does_not_decode() -> None:
    import transformers

    encoder = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, hidden_act="relu"
        )
    ).eval()  # fmt: skip
    measurement = measure(
        encoder, [{"input_ids": batch["input_ids"] % 64} for batch in token_batches()], criteria=["nonzero"]
    )
    with pytest.raises(ActratioError, match="BertModel cannot be timed while it decodes"):
        predict_speed(encoder, measurement)
    (speed,) = predict_speed(encoder, measurement, prompt=8).speeds
    assert speed.dense_seconds > 0


@pytest.mark.parametrize("prompt", [-1, 1.5, None])
def test_prompt_that_is_no_number_of_tokens_is_refused(prompt: Any, tiny_gpt2: TinyGPT2) -> None:
    model = tiny_gpt2("relu")
    with pytest.raises(ActratioError, match="is not a number of tokens; give a positive integer, or 0 for decoding"):
        predict_speed(model, measure(model, token_batches()), prompt=prompt)


def test_a_model_built_in_inference_mode_is_refused_before_it_is_timed(tiny_gpt2: TinyGPT2) -> None:
    with torch.inference_mode():
        model = tiny_gpt2("relu")
    with pytest.raises(ActratioError, match=r"was made in torch\.inference_mode, so the model cannot be converted"):
        predict_speed(model, measure(model, token_batches()))


def test_measurement_without_nonzero_counts_is_refused(tiny_gpt2: TinyGPT2) -> None:
    model = tiny_gpt2("relu")
    with pytest.raises(ActratioError, match=r"does not say how many neurons of transformer\.h\.0\.mlp are zero"):
        predict_speed(model, measure(model, token_batches(), criteria=["above(0.1)"]))


@pytest.mark.parametrize(
    ("batch", "layers", "ideal", "expected", "verdict"),
    [
        (1, [layer("down", 0.1, 2.0, 1.0)], 1.5, 1.3, "yes, about 1.30 times as fast"),
        (1, [layer("down", 0.1, 2.0, 1.0)], 1.0, 1.3, "no, because the MLPs are 50% of the weights that a step reads"),
        (
            1,
            [layer("dense", 1.0, 0.0, 0.0)],
            1.0,
            1.0,
            "no, because it has no true zeros; `actratio sparsify` can choose",
        ),
        (1, [layer("down", 0.9, 1.0, 1.0)], 1.1, 1.0, "no, because a token needs 90% of the neurons"),
        (8, [layer("down", 0.9, 1.0, 1.0)], 1.1, 1.0, "no, because 8 sequences together need 90% of the neurons"),
        (1, [layer("down", 0.1, 1.0, 1.2)], 1.5, 0.9, "no, it would be slower, about 0.90 times as fast"),
        (
            1,
            [layer("down", 0.1, 1.0, 0.5)],
            1.05,
            1.04,
            "no, because the MLPs are 50% of the weights that a step reads",
        ),
        (1, [layer("down", 0.1, 1.0, 0.8)], 1.5, 1.02, "no, because reading fewer weights saves little time here"),
        (1, [layer("down", 0.1, 1.0, 0.2)], 1.5, 1.02, "no, because the rest of the model takes most of the time"),
    ],
)
def test_verdict_says_yes_or_no_and_why(
    batch: int, layers: list[LayerSpeed], ideal: float, expected: float, verdict: str
) -> None:
    assert verdict_of(batch, layers, ideal, expected, OtherLayers()).startswith(verdict)


def test_model_without_zeros_gets_no(tiny_gpt2: TinyGPT2) -> None:
    model = tiny_gpt2()
    (speed,) = predict_speed(model, measure(model, token_batches())).speeds
    assert speed.expected == 1
    assert not speed.faster
    assert "no, because newgelu has no true zeros" in speed.verdict


def test_model_that_does_not_decode_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(ActratioError, match="cannot be timed while it decodes"):
        predict_speed(model, measure(model, [torch.rand(2, 4)]))


@pytest.mark.parametrize(("activation", "dense"), [("relu", False), ("gelu", True)])
def test_converted_model_is_refused(activation: str, dense: bool, tiny_gpt2: TinyGPT2) -> None:
    """Even if it skips nothing, and only its products are others."""
    model = tiny_gpt2(activation)
    measurement = measure(model, token_batches(), criteria=["nonzero"])
    actratio.sparsify(model, measurement, dense=dense, crossover=ALWAYS)
    with pytest.raises(ActratioError, match="is converted already"):
        predict_speed(model, measurement)


def test_prediction_of_a_calibration_counts_neurons_above_thresholds(tiny_gpt2: TinyGPT2) -> None:
    model = tiny_gpt2()
    calibration = actratio.calibrate(model, token_batches(4), ratio=0.4)
    (speed,) = predict_speed(model, calibration).speeds
    assert [layer.plan.kind for layer in speed.layers] == ["down", "down"]
    assert [layer.needed for layer in speed.layers] == pytest.approx([0.4, 0.4], abs=0.02)


def test_check_speed_measures_and_leaves_the_model_dense(tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_gpt2()
    calibration = actratio.calibrate(model, token_batches(4), ratio=0.4)
    classes = [type(module) for module in model.modules()]
    one, two = check_speed(model, calibration, [1, 2])
    assert (one.batch, two.batch) == (1, 2)
    measured = one.measured
    assert 0 < measured.low < measured.value < measured.high
    words = f"{measured.value:.2f} ({measured.low:.2f} to {measured.high:.2f}) times as fast"
    assert str(one).startswith(f"Batch 1: {words}. ")
    because = f", because {one.reason}" if one.reason else ""
    assert str(one).endswith(f". Expected was {one.expected:.2f}{because}.")
    assert (plans(model), [type(module) for module in model.modules()]) == ([], classes)

    def sparse_step_fails(dense: nn.Module, other: nn.Module, batch: int, **options: Any) -> Any:
        assert (plans(dense), len(plans(other))) == ([], 2)
        raise RuntimeError("out of memory")

    monkeypatch.setattr("actratio.sparse.prediction.speedup", sparse_step_fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        check_speed(model, calibration)
    assert (plans(model), [type(module) for module in model.modules()]) == ([], classes)


@pytest.mark.parametrize(
    ("low", "high", "conclusion"),
    [
        (1.01, 1.2, "It is faster."),
        (0.8, 0.99, "It is slower."),
        (0.95, 1.15, "This machine is too noisy to tell"),
        (0.85, 1.05, "This machine is too noisy to tell"),
    ],
)
def test_a_measured_speed_is_concluded_from_its_interval(low: float, high: float, conclusion: str) -> None:
    middle = (low + high) / 2
    check = SpeedCheck(1, 1.2, Estimate(middle, low, high), "")
    assert str(check).startswith(f"Batch 1: {middle:.2f} ({low:.2f} to {high:.2f}) times as fast. {conclusion}")


@pytest.mark.parametrize(
    ("low", "conclusion"),
    [
        (
            0.2,
            "This machine is too busy to tell whether it is faster: meanwhile, this process waited for a CPU for 33% of",
        ),
        (1.1, "It is faster."),
    ],
)
def test_a_busy_machine_cannot_tell_that_a_model_is_slower(low: float, conclusion: str) -> None:
    check = SpeedCheck(1, 1.2, Estimate(low + 0.05, low, low + 0.1), "the rest takes long", waited=0.33)
    assert f"times as fast. {conclusion}" in str(check)
    assert str(check).endswith(" Expected was 1.20, because the rest takes long.")
    assert check.row()["waited"] == 0.33


@pytest.mark.parametrize(
    ("waited", "expected", "warns"),
    [(0.33, 1.3, True), (0.01, 1.3, False), (math.nan, 1.3, False), (0.33, 1.0, False)],
)
def test_a_prediction_of_a_busy_machine_may_be_wrong(waited: float, expected: float, warns: bool) -> None:
    """That nothing changes isn't timed."""
    speed = Speed(1, [], 1.0, 1.5, 1.5, expected, "it has no true zeros")
    prediction = SpeedPrediction(timing.Machine(1.0, 1.0), [speed], waited)
    (verdict,) = prediction.verdicts
    assert verdict.startswith(
        "Batch 1: yes, about 1.30" if expected > 1 else "Batch 1: no, because it has no true zeros; "
    )
    assert bool(prediction.warning) == warns
    assert str(prediction) == (f"{verdict}\n{prediction.warning}" if warns else verdict)
    if warns:
        assert prediction.warning.startswith("These figures may be wrong: this process waited for a CPU for 33% of")


def test_a_text_without_tokens_cannot_be_read(tiny_gpt2: TinyGPT2) -> None:
    text = text_tokens([{"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": torch.zeros(2, 3)}])
    assert len(text) == len(text_tokens([])) == 0
    with pytest.raises(SiteError, match="the text has no tokens; give some"):
        ForwardPasses(tiny_gpt2("relu"), 1, text=text)


def test_passes_read_a_text(tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sequence has a place of its own and reads on, from the beginning again after the end."""
    model, read = tiny_gpt2("relu"), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    passes = timing.ForwardPasses(model, 2, context=3, text=torch.arange(10))
    for _ in range(3):
        passes.seconds()
    assert read == [[[0, 1, 2], [5, 6, 7]], [[3], [8]], [[4], [9]], [[5], [0]]]
    read.clear()
    timing.ForwardPasses(model, 1, prompt=12, text=torch.arange(10)).seconds()
    assert read == [[[*range(10), 0, 1]]]


@pytest.mark.parametrize(("ideal", "faster"), [(1.0, False), (1.5, True)])
def test_speed_is_faster_only_if_fewer_bytes_explain_it(ideal: float, faster: bool) -> None:
    assert Speed(1, [], 1.0, ideal, ideal, 1.3, "").faster == faster


def test_speed_is_timed_in_evaluation_mode_and_the_mode_restored(
    tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_gpt2().train()
    calibration = actratio.calibrate(model, token_batches(4), ratio=0.4)
    modes: list[bool] = []

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            models = [argument for argument in arguments if isinstance(argument, nn.Module)]
            modes.extend(module.training for model in models for module in model.modules())
            return function(*arguments, **options)

        return timed

    monkeypatch.setattr("actratio.sparse.prediction.speedup", noted(speedup))
    monkeypatch.setattr("actratio.sparse.layer_times.time_in_forward_pass", noted(timing.time_in_forward_pass))
    check_speed(model, calibration)
    assert set(modes) == {False}
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("batches", [4, [0], [], [1.5], None, "4"])
def test_batch_sizes_that_are_not_positive_integers_are_refused(batches: Any, tiny_gpt2: TinyGPT2) -> None:
    model = tiny_gpt2("relu")
    with pytest.raises(ActratioError, match="is not a list of batch sizes; give positive integers, such as"):
        predict_speed(model, measure(model, token_batches()), batches)


@pytest.mark.parametrize("measurement", [None, [], 0.3])
def test_speed_without_a_measurement_is_refused(measurement: Any, tiny_gpt2: TinyGPT2) -> None:
    kind = type(measurement).__name__
    with pytest.raises(ActratioError, match=f"cannot be predicted from a {kind}; give a measurement"):
        predict_speed(tiny_gpt2("relu"), measurement)


def test_measure_and_predict_speed_counts_the_neurons_above_saved_thresholds(
    tmp_path: Path, tiny_gpt2: TinyGPT2
) -> None:
    model, batches, stages = tiny_gpt2(), token_batches(4), []
    calibration = actratio.calibrate(model, batches, ratio=0.4)
    save_sparse(tmp_path / "sparse", model, None, calibration, {})
    (dense,) = measure_and_predict_speed(model, iter(batches), folder=tmp_path).speeds
    assert [layer.plan.kind for layer in dense.layers] == ["dense", "dense"]
    prediction = measure_and_predict_speed(model, batches, [1, 2], folder=tmp_path / "sparse", progress=stages.append)
    assert [speed.batch for speed in prediction.speeds] == [1, 2]
    assert [layer.plan.kind for layer in prediction.speeds[0].layers] == ["down", "down"]
    assert [layer.needed for layer in prediction.speeds[0].layers] == pytest.approx([0.4, 0.4], abs=0.02)
    assert stages == ["measuring", "timing this machine and the model"]


@pytest.mark.parametrize("busy", [False, True])
def test_nothing_is_timed_twice_for_several_predictions(
    busy: bool, tmp_path: Path, tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predictions of one model share what was timed: the machine, the passes, and layers that are alike.

    So they agree on a busy machine, too, whose speeds of shapes aren't kept for later processes.
    """
    monkeypatch.setenv("ACTRATIO_CACHE", str(tmp_path))
    if busy:
        monkeypatch.setattr(autotune, "_BUSY", -1.0)
    timed: list[str] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            timed.append(name)
            return function(*arguments, **options)

        return call

    for name in ("time_machine", "time_in_forward_pass"):
        monkeypatch.setattr(layer_times, name, noted(name, getattr(layer_times, name)))
    monkeypatch.setattr(layer_times.LayerTimer, "speeds", noted("speeds", layer_times.LayerTimer.speeds))
    for name in ("__init__", "run"):
        monkeypatch.setattr(layer_times.Rehearsal, name, noted(name, getattr(layer_times.Rehearsal, name)))
    model = tiny_gpt2("relu")
    measurement = actratio.measure(model, token_batches(), criteria=["nonzero"])
    times = layer_times.ModelTimes()
    first = actratio.predict_speed(model, measurement, weights="int8", times=times)
    counted = {"time_machine": 1, "time_in_forward_pass": 1, "__init__": 1, "run": 1, "speeds": timed.count("speeds")}
    assert Counter(timed) == counted
    again = actratio.predict_speed(model, measurement, weights="int8", times=times)
    assert Counter(timed) == counted
    assert again.speeds[0].expected == first.speeds[0].expected
    with monkeypatch.context() as patch:  # later predictions of the same model time the same products again
        for name in ("timer_of", "linear_timer"):
            patch.setattr(layer_times, name, lambda *_, **__: pytest.fail("it makes new layers to time"))
        actratio.predict_speed(model, measurement, weights="int8", times=times.renewed())
    counted["run"] = 2
    assert Counter(timed) == counted
    actratio.predict_speed(model, measurement, [2], weights="int8", times=times)
    counted |= {"time_in_forward_pass": 2, "__init__": 2, "run": 3}
    assert Counter(timed) == counted


def test_experts_are_timed_with_the_weights_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where weights lie in memory matters."""
    model, measurement = relu_mixture()
    storages = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    own: list[nn.Module] = []

    def times(self: Any, draws: Any, rounds: int, **options: Any) -> list[float]:
        own.extend(options["dense"])
        with torch.no_grad():
            own[0](draws[0])
        return [1.0] * len(self.forms)

    monkeypatch.setattr(autotune.LayerTimer, "times", times)
    predict_speed(model, measurement)
    weights = [layer.mlp.get_submodule(name).weight for layer in own for name in ("up", "down")]
    assert weights
    assert all(weight.untyped_storage().data_ptr() in storages for weight in weights)


@pytest.mark.parametrize(
    ("rehearsed", "expected"),
    [
        (RehearsalTimes(), 8 / (8 - 1 + 0.5)),
        (RehearsalTimes(2.0, 4.0, {nn.Identity(): 1.0}), 4 / (4 / 2 - 1 + 0.5)),
        (RehearsalTimes(2.0, 1.0, {nn.Identity(): 1.0}), 1 / 0.5),  # noise: nothing is left but the experts
    ],
)
def test_what_experts_save_is_taken_off(rehearsed: RehearsalTimes, expected: float) -> None:
    """One takes 1 second instead of 2 and is used by half of the passes; the other stays dense. A dense pass takes 8 seconds."""
    item = Plan(cast("Any", None), "down", 0.1, "")
    layers = [LayerSpeed(item, 0.1, 0.5, 8, 8, 8, 8, 8, *seconds) for seconds in ((2.0, 1.0), (3.0, 3.0))]
    assert prediction._expected(rehearsed, layers, lambda: 8.0) == pytest.approx(expected)
    assert prediction._expected(rehearsed, layers[1:], lambda: 8.0) == rehearsed.gain


@pytest.mark.parametrize(("ratio", "form"), [(0.1, "sparse"), (0.4, "converted")])
def test_the_product_that_a_layer_will_choose_is_predicted(
    ratio: float, form: str, tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 25% active neurons, it skips them."""
    monkeypatch.setattr(autotune, "cached_speeds", lambda key: None)
    monkeypatch.setattr(autotune, "keep_speeds", lambda key, speeds: None)

    def speeds(self: Any, draws: list[torch.Tensor]) -> list[float]:
        active = float((torch.stack(draws) != 0).float().mean())
        return [2.0 if active < 0.3 else 0.5, 2.0]

    monkeypatch.setattr(autotune.LayerTimer, "speeds", speeds)
    forms: list[str] = []
    layers = autotune.LayerTimer.layers
    monkeypatch.setattr(autotune.LayerTimer, "layers", lambda self, form: forms.append(form) or layers(self, form))
    model = tiny_gpt2()
    predict_speed(model, actratio.calibrate(model, token_batches(4), ratio=ratio))
    assert set(forms) == {form}
