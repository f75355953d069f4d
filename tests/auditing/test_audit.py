"""Audits of models whose answer is known. What is tested is what is tried and decided, so times are set."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MixtralConfig, MixtralForCausalLM

import actratio
from actratio.auditing import Work, audit, bench, trials
from actratio.auditing.bench import Bench
from actratio.auditing.findings import audit_findings, ways_tables
from actratio.auditing.results import Gain, Way
from actratio.auditing.trials import unknown_figure_reason, works_of
from actratio.auditing.ways import Trial, spread
from actratio.counting.measurement import Measurement
from actratio.errors import DataError, SiteError
from actratio.sites.mlps import resolve
from actratio.sparse import Speed, SpeedPrediction, conversion, load_sparse, plans
from actratio.sparse.active import measure_active, nonzero_ratio
from actratio.sparse.autotune import LayerTimer
from actratio.sparse.choices import LossSearch, at_cett, losses_with
from actratio.sparse.contention import CPUWait
from actratio.sparse.converted import Converted
from actratio.sparse.curves import dropping_curves
from actratio.sparse.linears import FastLinear
from actratio.sparse.text import next_token_loss
from actratio.sparse.thresholds import LayerThresholds, per_neuron
from actratio.sparse.timing import Machine, PassTimes
from actratio.statistics.estimate import Estimate
from tests.auditing.speedups import set_speedups
from tests.sparse.calibration_text import token_batches

TinyGPT2 = Callable[..., Any]


@pytest.fixture(autouse=True)
def _set_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with any converted layer takes half the time; layers and predictions aren't timed (an example in the docs is)."""

    def halved(dense: nn.Module, other: nn.Module, batch: int, **options: Any) -> Estimate:
        is_faster = any(isinstance(module, Converted) for module in other.modules())
        return Estimate(2.0, 1.9, 2.1) if is_faster else Estimate(1.0, 0.99, 1.01)

    def predicted(
        model: nn.Module, measurement: Measurement, batches: list[int], *, prompt: int, **options: Any
    ) -> SpeedPrediction:
        expected = 2.0 if options["weights"] is None else 3.0
        speeds = [Speed(batch, [], 1.0, 2.0, 2.0, expected, "", prompt=prompt) for batch in batches]
        return SpeedPrediction(Machine(1.0, 1.0), speeds)

    monkeypatch.setattr(LayerTimer, "speeds", lambda self, draws: [2.0] * (len(self.forms) - 1))
    set_speedups(monkeypatch, halved)
    monkeypatch.setattr(bench, "predict_speed", predicted)
    monkeypatch.setattr(CPUWait, "share", lambda self: 0.0)


def test_model_with_zeros(tiny_gpt2: TinyGPT2) -> None:
    model = tiny_gpt2("relu")
    found = audit(model, token_batches(12), works=[Work(1), Work(1, prompt=8)], name="tiny")
    assert (found.model, found.tokens) == ("tiny", 6 * 2 * 12)
    assert plans(model) == []
    names = [way.name for way in found.ways]
    always = {
        "skip zeros",
        "thresholds (1% loss)",
        "8-bit weights, skip zeros",
        "8-bit, thresholds (1% loss)",
    }
    assert always <= set(names) <= {*always, "thresholds (0.5% loss)"}  # unless these are the same thresholds
    measured = [way for way in found.ways if way.main.measured is not None]
    assert [way.name for way in measured] == names[:2]  # those that were tried come first
    assert [way.options for way in found.ways if "0.5" in way.options] in ([], ["--target loss=0.5 --dense"])
    assert sum(way.exact for way in measured) == 1
    assert all((way.loss is None) == way.exact for way in measured)
    assert all([gain.work for gain in way.gains] == [Work(1), Work(1, prompt=8)] for way in found.ways)
    assert found.decision.way is not None
    assert found.decision.way.exact  # as fast as the others here
    assert set(found.figures) == {"useful_ratio", "layer_useful_ratio", "nonzero_ratio", "dead_ratio", "speedup"}
    assert 0 < found.figures["nonzero_ratio"] < 0.9
    assert found.useful_ratio is not None
    assert found.useful_ratio <= found.figures["nonzero_ratio"]
    assert all(layer.function == "ReLU" and layer.width == model.config.n_inner for layer in found.layers)
    assert len(found.rows()) == 2 * len(found.ways)


