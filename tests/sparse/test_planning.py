"""What sparsify plans for an MLP, and why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from actratio import ActratioError, find_sites, measure, sparsify
from actratio.sites.mlps import MLP, resolve
from actratio.sparse.active import active_counts, measured_mlps, measured_ratios
from actratio.sparse.crossover import ALWAYS, NEVER
from actratio.sparse.kernels import dispatch
from actratio.sparse.planning import plan

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def network(*activations: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Return MLPs in a row, each 8 → 24 → 8."""
    torch.manual_seed(0)
    layers = [layer for activation in activations for layer in (nn.Linear(8, 24), activation, nn.Linear(24, 8))]
    return nn.Sequential(*layers).to(dtype)


def resolved(model: nn.Module, x: torch.Tensor = X) -> list[MLP]:
    return resolve(model, find_sites(model, x))


def test_plan_follows_the_activation_function() -> None:
    model = network(nn.ReLU(), nn.GELU())
    relu, gelu = plan(resolved(model))
    assert (relu.kind, relu.why, relu.crossover) == (
        "down", "neurons that are zero are skipped in the down projection", ALWAYS,
    )  # fmt: skip
    assert (gelu.kind, gelu.why, gelu.crossover) == ("dense", "gelu has no true zeros", NEVER)


def test_plan_has_the_measured_ratio() -> None:
    model = network(nn.ReLU())
    measurement = measure(model, [X], criteria=["positive"])
    mlps = resolved(model)
    (planned,) = plan(mlps, measured_ratios(measurement, mlps))
    assert planned.ratio == pytest.approx(float((torch.relu(model[0](X)) > 0).float().mean()))


def test_plan_with_thresholds_skips_in_the_down_projection() -> None:
    model = network(nn.GELU(), nn.GELU())
    mlps = resolved(model)
    first, second = plan(mlps, thresholds={mlps[0].site.name: torch.ones(24)})
    assert (first.kind, first.why) == ("down", "neurons at or below their threshold are skipped")
    assert second.kind == "dense"


def test_plan_says_if_there_is_no_kernel() -> None:
    model = network(nn.ReLU(), dtype=torch.float64)
    (mlp,) = resolved(model, X.double())
    assert mlp.unsupported_reason is None
    (planned,) = plan([mlp])
    assert (planned.kind, planned.why) == ("dense", "there is no kernel for torch.float64 on cpu")


def test_plan_names_the_extra_that_brings_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_kernels", lambda listed: ())
    monkeypatch.setattr(dispatch, "find_spec", lambda package: None)
    (planned,) = plan(resolved(network(nn.ReLU())))
    assert planned.why == (
        'there is no kernel for torch.float32 on cpu, and numba is not installed; run pip install "actratio[fast]"'
    )


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ({"nowhere": torch.zeros(24)}, "the model has no site 'nowhere'"),
        ({"0": torch.zeros(5)}, r"has 24 neurons, and thresholds of the shape \(5,\); give one for each neuron"),
        ({"0": torch.full((24,), torch.nan)}, "has thresholds that are not numbers"),
    ],
)
def test_plan_refuses_wrong_thresholds(thresholds: dict[str, Any], message: str) -> None:
    mlps = resolved(network(nn.ReLU()))
    thresholds = {mlps[0].site.name if name == "0" else name: values for name, values in thresholds.items()}
    with pytest.raises(ActratioError, match=message):
        plan(mlps, thresholds=thresholds)


def test_measured_mlps_are_those_of_the_measurement() -> None:
    model = network(nn.ReLU(), nn.ReLU())
    mlps = resolved(model)
    measurement = measure(model, [X], sites=mlps[1].site.name)
    assert measured_mlps(model, None, mlps) == mlps
    assert measured_mlps(model, measurement, mlps) == mlps[1:]
    assert [mlp.down for mlp in measured_mlps(model, measurement)] == [model[5]]


def test_active_counts_prefer_hidden_and_accept_positive_for_relu() -> None:
    relu, gelu = network(nn.ReLU()), network(nn.GELU())
    measurement = measure(relu, [X], criteria=["positive"])
    assert active_counts(measurement, measurement.rows[0].site) is measurement.rows[0].counts
    measurement = measure(gelu, [X], criteria=["positive"])
    assert active_counts(measurement, measurement.rows[0].site) is None


def test_other_layers_that_cannot_skip_zeros_are_refused() -> None:
    model = network(nn.ReLU())
    measurement = measure(model, [X])
    with pytest.raises(ActratioError, match="1 is not a linear layer of the model; name one in also="):
        sparsify(model, measurement, crossover=ALWAYS, also={"1": 0.5})
    model[0].weight = nn.Parameter(model[2].weight.detach().t())
    with pytest.raises(ActratioError, match="0 cannot skip zeros of its input: its weight shares memory"):
        sparsify(model, measurement, crossover=ALWAYS, also={"0": 0.5})
    assert type(model[2]) is nn.Linear
