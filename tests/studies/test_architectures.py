"""The study of architectures: its text, its variants, its estimates, its rules and what it concludes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from actratio import ActratioError, measure
from actratio.data import antibodies
from actratio.models import load_model, load_tokenizer
from actratio.sites.mlps import resolve
from actratio.sparse.text import next_token_loss
from actratio.statistics.estimate import Estimate
from actratio.statistics.rules import operating_characteristics
from actratio.statistics.verdict import MET, NO, UNDECIDED, YES
from actratio.studies import ArchitecturesStudy
from actratio.studies.architectures.analysis import architecture_findings
from actratio.studies.architectures.counted_blocks import BlockCounter, count_blocks
from actratio.studies.architectures.judging import (
    BANDS,
    BlockCounts,
    block_interval,
    cost_of_keeping,
    estimate_profile,
    judge_generalises,
    judge_shift,
    judge_twin,
    judge_universal,
    layer_estimates,
    mean_estimate,
    needed,
    shift_of_parts,
    smallest_share,
)
from actratio.studies.architectures.kept_neurons import KEPT, keeping, reduce_blocks
from actratio.studies.architectures.measured import costs_of
from actratio.studies.architectures.rules import RULES
from actratio.studies.architectures.sequences import (
    TokenSequence,
    batch_of,
    published_blocks,
    sampled_blocks,
    shuffled_blocks,
    text_blocks,
)
from actratio.studies.architectures.tidy_counts import COUNT_COLUMNS, counts_frame, losses_frame
from actratio.studies.architectures.variants import round_weights, twin_of
from actratio.studies.runner import Runner
from actratio.studies.transformer.profiles import profile_parts, read_gpt
from tests.conftest import ROOT

TinyGPT2 = Callable[..., Any]
WORDS = "the king of a land far away had a fox and a hound , and they ran over the hills . " * 60


def blocks_of(tokenizer: Any, blocks: int = 4, sequences: int = 2, length: int = 20) -> Any:
    return text_blocks(tokenizer, WORDS, blocks=blocks, sequences=sequences, length=length)


# ---- Text.


def test_blocks_are_evenly_spaced_and_have_the_models_special_tokens(minilm: Path) -> None:
    tokenizer = load_tokenizer(str(minilm))
    ids = tokenizer(WORDS, add_special_tokens=False, verbose=False)["input_ids"]
    blocks = blocks_of(tokenizer)
    assert [len(block) for block in blocks] == [2] * 4
    for place, block in enumerate(blocks):
        start = place * (len(ids) - 36) // 3
        for number, sequence in enumerate(block):
            first = start + 18 * number
            expected = (tokenizer.cls_token_id, *ids[first : first + 18], tokenizer.sep_token_id)
            assert sequence == TokenSequence(expected, 1, 19)
    assert blocks[-1][-1].ids[1:-1] == tuple(ids[-18:])


def test_a_short_text_is_refused(minilm: Path) -> None:
    with pytest.raises(ActratioError, match=r"the text has 2 tokens and 144 are needed; give more text with --texts"):
        text_blocks(load_tokenizer(str(minilm)), "a king", blocks=4, sequences=2, length=20)


def test_shuffling_keeps_the_tokens_and_the_places_of_special_ones(minilm: Path) -> None:
    blocks = blocks_of(load_tokenizer(str(minilm)))
    shuffled = shuffled_blocks(blocks, seed=1)
    assert shuffled == shuffled_blocks(blocks, seed=1)
    assert shuffled != shuffled_blocks(blocks, seed=2)
    for block, other in zip(blocks, shuffled, strict=True):
        for sequence, moved in zip(block, other, strict=True):
            assert sequence.ids != moved.ids
            assert sorted(sequence.ids) == sorted(moved.ids)
            assert (sequence.ids[0], sequence.ids[-1]) == (moved.ids[0], moved.ids[-1])


def test_iglm_samples_whole_sequences() -> None:
    model, tokenizer = load_model("iglm", device="cpu"), load_tokenizer("iglm")
    state = torch.get_rng_state()
    ((heavy, light),) = sampled_blocks(model, tokenizer, blocks=1, sequences=2, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert tokenizer.convert_ids_to_tokens(heavy.ids[:2]) == ["[HEAVY]", "[HUMAN]"]
    assert tokenizer.convert_ids_to_tokens(light.ids[:2]) == ["[LIGHT]", "[HUMAN]"]
    for sequence in (heavy, light):
        assert 80 < len(sequence.ids) <= 150
        assert sequence.start == 2
        letters = sequence.ids[2:]
        assert tokenizer.pad_token_id not in letters
        assert max(letters) < 25  # no conditions inside
        if len(sequence.ids) < 150:
            assert letters[-1] == tokenizer.eos_token_id
            assert letters.count(tokenizer.eos_token_id) == 1
            assert sequence.stop == len(sequence.ids) - 1


def test_samples_depend_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(antibodies, "_LONGEST_SAMPLE", 12)
    model, tokenizer = load_model("iglm", device="cpu"), load_tokenizer("iglm")
    first, again, other = (sampled_blocks(model, tokenizer, blocks=2, sequences=2, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert [len(block) for block in first] == [2, 2]


def test_published_domains_have_no_unknown_letters() -> None:
    tokenizer = load_tokenizer("iglm")
    blocks = published_blocks(tokenizer)
    assert len(blocks) == len(antibodies.PUBLISHED_DOMAINS) == 4
    for (sequence,) in blocks:
        assert tokenizer.unk_token_id not in sequence.ids
        assert sequence.ids[-1] == tokenizer.sep_token_id
        assert 107 <= sequence.stop - sequence.start <= 121


def test_a_batch_is_padded_on_the_right() -> None:
    batch = batch_of([TokenSequence((5, 6, 7), 0, 3), TokenSequence((8,), 0, 1)])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


# ---- Variants and counts.


def test_twins_have_half_of_their_neurons_active(minilm: Path) -> None:
    model, blocks = load_model(str(minilm), device="cpu"), blocks_of(load_tokenizer(str(minilm)))
    state = torch.get_rng_state()
    twins = [twin_of(model, seed) for seed in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    weights = [next(iter(twin.parameters())) for twin in (model, *twins)]
    assert not torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1])
    for twin in twins:
        arrays = count_blocks(lambda _, twin=twin: BlockCounter(twin, blocks[0]), blocks, None, lambda arrays: None)
        ratio = float(arrays["active"][0].sum() / arrays["outputs"][0].sum())
        assert 0.49 < ratio < 0.51


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "mixtral"])
def test_counts_of_blocks_are_those_of_measure(model_type: str, tiny_causal_lm: Callable[[str], Any]) -> None:
    model = tiny_causal_lm(model_type).eval()
    blocks = [[TokenSequence(tuple(range(3 + start, 20 + start)), 0, 17)] for start in range(3)]
    arrays = count_blocks(lambda _: BlockCounter(model, blocks[0]), blocks, None, lambda arrays: None)
    assert arrays["tokens"].tolist() == [17] * 3
    frame = measure(model, [batch_of(block) for block in blocks]).to_frame()
    for row, tensor in enumerate(("activation", "hidden")):
        rows = frame[frame["tensor"] == tensor].fillna({"active_mean": 0.0})
        active = (rows["active_mean"] * rows["tokens"]).groupby(rows["layer"]).sum()
        assert arrays["active"][row].sum(1).tolist() == pytest.approx(active.tolist() or [0, 0])
    table = counts_frame("m", "pretrained", arrays | {"order": torch.arange(3)}, [0] * 3)
    assert tuple(table.columns) == COUNT_COLUMNS
    assert set(table["tensor"]) == ({"activation"} if model_type == "gpt2" else {"activation", "hidden"})


def test_weights_are_rounded_as_gguf_files_store_them(minilm: Path) -> None:
    model, before = load_model(str(minilm), device="cpu"), load_model(str(minilm), device="cpu")
    rounded = round_weights(model)
    assert rounded > 0.99 * sum(parameter.numel() for parameter in model.parameters())
    for name, kind in (
        ("encoder.layer.0.intermediate.dense.weight", "Q4_1"),
        ("embeddings.word_embeddings.weight", "Q8_0"),
    ):
        stored = gguf.GGMLQuantizationType[kind]
        expected = gguf.quants.dequantize(
            gguf.quants.quantize(before.get_parameter(name).detach().numpy(), stored), stored
        )
        assert torch.equal(model.get_parameter(name), torch.from_numpy(expected))
        assert not torch.equal(model.get_parameter(name), before.get_parameter(name))
    for name in ("encoder.layer.0.output.LayerNorm.weight", "encoder.layer.0.intermediate.dense.bias"):
        assert torch.equal(model.get_parameter(name), before.get_parameter(name))


def test_rounding_leaves_short_rows_and_shared_embeddings(tiny_gpt2: TinyGPT2) -> None:
    model = tiny_gpt2(
        n_embd=32, n_inner=48
    )  # the rows of the down projection have 48 weights, which is no multiple of 32
    embedding, down = model.transformer.wte.weight.clone(), model.transformer.h[0].mlp.c_proj.weight.clone()
    up = model.transformer.h[0].mlp.c_fc.weight.clone()
    round_weights(model)
    stored = gguf.GGMLQuantizationType.Q8_0  # also the output layer, which has the same weight
    expected = gguf.quants.dequantize(gguf.quants.quantize(embedding.detach().numpy(), stored), stored)
    assert torch.equal(model.lm_head.weight, torch.from_numpy(expected))
    assert torch.equal(model.transformer.h[0].mlp.c_proj.weight, down)
    q4 = gguf.GGMLQuantizationType.Q4_1  # rows of Conv1D are its columns
    columns = gguf.quants.dequantize(gguf.quants.quantize(up.t().contiguous().detach().numpy(), q4), q4)
    assert torch.equal(model.transformer.h[0].mlp.c_fc.weight, torch.from_numpy(columns).t())


# ---- Keeping a share.


def test_keeping_leaves_the_largest_contributions_of_each_token(tiny_gpt2: TinyGPT2, minilm: Path) -> None:
    model = tiny_gpt2()
    mlps, batch = resolve(model), batch_of(blocks_of(load_tokenizer(str(minilm)))[0])
    seen: list[torch.Tensor] = []
    down = mlps[0].down
    with keeping(mlps, 0.25), torch.no_grad():
        hook = down.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model(**batch)
        hook.remove()
        reduced = next_token_loss(model, [batch])
    with torch.no_grad():
        hook = down.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model(**batch)
        hook.remove()
    kept, whole = seen
    contributions = whole.abs() * down.weight.norm(dim=1)
    order = contributions.argsort(-1, descending=True)[..., :12]  # a quarter of 48
    expected = torch.zeros_like(whole).scatter(-1, order, whole.gather(-1, order))
    assert torch.equal(kept, expected)
    assert reduced != next_token_loss(model, [batch])  # and the hooks are gone
    with keeping(mlps, 1.0):
        assert next_token_loss(model, [batch]) == next_token_loss(model, [batch])


def test_the_cost_of_an_encoder_is_the_distance_of_its_embeddings(minilm: Path) -> None:
    model, blocks = load_model(str(minilm), device="cpu"), blocks_of(load_tokenizer(str(minilm)), blocks=2)
    arrays = reduce_blocks(model, blocks, None, lambda arrays: None)
    assert not bool(arrays["relative"])
    assert arrays["weight"].tolist() == [2, 2]
    loss = arrays["loss"]
    assert loss.shape == (len(KEPT), 2)
    assert loss[0].abs().max() < 1e-6
    assert bool((loss[-1] > loss[5]).all())
    assert bool((loss[-1] > 0.05).all())


def test_interrupted_blocks_continue_where_they_stopped(tiny_gpt2: TinyGPT2, minilm: Path) -> None:
    model, blocks = tiny_gpt2(), blocks_of(load_tokenizer(str(minilm)))
    saved: list[Any] = []
    whole = reduce_blocks(model, blocks, None, saved.append)
    again = reduce_blocks(model, blocks, saved[1], saved.append)
    assert bool(whole["relative"])
    assert len(saved) == len(blocks) + 2
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ([0, 0.005, 0.015, 0.1], 0.7),  # halfway between 0.8 and 0.6
        ([0, 0.02, 0.0, 0.0], 0.9),  # all larger shares must be cheap too
        ([0, 0.0, 0.0, 0.009], 0.4),  # the smallest that was tried
        ([0, -0.01, 0.03, 0.1], 0.7),
    ],
)
def test_smallest_share_by_hand(costs: list[float], expected: float) -> None:
    found = smallest_share([1.0, 0.8, 0.6, 0.4], np.array([costs, costs]))
    assert found.tolist() == pytest.approx([expected, expected])


def test_costs_weigh_blocks_and_are_relative_to_the_dense_loss() -> None:
    loss = np.array([[2.0, 4.0], [2.2, 4.4]])
    estimates, draws = cost_of_keeping(loss, np.array([1.0, 3.0]), relative=True)
    assert [estimate.value for estimate in estimates] == pytest.approx([0, 0.1])
    assert draws[:, 1] == pytest.approx(np.full(len(draws), 0.1))
    estimates, _ = cost_of_keeping(loss, np.array([1.0, 3.0]), relative=False)
    assert estimates[1].value == pytest.approx((2.2 + 3 * 4.4) / 4)


# ---- Estimates and rules.


def simulated(ratios: Any, rng: np.random.Generator, spread: float = 0.05, blocks: int = 40) -> BlockCounts:
    """Blocks whose ratios differ around the given ones; blocks have different sizes."""
    ratios = np.asarray(ratios, dtype=float)
    outputs = np.repeat(rng.integers(900, 1100, (blocks, 1)) * 1000.0, len(ratios), 1)
    noise = 1 + spread * rng.standard_normal((blocks, 1)) + spread / 2 * rng.standard_normal((blocks, len(ratios)))
    return BlockCounts(outputs * ratios * noise, outputs)


def flat(first: float, plateau: float, layers: int = 6) -> list[float]:
    return [first] + [(first + plateau) / 2] * (layers // 3 - 1) + [plateau] * (layers - layers // 3)


def test_profile_parts_are_those_of_a_straight_line() -> None:
    rng = np.random.default_rng(0)
    table = rng.uniform(0.1, 0.5, (5, 7))
    for row, (first, plateau, drift) in zip(table, profile_parts(table), strict=True):
        slope, _ = np.polyfit(np.arange(5), row[2:], 1)
        assert (first, plateau) == (row[0], pytest.approx(row[2:].mean()))
        assert drift == pytest.approx(4 * slope / row[2:].mean())
    assert profile_parts([0.3]).tolist() == [0.3, 0.3, 0]
    assert profile_parts([0.0, 0.0]).tolist() == [0, 0, 0]


def test_intervals_over_blocks_cover_the_truth() -> None:
    truth = np.array([0.04, 0.08, 0.12, 0.14, 0.15, 0.16])
    parts = profile_parts(truth)
    inside: list[NDArray[np.bool_]] = []
    for seed in range(300):
        counts = simulated(truth, np.random.default_rng(seed))
        found = estimate_profile("m", counts, 3, draws=300)
        estimates = [*found.parts, *layer_estimates(counts), mean_estimate(counts)]
        inside.append(np.array([e.contains(t) for e, t in zip(estimates, [*parts, *truth, truth.mean()], strict=True)]))
    coverage = np.mean(inside, axis=0)
    assert ((coverage > 0.91) & (coverage < 0.985)).all(), coverage


def test_the_interval_of_the_smallest_share_covers_the_truth() -> None:
    """Ten blocks, whose losses rise as the square of the share that is dropped, by an amount of their own."""
    kept = np.array(KEPT)
    size = 0.2
    dropped = size * (1 - kept) ** 2
    truth = float(smallest_share(KEPT, dropped))
    hits, draws = 0, 400
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        dense = 3 * rng.lognormal(-0.005, 0.1, 10)
        own = rng.normal(1, 0.3, 10)
        loss = dense + 3 * dropped[:, None] * own + 0.002 * rng.standard_normal((len(kept), 10)) * (kept[:, None] < 1)
        costs, resampled = cost_of_keeping(loss, np.full(10, 496.0), relative=True)
        value = float(smallest_share(KEPT, np.array([cost.value for cost in costs])))
        hits += block_interval(value, smallest_share(KEPT, resampled), 10).contains(truth)
    assert 0.91 <= hits / draws <= 0.985


def test_the_interval_of_twins_covers_the_truth_as_often_as_it_says() -> None:
    rng, draws = np.random.default_rng(0), 4000
    hits = sum(judge_twin(rng.normal(0.501, 0.003, 5).tolist(), 3)[1].contains(0.501) for _ in range(draws))
    assert hits / draws == pytest.approx(1 - 0.05 / 3, abs=0.007)


def test_a_shift_of_parts_is_at_most_as_large_as_is_said() -> None:
    """The size contains the true shift at least as often as the interval does, because it looks at the farther end."""
    truth = np.array([0.2, 0.25, 0.3, 0.31, 0.3, 0.33])
    moved = truth + np.array([0.004, 0.0, -0.003, 0.005, 0.002, 0.006])
    shift = np.abs(profile_parts(moved) - profile_parts(truth))
    inside: list[NDArray[np.bool_]] = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        original = simulated(truth, rng)
        noise = 0.004 * rng.standard_normal(original.active.shape)
        rounded = BlockCounts(original.active + original.outputs * (moved - truth + noise), original.outputs)
        inside.append(np.array(shift_of_parts(original, rounded)) >= shift)
    coverage = np.mean(inside, axis=0)
    assert (coverage >= 0.94).all(), coverage
    assert (coverage < 1).any()  # it's no larger than it must be


def test_planted_profiles_are_recognised() -> None:
    rng = np.random.default_rng(0)
    article = estimate_profile("a", simulated(flat(0.04, 0.14), rng), 3)
    dense = estimate_profile("d", simulated(flat(0.5, 0.4), rng), 3)
    edge = estimate_profile("e", simulated(flat(0.04, 0.16), rng), 3)
    near = estimate_profile("n", simulated(flat(0.04, 0.19), rng), 3)
    assert (article.holds, article.is_excluded) == (True, False)
    assert (dense.holds, dense.is_excluded) == (False, True)
    assert (edge.holds, edge.is_excluded) == (False, False)
    assert (near.holds, near.is_excluded) == (False, True)
    assert dense.misses[0].value == pytest.approx(0.45, abs=0.03)
    assert judge_generalises([article, article, dense], 3)[0] == YES
    assert judge_generalises([article, edge, dense], 3)[0] == UNDECIDED
    assert judge_generalises([article, dense, near], 3) == (NO, Estimate(1, 1, 1))
    assert judge_generalises([article], 3)[0] == UNDECIDED  # two are not measured yet
    assert judge_universal([article, article, article], 3)[0] == YES
    assert judge_universal([article, article, near], 3)[0] == UNDECIDED
    verdict, miss, where = judge_universal([article, near, dense], 3)
    assert (verdict, where) == (NO, "d, first layer")
    assert miss.low > 40


def test_a_systematic_error_widens_the_intervals() -> None:
    counts = simulated(flat(0.04, 0.14), np.random.default_rng(0))
    narrow, wide = (estimate_profile("m", counts, 3, widen) for widen in ((0, 0, 0), (0.02, 0, 0.5)))
    assert wide.parts[0].low == pytest.approx(narrow.parts[0].low - 0.02)
    assert wide.parts[1] == narrow.parts[1]
    assert narrow.holds
    assert not wide.holds
    assert not wide.is_excluded


def test_needed_is_two_of_three() -> None:
    assert [needed(models) for models in (1, 2, 3, 6)] == [1, 2, 2, 4]


def test_twins_are_judged_by_initialisations() -> None:
    assert judge_twin([0.5, 0.501, 0.499, 0.5, 0.5], 3)[0] == YES
    assert judge_twin([0.6, 0.601, 0.599, 0.6, 0.6], 3)[0] == NO
    assert judge_twin([0.5, 0.56, 0.47, 0.5, 0.5], 3)[0] == UNDECIDED
    assert judge_twin([0.5], 3)[0] == UNDECIDED


def test_planted_shifts_are_recovered() -> None:
    rng = np.random.default_rng(0)
    original = simulated(flat(0.2, 0.3), rng)
    for points, expected in ((0.0, YES), (0.5, YES), (1.0, UNDECIDED), (2.0, NO)):
        noise = 0.002 * rng.standard_normal(original.active.shape)
        active = original.active + original.outputs * noise
        active[:, 2] += original.outputs[:, 2] * points / 100
        verdict, shift, layer = judge_shift(original, BlockCounts(active, original.outputs))
        assert verdict == expected
        if points:
            assert layer == 2
            assert 100 * shift.value == pytest.approx(points, abs=0.15)
    moved = BlockCounts(original.active + 0.02 * original.outputs, original.outputs)
    first, plateau, _ = shift_of_parts(original, moved)
    assert (first, plateau) == (pytest.approx(0.02), pytest.approx(0.02))


def test_rules_say_yes_and_no_when_the_truth_is_clear() -> None:
    rows = pd.concat([operating_characteristics(rule, 60) for rule in RULES]).set_index(["rule", "truth"])
    clear = {
        ("generalises", "all three models have the profile"): "yes",
        ("generalises", "two have it, the third has 25 to 40%"): "yes",
        ("generalises", "one has it, two have 25 to 40%"): "no",
        ("generalises", "none has it, all have 25 to 40%"): "no",
        ("generalises", "all have a plateau of 20%, 4 points above the band"): "no",
        ("universal", "all three models have the profile"): "yes",
        ("universal", "two have it, the third has 25 to 40%"): "no",
        ("universal", "all have a plateau of 20%, 4 points above the band"): "undecidable",
        ("twins", "twins have 50.0%, ±0.3 points between initialisations"): "yes",
        ("twins", "twins have 52.0%, ±0.3 points between initialisations"): "no",
        ("quantisation", "every layer shifts by 0 points"): "yes",
        ("quantisation", "every layer shifts by 2 points"): "no",
    }
    for key, outcome in clear.items():
        assert rows.loc[key, outcome] >= 0.8, (key, rows.loc[key].to_dict())
    for truth in ("one has it, two have 25 to 40%", "none has it, all have 25 to 40%"):
        assert rows.loc[("generalises", truth), "yes"] <= 0.05
    assert rows.loc[("generalises", "all have a plateau of 16%, the band's end"), "yes"] <= 0.05
    assert rows.loc[("universal", "two have it, the third has 25 to 40%"), "yes"] == 0
    assert rows.loc[("twins", "twins have 51.0%, ±0.3 points between initialisations"), "yes"] <= 0.05
    assert rows.loc[("quantisation", "every layer shifts by 1 points"), "yes"] <= 0.05


# ---- What the study concludes.

NAMES = ("smollm2", "minilm", "iglm")
SETTINGS = {
    "models": list(NAMES),
    "tokens": 20000,
    "blocks": 40,
    "weights": {"smollm2": "dequantised from GGUF (Q4_1)"},
}


def table_of(profiles: dict[str, list[float]], *, twin: float = 0.5, shift: float = 0.0) -> pd.DataFrame:
    """The table of a whole study with the given profiles."""
    rng = np.random.default_rng(0)
    frames = []
    for name, ratios in profiles.items():
        variants = {"pretrained": ratios, "shuffled": ratios, "twin": [twin] * len(ratios)}
        if name != "smollm2":
            variants["quantised"] = [ratio + shift for ratio in ratios]
        for variant, values in variants.items():
            counts = simulated(values, np.random.default_rng(1), 0.005)  # the same noise, as on the same text
            for block in range(40):
                seed = block % 5 if variant == "twin" else 0
                for layer in range(len(ratios)):
                    active, outputs = counts.active[block, layer], counts.outputs[block, layer]
                    frames.append(
                        (
                            name,
                            variant,
                            "activation",
                            "positive",
                            layer,
                            100,
                            block,
                            seed,
                            500,
                            int(active),
                            int(outputs),
                            active / outputs,
                        )
                    )
        loss = torch.from_numpy(
            3 + 0.2 * (1 - np.array(KEPT))[:, None] ** 2 + 0.001 * rng.standard_normal((len(KEPT), 10))
        )
        arrays = {"loss": loss, "weight": torch.full((10,), 496), "tokens": torch.full((10,), 500)}
        frames.append(
            losses_frame(
                name, {**arrays, "order": torch.arange(10), "relative": torch.tensor(name != "minilm")}, [0] * 10
            )
        )
    rows = pd.DataFrame([row for row in frames if isinstance(row, tuple)], columns=list(COUNT_COLUMNS[:12]))
    return pd.concat([rows.assign(cost="", weight=0), *(frame for frame in frames if isinstance(frame, pd.DataFrame))])[
        list(COUNT_COLUMNS)
    ]


def verdicts_of(frame: pd.DataFrame, **settings: Any) -> dict[str, str]:
    findings = architecture_findings(frame, SETTINGS | settings, None)
    return {verdict.claim: verdict.verdict for verdict in findings.verdicts}


ARTICLE, DENSE, NEAR = flat(0.04, 0.14), flat(0.3, 0.4), flat(0.04, 0.155)


@pytest.mark.parametrize(
    ("profiles", "generalises", "universal"),
    [
        ((ARTICLE, ARTICLE, ARTICLE), YES, YES),
        ((DENSE, ARTICLE, ARTICLE), YES, NO),
        ((ARTICLE, DENSE, DENSE), NO, NO),
        ((ARTICLE, NEAR, flat(0.04, 0.16)), YES, UNDECIDED),
        ((ARTICLE, flat(0.04, 0.16), flat(0.04, 0.16)), UNDECIDED, UNDECIDED),
    ],
)
def test_every_verdict_on_the_profile_is_reachable(profiles: Any, generalises: str, universal: str) -> None:
    found = verdicts_of(table_of(dict(zip(NAMES, profiles, strict=True))))
    assert found["The article's profile generalises to the other models"] == generalises
    assert found["The article's profile is universal"] == universal
    assert found["MiniLM with newly initialised weights has 49 to 51%"] == YES
    assert found["Rounding the weights of MiniLM to Q4_1 shifts no layer by 1 point"] == YES


def test_findings_lead_with_the_answer_and_have_every_table() -> None:
    frame = table_of(dict.fromkeys(NAMES, ARTICLE))
    findings = architecture_findings(frame, SETTINGS, None)
    assert findings.sentences[0].startswith(
        "Yes, the profile of the GPT models carries over to other models: 3 of 3 have 3 to 5% of the neurons active in the first layer"
    )
    assert "SmolLM2 (a Llama) has 4%, 14% and " in findings.sentences[0]
    assert findings.charts[0].title == "3 of 3 models have the profile of the article's GPT models"
    assert [verdict.confirmatory for verdict in findings.verdicts].count(False) == 1  # rounded IgLM
    assert [len(table.rows) for table in findings.tables] == [3, 3]
    assert len(findings.exports["layers.csv"]) == 6 * (3 + 4 + 4)
    assert "Without it, 2 of 2 models of other families have the profile" in findings.afterwards[-1]
    assert findings.charts[1].title == "Neurons needed: 61% to 62% for 1% more loss, 100% for a cosine of 0.99"
    assert "over 10 blocks of text" in findings.charts[1].reading
    bounds = {verdict.claim: verdict.bounds for verdict in findings.verdicts}
    assert bounds["The article's profile generalises to the other models"] == "models that have it … that may have it"
    assert bounds["The article's profile is universal"] == "99.4% interval"
    assert bounds["MiniLM with newly initialised weights has 49 to 51%"] == "98.3% interval"
    assert bounds["Rounding the weights of MiniLM to Q4_1 shifts no layer by 1 point"] == "99.2% interval"
    predicted = {verdict.claim: verdict.prediction for verdict in findings.verdicts if verdict.predicted}
    assert len(predicted) == 5
    assert set(predicted.values()) == {MET}
    costs = costs_of(frame, "smollm2")
    assert costs is not None
    assert costs.smallest.value == pytest.approx(1 - np.sqrt(0.03 / 0.2), abs=0.03)
    assert costs.smallest.low < costs.smallest.value < costs.smallest.high
    dense = architecture_findings(table_of(dict.fromkeys(NAMES, DENSE)), SETTINGS, None)
    assert dense.sentences[0].startswith("No, the profile of the GPT models does not carry over")
    assert "models: 0 of 3 have" in dense.sentences[0]
    undecided = architecture_findings(table_of(dict.fromkeys(NAMES, flat(0.04, 0.16))), SETTINGS, None)
    assert "cannot be decided from this" in undecided.sentences[0]


def test_the_default_study_is_the_planned_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the packages of the models, which need not be installed.
    monkeypatch.setattr("actratio.studies.architectures.study.check_model", lambda name, **options: None)
    monkeypatch.setattr("actratio.studies.architectures.study.revision_of", lambda name, revision: None)
    monkeypatch.setattr("actratio.studies.architectures.study.weights_note", lambda name: None)
    monkeypatch.setattr("actratio.studies.architectures.study.model_fingerprint", lambda name, revision: "")
    monkeypatch.setattr(ArchitecturesStudy, "_needs_text", lambda self: False)
    settings = ArchitecturesStudy().settings()
    assert {name: settings[name] for name in ArchitecturesStudy.planned} == dict(ArchitecturesStudy.planned)
    for change in ({"models": ("minilm", "iglm")}, {"texts": ("mine.txt",)}, {"tokens": 500, "blocks": 4}, {"seed": 1}):
        other = ArchitecturesStudy(**change).settings()  # type: ignore[arg-type]
        assert any(other[name] != value for name, value in ArchitecturesStudy.planned.items())


def test_a_rule_is_a_sentence_without_its_full_stop() -> None:
    assert not any(rule.statement.endswith(".") for rule in RULES)


def test_a_failed_control_widens_the_intervals_of_quantised_models() -> None:
    profiles = dict.fromkeys(NAMES, ARTICLE)
    assert verdicts_of(table_of(profiles, shift=0.03))["The article's profile is universal"] == UNDECIDED
    findings = architecture_findings(table_of(profiles, shift=0.03), SETTINGS, None)
    control = next(v for v in findings.verdicts if "MiniLM to Q4_1" in v.claim)
    assert control.verdict == NO
    assert control.estimate.value == pytest.approx(3, abs=0.01)
    assert "widened" in findings.sentences[-1]
    assert "carries over to other models: 2 of 3 have" in findings.sentences[0]
    assert verdicts_of(table_of(profiles, twin=0.45))["IgLM with newly initialised weights has 49 to 51%"] == NO


def test_incomplete_tables_can_be_analysed() -> None:
    frame = table_of({"smollm2": DENSE, "minilm": DENSE, "iglm": flat(0.3, 0.4, 4)})
    for rows in (
        frame[frame["model"] == "minilm"],
        frame[frame["variant"] == "reduced"],
        frame[frame["variant"] == "twin"],
        frame[frame["variant"] == "quantised"],
        frame[(frame["variant"] == "pretrained") & (frame["block"] == 0)],
        frame[frame["block"] == 0],
        frame[(frame["variant"] != "quantised") | (frame["block"] < 3)],
    ):
        findings = architecture_findings(rows, SETTINGS, None)
        assert findings.title
        for verdict in findings.verdicts:
            verdict.to_dict()


def test_published_models_are_drawn_as_mean_and_range() -> None:
    path = ROOT.parent / "shared" / "reference" / "gpt.csv"
    if not path.is_file():
        pytest.skip(f"the article's published measurements are not at {path}")
    findings = architecture_findings(table_of(dict.fromkeys(NAMES, DENSE)), SETTINGS, read_gpt(path))
    series = findings.charts[0].series[-1]
    assert series.name == "GPT, published"
    assert "the bands are narrow: they fit only 1 of the article's own 7 GPT models" in findings.sentences[0]
    assert "lie in all three bands: gpt-j-6B." in findings.afterwards[1]
    assert all(point.low <= point.value <= point.high for point in series.y)
    assert series.y[-1].value < 0.25


# ---- The study.


def test_variants_of_each_model_and_what_is_announced() -> None:
    study = ArchitecturesStudy(models=("minilm", "iglm"), device="cpu")
    names = [unit.name for unit in study.units()]
    assert names[:6] == [f"iglm {v}" for v in ("pretrained", "shuffled", "twin", "quantised", "published", "reduced")]
    assert names[6:] == [f"minilm {v}" for v in ("pretrained", "shuffled", "twin", "quantised", "reduced")]
    assert any("non-commercial" in line for line in study.announce())
    assert study.quick().blocks == 4
    assert study.folder_name() == "architectures-minilm-iglm"
    assert ArchitecturesStudy().folder_name() == "architectures"


def test_iglm_is_measured_on_its_samples_and_the_published_domains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(antibodies, "_LONGEST_SAMPLE", 12)
    study = ArchitecturesStudy(models=("iglm",), tokens=500, blocks=4, device="cpu")
    assert study.settings()["text_fingerprint"] is None  # no text is read
    runner = Runner(study, tmp_path / "run")
    runner.execute()
    frame = runner.frame()
    assert set(frame["variant"]) == {"pretrained", "shuffled", "twin", "quantised", "published", "reduced"}
    twins = frame[frame["variant"] == "twin"].groupby("seed")["block"].unique()
    assert twins.index.tolist() == [0, 1, 2, 3]
    assert frame[frame["variant"] == "published"]["tokens"].unique().tolist() == [123, 110, 124]
    assert frame["activation_ratio"].dropna().between(0, 1).all()
    twin = frame[frame["variant"] == "twin"]
    assert twin["active"].sum() / twin["outputs"].sum() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"models": ()}, "no model was given"),
        ({"models": ("iglm", "iglm")}, "'iglm' is given twice"),
        ({"tokens": 100, "blocks": 40}, "100 tokens in 40 blocks"),
        ({"blocks": 1}, "can't read 20,000 tokens in 1 block; give at least 2 blocks"),
        ({"tokens": 1}, "can't read 1 token in 40 blocks"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ActratioError, match=words):
        ArchitecturesStudy(**options)


def test_a_missing_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ActratioError, match=r"tinyshakespeare\.txt is not in the data folder .*; pass the folder with --data-dir"
    ):
        ArchitecturesStudy(models=("minilm",), data_dir=tmp_path).settings()


def test_bands_are_the_articles() -> None:
    assert BANDS == ((0.03, 0.05), (0.12, 0.16), (-0.2, 0.2))