def test_share_that_is_computed_and_the_layers(tiny_gpt2: TinyGPT2) -> None:
    model, batches = tiny_gpt2("relu"), token_batches(12)
    found = audit(model, batches)
    counted = actratio.measure(model, batches[:6], criteria=["nonzero"])
    ratios = [float(row.counts.activation_ratio) for row in counted]
    assert [layer.nonzero for layer in found.layers] == pytest.approx(ratios)
    assert [layer.dead for layer in found.layers] == [int(row.counts.dead) for row in counted]
    exact = next(way for way in found.ways if way.exact)
    assert exact.computed == pytest.approx(sum(ratios) / len(ratios))


def test_model_without_zeros(tiny_gpt2: TinyGPT2) -> None:
    found = audit(tiny_gpt2("gelu_new"), token_batches(8))
    assert {way.name for way in found.ways if "zeros" in way.name} == set()
    (exact,) = [way for way in found.ways if way.exact]
    assert (exact.name, exact.options, exact.computed) == ("faster dense products", "", 1.0)
    assert found.figures["nonzero_ratio"] > 0.99


def test_a_way_that_changes_nothing_is_not_timed(tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LayerTimer, "speeds", lambda self, draws: [0.5] * (len(self.forms) - 1))
    monkeypatch.setattr("actratio.sparse.autotune.cached_speeds", lambda key: None)
    monkeypatch.setattr("actratio.sparse.autotune.keep_speeds", lambda key, speeds: None)
    set_speedups(monkeypatch, lambda *_, **__: pytest.fail("it compares a model with itself"))
    found = audit(tiny_gpt2("relu"), token_batches(7))
    (way,) = found.ways
    assert (way.main.expected, way.main.measured) == (1.0, Estimate(1.0, 1.0, 1.0))
    assert found.decision.way is None
    assert "which would change nothing here." in found.decision.sentences[0]
    assert "nothing changes" in ways_tables(found)[0].rows[0]


def test_short_text_leaves_out_what_changes_the_outputs(tiny_gpt2: TinyGPT2) -> None:
    found = audit(tiny_gpt2("relu"), token_batches(7))
    assert [way.exact for way in found.ways] == [True]
    assert (found.useful_ratio, found.loss) == (None, None)
    assert "useful_ratio" not in found.figures
    assert "the text makes too few batches to check the loss: 7 of 8" in found.notes[0]


