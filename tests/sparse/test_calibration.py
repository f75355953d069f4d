"""Thresholds: the error and the loss that they cost, how they are chosen, and what calibrate returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import actratio
from actratio import ActratioError
from actratio.counting.criteria import Thresholds
from actratio.sites.mlps import resolve
from actratio.sparse import plans
from actratio.sparse.active import measure_active
from actratio.sparse.calibration import calibrate, compare_by_sign
from actratio.sparse.choices import LossSearch, at_ratio, losses_with
from actratio.sparse.crossover import ALWAYS, NEVER
from actratio.sparse.curves import SHARES, Curve, dropping_curves
from actratio.sparse.masking import masked
from actratio.sparse.text import next_token_loss
from actratio.sparse.thresholds import Target, missed
from actratio.statistics.estimate import Estimate
from tests.sparse.calibration_text import hidden_of, token_batches

TinyGPT2 = Callable[..., Any]


def curves_of(model: nn.Module, batches: list[dict[str, Tensor]], by: str = "contribution") -> list[Curve]:
    return dropping_curves(model, resolve(model), batches, by)


# ---- Curves.


@pytest.mark.parametrize("by", ["contribution", "magnitude"])
@pytest.mark.parametrize("padded", [False, True])
def test_cett_is_the_error_of_the_dropped_outputs(by: str, padded: bool, tiny_gpt2: TinyGPT2) -> None:
    model, batches = tiny_gpt2(), token_batches(1, padded)
    hidden = hidden_of(model, batches[0])
    for curve, h, block in zip(curves_of(model, batches, by), hidden, model.transformer.h, strict=True):
        rows = block.mlp.c_proj.weight.detach()  # (width, features)
        compared = h.abs() * (rows.norm(dim=1) if by == "contribution" else 1)
        for share in (0.25, 0.9):
            place = SHARES.index(share)
            dropped = compared <= curve.thresholds[place]
            assert float(dropped.float().mean()) == pytest.approx(share, abs=0.01)
            errors = (torch.where(dropped, h, 0) @ rows).norm(dim=1) / (h @ rows).norm(dim=1)
            assert curve.cett[place] == pytest.approx(float(errors.mean()), rel=1e-4)


def test_thresholds_drop_the_share_asked_for(tiny_gpt2: TinyGPT2) -> None:
    (curve, _) = curves_of(tiny_gpt2(), token_batches(1))
    for share in (0.0, 0.123, 1.0):
        assert float((curve.ordered <= curve.threshold_at(share)).float().mean()) == pytest.approx(share, abs=0.001)


# ---- Targets.


@pytest.mark.parametrize("text", ["loss=1", "cett=0.2", "ratio=.3"])
def test_target_is_read_from_text(text: str) -> None:
    target = Target.parse(text)
    assert target.as_option() == {text.split("=")[0]: float(text.split("=")[1])}


@pytest.mark.parametrize("text", ["", "speed=2", "ratio=1.5", "ratio=0", "cett=0", "loss", "loss=-1"])
def test_target_outside_its_range_is_refused(text: str) -> None:
    with pytest.raises(ActratioError, match="there is no target"):
        Target.parse(text)


# ---- Losses.


def test_next_token_loss_is_that_of_transformers(tiny_gpt2: TinyGPT2) -> None:
    model = tiny_gpt2()
    (batch,) = token_batches(1)
    with torch.no_grad():
        expected = float(model(**batch, labels=batch["input_ids"]).loss)
    assert next_token_loss(model, [batch]) == pytest.approx(expected, rel=1e-5)
    (padded,) = token_batches(1, padded=True)
    labels = padded["input_ids"].masked_fill(padded["attention_mask"] == 0, -100)
    with torch.no_grad():
        expected = float(model(**padded, labels=labels).loss)
    assert next_token_loss(model, [padded]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masking_hook_computes_what_the_sparse_model_computes(dtype: torch.dtype, tiny_gpt2: TinyGPT2) -> None:
    model = tiny_gpt2().to(dtype)
    (batch,) = token_batches(1)
    mlps = resolve(model)
    thresholds = {mlp.site.name: torch.linspace(0, 0.02, 48) for mlp in mlps}
    with torch.no_grad():
        dense = model(**batch).logits
        with masked(mlps, thresholds):
            tried = model(**batch).logits
        assert torch.equal(model(**batch).logits, dense)
        actratio.sparsify(model, thresholds=thresholds, crossover=NEVER)
        torch.testing.assert_close(tried, model(**batch).logits)
    assert not torch.equal(tried, dense)


def test_dropping_by_sign_drops_outputs_that_are_not_above_zero(tiny_gpt2: TinyGPT2) -> None:
    model, batches = tiny_gpt2(), token_batches()
    sign = compare_by_sign(model, curves_of(model, batches), batches)
    assert sign is not None
    hidden = [h for batch in batches for h in hidden_of(model, batch)]
    assert sign.dropped == pytest.approx(float(torch.cat(hidden).le(0).float().mean()), abs=0.01)
    assert math.isfinite(sign.loss_by_sign)
    assert math.isfinite(sign.loss_by_contribution)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


# ---- Counts above thresholds.


def test_counts_above_thresholds_leave_out_padding(tiny_gpt2: TinyGPT2) -> None:
    model, batches = tiny_gpt2(), token_batches(1, padded=True)
    limits = {f"transformer.h.{number}.mlp": torch.full((48,), 0.001) for number in range(2)}
    measurement = measure_active(model, batches, limits)
    with masked(resolve(model), limits):
        hidden = hidden_of(model, batches[0])
    for row, h in zip(measurement, hidden, strict=True):
        assert row.criterion == str(Thresholds(limits))
        assert row.counts.tokens == 19
        assert row.counts.active.tolist() == (h.abs() > 0.001).sum(0).tolist()


def test_counts_above_thresholds_have_unions(tiny_gpt2: TinyGPT2) -> None:
    model, batches = tiny_gpt2(), token_batches(1)
    limits = at_ratio(curves_of(model, batches), 0.3).by_neuron(resolve(model))
    with masked(resolve(model), limits):
        hidden = hidden_of(model, batches[0])
    measurement = measure_active(model, batches, limits)
    assert measurement.settings["sites"] == list(limits)
    assert measurement.settings["tensors"] == ["activation", "hidden"]
    for row, h in zip(measurement, hidden, strict=True):
        above = h.abs() > limits[row.site.name]
        assert row.counts.active.tolist() == above.sum(0).tolist()
        pairs = above.view(2, 6, 2, -1).any(2)
        assert float(row.counts.union_ratio[1]) == pytest.approx(float(pairs.float().mean()))


# ---- The whole.


def test_calibrate_splits_the_text_and_checks_on_the_last_quarter(tiny_gpt2: TinyGPT2) -> None:
    model, batches = tiny_gpt2(), token_batches(9)
    calibration = calibrate(model, iter(batches), loss=0.5)
    curves = curves_of(model, batches[:5])
    expected = LossSearch(model, curves, batches[5:7]).at(0.5)
    assert calibration.target == Target("loss", 0.5)
    assert (calibration.by, calibration.thresholds, calibration.cett) == (
        "contribution",
        expected.thresholds,
        expected.cett,
    )
    assert calibration.loss_dense == next_token_loss(model, batches[7:])
    assert calibration.loss_sparse == losses_with(model, curves, expected.thresholds, batches[7:]).mean
    increase = calibration.loss_increase
    assert increase.value == pytest.approx(100 * (calibration.loss_sparse / calibration.loss_dense - 1))
    assert increase.low < increase.value < increase.high
    assert calibration.sign == compare_by_sign(model, curves, batches[7:])
    assert {row.counts.tokens for row in calibration.measurement} == {5 * 24}
    assert calibration.to_frame()["threshold"].tolist() == list(expected.thresholds.values())
    cost, sign = calibration.verdicts
    assert "the loss on text that was not used goes from" in cost
    assert f"({increase.value:+.2f}%, 95% interval {increase.low:+.2f} to {increase.high:+.2f}%)" in cost
    assert "Dropping every output that is not above zero" in sign
    assert plans(model) == []


def test_sparsify_takes_a_calibration(tiny_gpt2: TinyGPT2) -> None:
    model, batches = tiny_gpt2(), token_batches(4)
    calibration = actratio.calibrate(model, batches, ratio=0.4, by="magnitude")
    mlps = resolve(model)
    with torch.no_grad(), masked(mlps, calibration.by_neuron(mlps)):
        expected = model(**batches[0]).logits
    actratio.sparsify(model, calibration, crossover=ALWAYS)
    assert [plan.kind for plan in plans(model)] == ["down", "down"]
    assert [plan.ratio for plan in plans(model)] == pytest.approx([0.4, 0.4], abs=0.02)
    with torch.no_grad():
        torch.testing.assert_close(model(**batches[0]).logits, expected)
    with pytest.raises(ActratioError, match="a calibration has thresholds already"):
        actratio.sparsify(model, calibration, thresholds={})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "0 targets were given"),
        ({"loss": 1.0, "cett": 0.1}, "2 targets were given"),
        ({"ratio": 2.0}, "there is no target 'ratio=2'"),
        ({"loss": 1.0, "by": "luck"}, "cannot be dropped by 'luck'"),
    ],
)
def test_calibrate_refuses_wrong_options(options: dict[str, Any], message: str, tiny_gpt2: TinyGPT2) -> None:
    with pytest.raises(ActratioError, match=message):
        calibrate(tiny_gpt2(), token_batches(4), **options)


def test_calibrate_refuses_too_little_text(tiny_gpt2: TinyGPT2) -> None:
    with pytest.raises(ActratioError, match=r"makes too few batches \(3 of 4\)"):
        calibrate(tiny_gpt2(), token_batches(3), loss=1.0)


def test_calibrate_refuses_a_model_without_a_kernel(tiny_gpt2: TinyGPT2) -> None:
    with pytest.raises(ActratioError, match=r"can have thresholds: there is no kernel for torch\.float64"):
        calibrate(tiny_gpt2().double(), token_batches(4), loss=1.0)


def test_calibrate_runs_in_evaluation_mode_and_restores_the_mode(tiny_gpt2: TinyGPT2) -> None:
    model, batches = tiny_gpt2(), token_batches(4)
    expected = calibrate(model, batches, ratio=0.4)
    model.train()
    model.transformer.h[0].eval()
    calibration = calibrate(model, batches, ratio=0.4)
    assert calibration.thresholds == expected.thresholds
    assert (calibration.loss_dense, calibration.loss_sparse) == (expected.loss_dense, expected.loss_sparse)
    assert (model.training, model.transformer.h[0].training) == (True, False)


def test_calibrate_builds_no_kv_cache(tiny_gpt2: TinyGPT2) -> None:
    model = tiny_gpt2()
    caches: list[Any] = []
    model.register_forward_hook(lambda _module, _inputs, output: caches.append(output.past_key_values))
    calibrate(model, token_batches(4), loss=1.0)
    assert len(caches) > 10
    assert set(caches) == {None}


def test_sparsify_refuses_a_calibration_in_a_dtype_without_a_kernel(tiny_gpt2: TinyGPT2) -> None:
    model = tiny_gpt2()
    calibration = calibrate(model, token_batches(4), ratio=0.4)
    message = r"transformer\.h\.0\.mlp cannot have thresholds: there is no kernel for torch\.float64 on cpu; use another dtype"
    with pytest.raises(ActratioError, match=message):
        actratio.sparsify(model.double(), calibration)
    assert plans(model) == []
    with pytest.raises(ActratioError, match=message):
        actratio.predict_speed(model, calibration)


def test_comparison_by_sign_leaves_out_padding(tiny_gpt2: TinyGPT2) -> None:
    model, batches = tiny_gpt2(), token_batches(2, padded=True)
    hidden = torch.cat([hidden_of(model, batch)[0] for batch in batches])
    # Only the first layer is compared, because dropping its neurons changes what enters the second one.
    sign = compare_by_sign(model, curves_of(model, batches)[:1], batches)
    assert sign is not None
    assert sign.dropped == pytest.approx(float((hidden <= 0).float().mean()), abs=1e-6)


def test_neuron_at_its_threshold_is_dropped() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2, bias=False))
    for layer in (model[0], model[2]):
        layer.weight.data.copy_(torch.eye(2))
    model[0].bias.data.zero_()
    mlps = resolve(model, actratio.find_sites(model, torch.ones(1, 2)))
    with torch.no_grad(), masked(mlps, {mlps[0].site.name: torch.tensor([0.5, 0.5])}):
        assert model(torch.tensor([[0.5, 0.5000001]])).tolist() == [[0.0, pytest.approx(0.5)]]


def test_loss_that_is_not_a_number_is_infinite(tiny_gpt2: TinyGPT2) -> None:
    model, batches = tiny_gpt2(), token_batches(1)
    curves = curves_of(model, batches)
    thresholds = {curve.mlp.site.name: 0.0 for curve in curves}
    model.transformer.ln_f.bias.data[0] = math.nan
    assert next_token_loss(model, batches) == math.inf
    assert losses_with(model, curves, thresholds, batches).mean == math.inf


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([torch.ones(2, 5, dtype=torch.long)] * 4, r"batch 1 is a Tensor; give mappings"),
        (torch.ones(4, 2, 5, dtype=torch.long), r"batches is a Tensor; give a list of batches"),
        (token_batches(1)[0], r"batches is a dict; give a list of batches"),
        ([*token_batches(3), {"ids": torch.ones(2, 5)}], r"batch 4 has no input_ids; give a tensor of token ids"),
        ([{"input_ids": [[1, 2]]}] * 4, r"batch 1 has input_ids of the type list; give a tensor"),
        ([{"input_ids": torch.ones(5)}] * 4, r"batch 1 has input_ids of the shape \(5,\); give a tensor"),
    ],
)
def test_calibrate_refuses_batches_without_input_ids(batches: Any, message: str, tiny_gpt2: TinyGPT2) -> None:
    with pytest.raises(ActratioError, match=message):
        calibrate(tiny_gpt2(), batches, loss=1.0)


def test_next_token_loss_reports_runtime_errors_except_those_of_missing_memory(
    tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_gpt2()

    def fails(message: str) -> None:
        def forward(*arguments: object, **options: object) -> None:
            raise RuntimeError(message)

        monkeypatch.setattr(model, "forward", forward)

    fails("index 10 is out of bounds for dimension 1 with size 10")
    with pytest.raises(ActratioError, match=r"index 10 is out of bounds .* \(--length\)"):
        next_token_loss(model, token_batches(1))
    fails("CUDA out of memory")
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        next_token_loss(model, token_batches(1))


@pytest.mark.parametrize(
    ("target", "low", "high", "end"),
    [
        (Target("loss", 1.0), 0.2, 0.8, ""),
        (Target("loss", 1.0), 0.5, 1.2, ", which may be more than the 1% that is accepted"),
        (Target("loss", 1.0), 1.1, 1.3, ", which is more than the 1% that is accepted"),
        (Target("ratio", 0.5), 1.1, 1.3, ""),
    ],
)
def test_a_target_that_was_missed_or_may_be_is_said(target: Target, low: float, high: float, end: str) -> None:
    said = missed(target, Estimate((low + high) / 2, low, high))
    assert said == (f"{end} on the text that chose the thresholds" if end else "")


def test_sequences_that_are_too_long_to_count_are_named(tiny_gpt2: Callable[..., Any]) -> None:
    model = tiny_gpt2("relu")
    limits = {site.name: torch.zeros(site.width) for site in actratio.find_sites(model)}
    too_long = {"input_ids": torch.zeros(2, 2 * model.config.n_positions, dtype=torch.long)}
    with pytest.raises(
        ActratioError, match=r"GPT2LMHeadModel failed in batch 2, .* such as shorter sequences \(--length\)"
    ):
        measure_active(model, [*token_batches(1), too_long], limits)
