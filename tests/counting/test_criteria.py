"""Criteria: by hand, as text, and thresholds for each neuron."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from actratio import find_sites, measure
from actratio.counting.criteria import CRITERIA, Above, Positive, Thresholds, parse_criterion
from actratio.counting.probe import Probe
from actratio.errors import CriterionError


@pytest.mark.parametrize(
    ("text", "active"),
    [
        ("positive", [False, False, True, True, False]),
        ("nonzero", [True, False, True, True, True]),
        ("above(2)", [True, False, False, True, False]),
        ("contribution(2)", [True, False, True, True, False]),
    ],
)
def test_each_criterion_by_hand(text: str, active: list[bool]) -> None:
    x = torch.tensor([[-2.0, 0.0, 1.0, 3.0, math.nan]])
    norms = torch.tensor([1.0, 1.0, 2.0, 1.0, 1.0])
    criterion = parse_criterion(text)
    assert criterion.active(x, norms)[0].tolist() == active
    assert str(criterion) == text
    assert criterion.needs_norms == text.startswith("contribution")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no criterion ''; write positive, nonzero, above\(τ\) or contribution\(τ\)"),
        ("big", "no criterion 'big'"),
        ("thresholds", "no criterion 'thresholds'"),
        ("above(1", "no criterion"),
        ("above", r"needs a threshold above zero, such as above\(0.1\)"),
        ("above()", "needs a threshold"),
        ("above(x)", "needs a threshold"),
        ("above(0)", "needs a threshold"),
        ("above(-1)", "needs a threshold"),
        ("above(inf)", "needs a threshold"),
        ("positive(1)", "has no threshold, but '1' was given"),
    ],
)
def test_parse_criterion_refuses_bad_text(text: str, message: str) -> None:
    with pytest.raises(CriterionError, match=message):
        parse_criterion(text)


def test_parse_criterion_ignores_spaces() -> None:
    assert parse_criterion(" above( 0.5 ) ") == Above(0.5)
    assert parse_criterion("positive") == Positive()
    assert set(CRITERIA) == {"positive", "nonzero", "above", "contribution"}


def test_above_compares_with_the_threshold_in_the_dtype_of_the_activation() -> None:
    x = torch.tensor([[0.1]], dtype=torch.bfloat16)
    assert Above(0.1).active(x).item()
    assert not Above(1e-50).active(torch.zeros(1, 1)).item()  # a threshold never rounds to zero


def test_thresholds_by_hand() -> None:
    limits = Thresholds({"a": torch.tensor([0.5, 0.0, 2.0, 1.0, 1.0])})
    x = torch.tensor([[-0.5, 0.0, -3.0, 1.5, math.nan]])
    assert limits.for_site("a").active(x)[0].tolist() == [False, False, True, True, True]
    assert str(limits) == str(limits.for_site("a")) == "thresholds"


def test_thresholds_stay_float32_for_half_precision() -> None:
    limit = torch.tensor([0.1])  # 0.1 in bfloat16 is 0.1001, above it
    assert Thresholds({"a": limit}).for_site("a").active(torch.tensor([[0.1]], dtype=torch.bfloat16)).item()


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2))


def test_measure_counts_by_thresholds(randn: Callable[..., Tensor]) -> None:
    model, x = mlp(), randn(9, 4)
    name = find_sites(model, x)[0].name
    limits = torch.rand(6, generator=torch.Generator().manual_seed(0)) / 2
    measured = measure(model, [x[:5], x[5:]], criteria=["positive", Thresholds({name: limits})])
    expected = (~(model[:2](x).abs() <= limits)).sum(0)
    assert measured.counts(name, criterion="thresholds").active.tolist() == expected.tolist()
    assert measured.counts(name, criterion="positive").active.tolist() == (model[:2](x) > 0).sum(0).tolist()
    assert measured.settings["criteria"] == ["positive", "thresholds"]


def test_probe_counts_by_thresholds(randn: Callable[..., Tensor]) -> None:
    model, x = mlp(), randn(9, 4)
    sites = find_sites(model, x)
    limits = Thresholds({sites[0].name: torch.full((6,), 0.2)})
    with torch.no_grad(), Probe(model, sites, criteria=[limits]) as probe:
        model(x)
    counts = probe.counted[sites[0].name, "activation"].counts[limits]
    assert counts.active.tolist() == (model[:2](x).abs() > 0.2).sum(0).tolist()


def test_a_site_without_thresholds_is_an_error_with_its_name(randn: Callable[..., Tensor]) -> None:
    model, x = mlp(), randn(9, 4)
    name = find_sites(model, x)[0].name
    with pytest.raises(CriterionError, match=f"no thresholds for the site {name}"):
        measure(model, [x], criteria=[Thresholds({"other": torch.ones(6)})])
    with pytest.raises(CriterionError, match="5 thresholds for 6 neurons"):
        measure(model, [x], criteria=[Thresholds({name: torch.ones(5)})])
    with pytest.raises(TypeError, match="for_site"):
        Thresholds({}).active(x)