@pytest.mark.parametrize("target", [0.1, 5.0])
def test_thresholds_for_more_loss_than_the_target_are_predicted_and_not_tried(
    target: float, tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Different targets give different thresholds here."""

    def at(self: LossSearch, percent: float, steps: int) -> LayerThresholds:
        return at_cett(self._curves, percent / 10)

    monkeypatch.setattr(LossSearch, "at", at)
    monkeypatch.setattr("actratio.auditing.ways.int8_unsupported_reason", lambda device: "not here")
    found = audit(tiny_gpt2("gelu_new"), token_batches(8), target=target)
    ways = {float(way.options.split()[1].removeprefix("loss=")): way for way in found.ways if "loss=" in way.options}
    assert set(ways) == {target, 0.5, 1.0, 2.0}
    assert all(way.main.expected == 2.0 for way in ways.values())
    (tried,) = (percent for percent, way in ways.items() if way.main.measured is not None)
    assert tried <= target


def test_what_is_expected_is_predicted_again_while_it_is_measured(
    tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way is predicted five times more, and the middle one counts; other work is, once more."""
    predict, expected = bench.predict_speed, 2.0  # as the fixture sets it

    def more_and_more(*arguments: Any, **options: Any) -> SpeedPrediction:
        nonlocal expected
        expected += 0.01
        found = predict(*arguments, **options)
        return SpeedPrediction(found.machine, [dataclasses.replace(speed, expected=expected) for speed in found.speeds])

    monkeypatch.setattr(bench, "predict_speed", more_and_more)
    found = audit(tiny_gpt2("relu"), token_batches(12), works=[Work(1), Work(1, prompt=8), Work(4)])
    measured = [way for way in found.ways if way.main.measured is not None]
    others = [way for way in found.ways if way.main.measured is None]
    assert measured
    assert others
    first = max(gain.expected for way in others for gain in way.gains)
    assert all(way.main.expected > first for way in measured)
    assert all(way.gains[1].expected == pytest.approx(way.main.expected + 0.01) for way in measured)
    later = [way.main.expected for way in measured]
    assert [after - before for before, after in pairwise(later)] == pytest.approx([0.06] * (len(later) - 1))
    assert expected == pytest.approx(later[-1] + 0.03)


def test_next_best_ways_are_tried_until_one_qualifies(tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    """All thresholds are expected to be equally fast; the loss of the first two is too high, and that of the third isn't."""
    speedups = iter([Estimate(1.0, 0.99, 1.01), *[Estimate(2.0, 1.9, 2.1)] * 4])  # of the exact way, then of thresholds
    losses = iter([Estimate(9.0, 8.9, 9.1), Estimate(8.0, 7.9, 8.1), Estimate(3.0, 2.9, 3.1), Estimate(2.0, 1.9, 2.1)])
    monkeypatch.setattr(LossSearch, "at", lambda self, percent, steps: at_cett(self._curves, percent / 10))
    monkeypatch.setattr(bench, "loss_increase", lambda *_: next(losses))
    set_speedups(monkeypatch, lambda *_, **__: next(speedups))
    monkeypatch.setattr("actratio.auditing.ways.int8_unsupported_reason", lambda device: "not here")
    found = audit(tiny_gpt2("gelu_new"), token_batches(8), target=5.0)
    assert [way.loss.value for way in found.ways if way.loss is not None] == [9.0, 8.0, 3.0]
    assert found.decision.way is not None
    assert found.decision.way.loss == Estimate(3.0, 2.9, 3.1)


def test_ways_are_tried_as_long_as_they_promise_more(tiny_gpt2: TinyGPT2) -> None:
    """What is expected and measured, and the loss, of each way."""
    ways = {
        "exact": (1.3, 1.4, 0.0),
        "last": (1.9, math.nan, math.nan),  # not 1.1 times as fast as "good" was expected to be
        "good": (2.0, 1.6, 0.5),
        "costly": (2.65, 2.5, 3.0),  # with thresholds, so it isn't tried first
        "disappointing": (2.6, 1.0, 0.5),
        "too costly": (9.0, math.nan, math.nan),
    }
    percents = {"costly": 1.0, "too costly": 2.0}

    class Told:
        def predicted(self, trial: Trial) -> Way:
            return Way(trial.name, "", trial.exact, 1.0, (Gain(Work(1), ways[trial.name][0], ""),))

        def tried(self, trial: Trial, way: Way) -> Way:
            _, measured, loss = ways[trial.name]
            measured = Estimate(measured, measured, measured)
            gain = dataclasses.replace(way.main, measured=measured, before=way.main.expected)
            return dataclasses.replace(way, gains=(gain,), loss=Estimate(loss, loss, loss))

    measurement = measure_active(tiny_gpt2("relu"), token_batches(1))
    all_trials = [Trial(name, "", name == "exact", measurement, percent=percents.get(name, 0.0)) for name in ways]
    found, order = trials._tried(Told(), all_trials, 1.0, lambda stage: None)  # type: ignore[arg-type]
    assert [found[place].name for place in order] == ["exact", "disappointing", "costly", "good"]


def test_thresholds_for_more_loss_compute_no_more(tiny_gpt2: TinyGPT2) -> None:
    found = audit(tiny_gpt2("gelu_new"), token_batches(12))
    ways = {
        way.options: way.computed for way in found.ways if way.options.endswith("--dense") and "loss=" in way.options
    }
    shares = [
        ways[f"--target loss={percent} --dense"]
        for percent in ("0.5", "1", "2")
        if f"--target loss={percent} --dense" in ways
    ]
    assert shares == sorted(shares, reverse=True)
    assert found.useful_ratio == ways["--target loss=1 --dense"]


@pytest.mark.parametrize("is_tried", [True, False])
def test_the_cost_of_the_useful_ratio_is_measured_on_text_that_was_not_used(
    is_tried: bool, tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It's the loss of the way with these thresholds, whether this way is tried or not."""
    monkeypatch.setattr("actratio.auditing.ways.int8_unsupported_reason", lambda device: "not here")
    if not is_tried:
        monkeypatch.setattr(trials, "_to_try", lambda *_: ([], []))
    model, batches = tiny_gpt2("gelu_new"), token_batches(12)
    for block in model.transformer.h:
        block.mlp.c_proj.weight.data *= 10  # so that the loss depends on the MLPs
    found = audit(model, batches)
    (way,) = [way for way in found.ways if way.options == "--target loss=1 --dense"]
    assert (way.main.measured is not None) == is_tried
    assert found.useful_loss is not None
    assert found.useful_loss.low < found.useful_loss.value < found.useful_loss.high
    assert way.loss == found.useful_loss
    calibration = actratio.calibrate(model, batches, loss=1)
    assert found.useful_loss.value == pytest.approx(calibration.loss_increase.value, abs=1e-3)


def test_a_useful_ratio_that_costs_too_much_on_unused_text_says_so(tiny_gpt2: TinyGPT2) -> None:
    found = audit(tiny_gpt2("gelu_new"), token_batches(12))
    for increase, end in (
        (Estimate(1.4, 1.1, 1.7), "which is more than the 1%"),
        (Estimate(0.2, 0.1, 0.3), "+0.30%."),
    ):
        sentences = audit_findings(dataclasses.replace(found, useful_loss=increase), {}).sentences
        (sentence,) = [sentence for sentence in sentences if sentence.startswith("The useful ratio of the model is")]
        assert end in sentence.partition("On text that was not used, it changes by")[2]


@pytest.mark.parametrize(("function", "has_few"), [("gelu_new", True), ("relu", False)])
def test_a_model_without_zeros_is_told_what_it_can_do(function: str, has_few: bool, tiny_gpt2: TinyGPT2) -> None:
    found = audit(tiny_gpt2(function), token_batches(12))
    (sentence,) = [sentence for sentence in audit_findings(found, {}).sentences if "exactly zero" in sentence]
    assert ("actratio relufy can make zeros" in sentence) == has_few


def test_why_there_is_no_useful_ratio_is_known_before_anything_is_measured(tiny_gpt2: TinyGPT2) -> None:
    model = tiny_gpt2("gelu_new")
    assert unknown_figure_reason("useful_ratio", model, token_batches(8)) is None
    assert unknown_figure_reason("speedup", model, token_batches(7)) is None
    assert unknown_figure_reason("useful_ratio", model, token_batches(7)) == (
        "the text makes too few batches to check the loss: 7 of 8, each of 2 sequences of 12 tokens; give more than 168 tokens "
        "(--text, --limit-tokens)"
    )
    reason = unknown_figure_reason("useful_ratio", model.transformer, token_batches(8))
    assert reason is not None
    assert reason.startswith("the loss cannot be measured (GPT2Model does not predict the next tokens of 12 (")
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=100,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    mixture = MixtralForCausalLM(config)
    assert unknown_figure_reason("useful_ratio", mixture, token_batches(8)) == (
        "experts share one weight, which is not supported"
    )
    assert unknown_figure_reason("layer_useful_ratio", mixture, token_batches(8)) == "it isn't counted for experts"
    assert unknown_figure_reason("layer_useful_ratio", model, token_batches(8)) is None


def test_speeds_are_timed_on_text_that_was_not_used(tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    """On random tokens, other neurons may be zero than those that are counted."""
    batches, read = token_batches(12, padded=True), []

    def speedup(dense: nn.Module, other: nn.Module, batch: int, *, prompt: int, text: Tensor) -> Estimate:
        read.append(text)
        return Estimate(2.0, 1.9, 2.1)

    set_speedups(monkeypatch, speedup)
    audit(tiny_gpt2("relu"), batches)
    expected = torch.cat([batch["input_ids"][batch["attention_mask"].bool()] for batch in batches[9:]])
    assert read
    assert all(torch.equal(text, expected) for text in read)


def test_a_busy_machine_cannot_tell(tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CPUWait, "share", lambda self: 0.33)
    set_speedups(monkeypatch, lambda *_, **__: Estimate(0.6, 0.3, 0.9))
    found = audit(tiny_gpt2("relu"), token_batches(12))
    assert (found.decision.way, found.waited) == (None, 0.33)
    assert "speedup" not in found.figures  # "1" would be a claim
    (sentence,) = found.decision.sentences
    assert sentence.startswith(
        "Keep it dense for now: this machine is too busy to tell. While speeds were timed, this process waited for a CPU for 33% of"
    )


def _plant_dead(model: Any, share: float) -> int:
    """Let neurons of each MLP never fire, and return how many, over all layers."""
    dead = int(share * model.config.n_inner)
    for block in model.transformer.h:
        block.mlp.c_fc.bias.data[:dead] = -100.0
    return dead * len(model.transformer.h)


def test_neurons_that_never_fire_can_be_removed(tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_gpt2("relu")
    dead = _plant_dead(model, 0.25)

    def twice_if_smaller(dense: nn.Module, other: nn.Module, batch: int, **options: Any) -> Estimate:
        sizes = [sum(parameter.numel() for parameter in of.parameters()) for of in (dense, other)]
        return Estimate(2.0, 1.9, 2.1) if sizes[1] < sizes[0] else Estimate(1.0, 0.99, 1.01)

    set_speedups(monkeypatch, twice_if_smaller)
    monkeypatch.setattr(trials.Ways, "_curves", lambda self: [])  # the two best ways are tried
    monkeypatch.setattr("actratio.auditing.ways.int8_unsupported_reason", lambda device: "not here")
    monkeypatch.setattr(bench.ModelTimes, "forward_pass", lambda *_: PassTimes(1.0, _eighths(model), 0.0))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    found = audit(model, token_batches(12))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    (way,) = [way for way in found.ways if way.command == "prune"]
    removed = int(way.name.split()[1])
    assert dead <= removed <= found.figures["dead_ratio"] * 2 * model.config.n_inner  # all layers keep the same width
    assert way.computed == 1 - removed / (2 * model.config.n_inner)
    assert way.main.expected == pytest.approx(1 / (1 - (1 - way.computed) * 4 / 8))  # four of the layers are in MLPs
    assert (way.options, way.exact) == ("", False)
    assert way.loss is not None
    assert abs(way.loss.value) < 1e-3
    assert found.decision.way == way


def _eighths(model: nn.Module) -> dict[nn.Module, float]:
    return {module: 1 / 8 for module in model.modules() if type(module).__name__ == "Conv1D"}


@pytest.mark.parametrize(("share", "is_tried"), [(0.04, False), (0.06, True)])
def test_few_neurons_that_never_fire_are_left(share: float, is_tried: bool, tiny_gpt2: TinyGPT2) -> None:
    model = tiny_gpt2("relu", n_inner=100)
    for block in model.transformer.h:  # all others fire on every token
        block.mlp.c_fc.weight.data.zero_()
        block.mlp.c_fc.bias.data.fill_(1.0)
    _plant_dead(model, share)
    found = audit(model, token_batches(12))
    assert found.figures["dead_ratio"] == share
    assert any(way.command == "prune" for way in found.ways) == is_tried
    assert not any("never fired" in note for note in found.notes)


def test_why_neurons_that_never_fired_stay_is_noted(tiny_gpt2: TinyGPT2) -> None:
    model = tiny_gpt2("relu")
    _plant_dead(model, 0.25)
    model.transformer.h[1].mlp.c_fc.bias.data.fill_(1.0)  # the other layer of the same width needs all
    found = audit(model, token_batches(12))
    assert not any(way.command == "prune" for way in found.ways)
    (note,) = [note for note in found.notes if "never fired" in note]
    assert "can't be removed: the configuration has one width" in note


def test_8_bit_weights_are_left_out_if_no_layer_is_large(tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actratio.sparse.conversion._SMALLEST", 1 << 30)
    found = audit(tiny_gpt2("relu"), token_batches(8))
    assert not any("8-bit" in way.name for way in found.ways)
    assert "8-bit weights were not tried: no linear layer is large enough." in found.notes


def test_audit_without_work_or_text_is_refused(tiny_gpt2: TinyGPT2) -> None:
    with pytest.raises(SiteError, match="no work was given"):
        audit(tiny_gpt2("relu"), token_batches(8), works=[])
    with pytest.raises(DataError, match=r"the text makes too few batches \(0 of 1\)"):
        audit(tiny_gpt2("relu"), [])


def test_works_of_models(tiny_gpt2: TinyGPT2) -> None:
    assert works_of(tiny_gpt2(), [1, 4], 128) == [Work(1), Work(4), Work(1, 128)]
    assert works_of(tiny_gpt2(), [1], 0) == [Work(1)]
    assert works_of(nn.Linear(2, 2), [1, 4], 0) == [Work(1, 128)]


@pytest.mark.usefixtures("blank_figures")
def test_audit_command(
    tmp_path: Path,
    text: Path,
    minilm: Path,
    tiny_gpt2: TinyGPT2,
    run_command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_gpt2("relu").save_pretrained(tmp_path / "relu")
    command = ["audit", tmp_path / "relu", "--tokenizer", minilm, "--text", text, "--length", 16, "--prompt", 8]
    out = ["--batch", "1", "--out", tmp_path / "run"]
    assert run_command(*command, *out, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "run" / "audit.json").read_text())
    shown = ("figures", "loss", "useful_loss", "command", "verdicts")
    assert {key: written[key] for key in shown} == {key: printed[key] for key in shown}
    assert written["loss"] > 0
    assert (
        f"On text that was not used, it changes by {written['useful_loss']['value']:+z.2f}%"
        in (tmp_path / "run" / "report.html").read_text()
    )
    assert printed["verdicts"][0].startswith("Do this: ")
    assert printed["command"] == (
        f"actratio sparsify {tmp_path / 'relu'} --target zeros --dense --text {text} --tokenizer {minilm} --length 16 --limit-tokens 8192 --batch 1"
    )
    _, *recommended = printed["command"].split()
    assert run_command(*recommended, "--out", tmp_path / "fast") == 0
    capsys.readouterr()
    fast = load_sparse(tmp_path / "fast", device="cpu")
    assert any(isinstance(module, FastLinear) for module in fast.modules())  # as it was written
    page = (tmp_path / "run" / "report.html").read_text()
    assert printed["verdicts"][0].split(".")[0] in page
    assert run_command(*command, *out) == 2
    assert "holds an earlier result" in " ".join(capsys.readouterr().err.split())
    assert run_command(*command, *out, "--force", "--fail-if", "speedup>1.5") == 1
    assert "speedup>1.5 holds; speedup is 2" in " ".join(capsys.readouterr().err.split())
    assert run_command(*command, *out, "--force", "--fail-if", "speedup<1.5") == 0
    assert "Do this: " in " ".join(capsys.readouterr().out.split())
    without = [part for part in command if part not in ("--text", text)]
    assert run_command(*without, *out, "--force", "--fail-if", "useful_ratio<0.3") == 2
    assert "useful_ratio can't be measured without a text" in " ".join(capsys.readouterr().err.split())
    assert run_command("audit", minilm, "--text", text, *out, "--force", "--fail-if", "useful_ratio<0.3") == 2
    assert "cannot be checked, because the loss cannot be measured (BertModel does not predict the next" in " ".join(
        capsys.readouterr().err.split()
    )
    assert run_command(*command, *out, "--force", "--fail-if", "useful_ratio<0.3", "--limit-tokens", 200) == 2
    assert "too few batches to check the loss" in " ".join(capsys.readouterr().err.split())
    assert run_command(*command, *out, "--force", "--fail-if", "speedup=1.5") == 2
    assert "is not a condition" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("tokens", "taken"),
    [
        (12, [[], [0], [2]]),
        (1, [[], [], [2]]),
        (18, [[1], [], [0, 2]]),
        (36, [[0, 1], [0], [0, 1, 2]]),
        (99, [[0, 1], [0], [0, 1, 2]]),
    ],
)
def test_sequences_are_spread_over_a_text(tokens: int, taken: list[list[int]]) -> None:
    numbers = iter(range(6))
    batches = [{"input_ids": torch.tensor([[next(numbers)] * 6 for _ in range(size)])} for size in (2, 1, 3)]
    expected = [{"input_ids": batch["input_ids"][rows]} for batch, rows in zip(batches, taken, strict=True) if rows]
    found = spread(batches, tokens)
    assert len(found) == len(expected)
    for some, other in zip(found, expected, strict=True):
        assert torch.equal(some["input_ids"], other["input_ids"])


def test_sequences_are_spread_with_what_belongs_to_them() -> None:
    """Padding doesn't count, and what isn't of a sequence stays as it is."""
    mask, own = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]), {"three": torch.arange(3), "one": torch.tensor(7)}
    batch = {"input_ids": torch.arange(8).view(2, 4), "attention_mask": mask, **own}
    (found,) = spread([batch], 3)
    assert {name: value.tolist() for name, value in found.items()} == {
        "input_ids": [[4, 5, 6, 7]],
        "attention_mask": [[1, 1, 1, 1]],
        "three": [0, 1, 2],
        "one": 7,
    }
    assert [len(some["input_ids"]) for some in spread([batch], 4)] == [2]  # 3 tokens on average
    empty = {"input_ids": torch.empty(0, 4, dtype=torch.long)}
    assert spread([empty], 3) == []


def test_works_are_measured_in_several_spells(tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding is predicted before or after it's measured, in turns, a prompt in the middle one; later spells have as many rounds as the first."""
    happened: list[Any] = []

    class Race:
        estimate = Estimate(1.5, 1.4, 1.6)

        def __init__(self, prompt: int) -> None:
            self.prompt = prompt

        @classmethod
        def of_models(cls, dense: nn.Module, other: nn.Module, batch: int, *, prompt: int, text: Tensor) -> Race:
            return cls(prompt)

        def run(self, seconds: float, least: int, most: int) -> int:
            assert is_counted
            happened.append((self.prompt, least, most))
            return 7

    predict = bench.predict_speed

    def predicted(*arguments: Any, prompt: int, **options: Any) -> Any:
        assert is_counted
        happened.append(prompt)
        result = predict(*arguments, prompt=prompt, **options)
        speeds = [dataclasses.replace(speed, expected=float(len(happened))) for speed in result.speeds]
        return dataclasses.replace(result, speeds=speeds)

    monkeypatch.setattr(bench, "Race", Race)
    monkeypatch.setattr(bench, "predict_speed", predicted)
    model, batches, works = tiny_gpt2("relu"), token_batches(4), [Work(1), Work(1, 8)]
    is_counted = False

    class Wait(CPUWait):
        def __enter__(self) -> CPUWait:
            nonlocal is_counted
            is_counted = True
            return self

        def __exit__(self, *_: object) -> None:
            nonlocal is_counted
            is_counted = False

    monkeypatch.setattr(bench, "CPUWait", Wait)
    tested = Bench(model, resolve(model), works, batches, has_loss=True)
    trial = Trial("8-bit weights", "", False, measure_active(model, batches), None, "int8")
    monkeypatch.setattr(conversion, "_SMALLEST", 1)
    way = tested.predicted(trial)
    assert happened == [0, 8]
    happened.clear()
    found = tested.tried(trial, way)
    first, later = [(0, 3, 33), (8, 3, 33)], [(0, 7, 7), (8, 7, 7)]
    decode, prompt = later
    assert happened == [0, *first, decode, 0, prompt, 0, 8, *later, decode, 0, prompt, 0, *later]
    assert [gain.expected for gain in found.gains] == [7.0, 8.0]  # the middle one of five, and the only one
    assert [gain.before for gain in found.gains] == [gain.expected for gain in way.gains]
    assert all(gain.measured == Race.estimate for gain in found.gains)


@pytest.mark.parametrize("function", ["gelu_new", "relu"])
def test_useful_ratio_is_nearly_the_smallest_of_all_pairs_of_shares(function: str, tiny_gpt2: TinyGPT2) -> None:
    """All pairs of shares of two MLPs are tried, on text that this model wrote, so that its MLPs matter."""
    model = tiny_gpt2(function)
    model.transformer.ln_f.weight.data *= 20
    for block in model.transformer.h:
        block.mlp.c_proj.weight.data *= 10
    starts = torch.arange(48)[:, None]
    written = model.generate(starts, max_length=12, do_sample=False, pad_token_id=0)
    batches = [{"input_ids": ids} for ids in written.split(4)]
    found = audit(model, batches)
    calibrating, choosing = batches[:6], batches[6:9]
    curves, dense = dropping_curves(model, resolve(model), calibrating), next_token_loss(model, choosing)
    best = 1.0
    for pair in product([place / 10 for place in range(11)], repeat=2):
        thresholds = {curve.mlp.site.name: curve.threshold_at(share) for curve, share in zip(curves, pair, strict=True)}
        if losses_with(model, curves, thresholds, choosing).mean <= dense * 1.01:
            limits = {curve.mlp.site.name: per_neuron(thresholds[curve.mlp.site.name], curve.norms) for curve in curves}
            best = min(best, nonzero_ratio(measure_active(model, calibrating, limits)))
    assert 0 < best < 1
    assert found.useful_ratio is not None
    assert found.useful_ratio <= best + 0.1
