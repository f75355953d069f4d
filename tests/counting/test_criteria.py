"""Criteria: by hand, as text, and thresholds for each neuron."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from actratio import find_sites, measure
from actratio.counting.criteria import (
    CRITERIA,
    Above,
    Contribution,
    Criterion,
    Positive,
    Thresholds,
    comparison,
    criterion_forms,
    criterion_name,
    parse_criterion,
    to_criteria,
)
from actratio.counting.probe import Probe
from actratio.errors import CriterionError, RunError


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


def test_thresholds_stay_float32_for_half_precision() -> None:
    limit = torch.tensor([0.1])  # 0.1 in bfloat16 is 0.1001, above it
    assert Thresholds({"a": limit}).for_site("a").active(torch.tensor([[0.1]], dtype=torch.bfloat16)).item()


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2))


def test_measure_counts_by_thresholds(randn: Callable[..., Tensor]) -> None:
    model, x = mlp(), randn(9, 4)
    name = find_sites(model, x)[0].name
    values = torch.rand(6, generator=torch.Generator().manual_seed(0)) / 2
    limits = Thresholds({name: values})
    measured = measure(model, [x[:5], x[5:]], criteria=["positive", limits])
    expected = (~(model[:2](x).abs() <= values)).sum(0)
    assert measured.counts(name, criterion=str(limits)).active.tolist() == expected.tolist()
    assert measured.counts(name, criterion="positive").active.tolist() == (model[:2](x) > 0).sum(0).tolist()
    assert measured.settings["criteria"] == ["positive", str(limits)]


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


# ---- Labels.


@pytest.mark.parametrize(
    ("criterion", "label"),
    [
        (Above(0.1), "above(0.1)"),
        (Above(2), "above(2)"),
        (Above(2.0), "above(2)"),
        (Contribution(1e-05), "contribution(1e-05)"),
        (Above(1e6), "above(1e+06)"),
        (Above(0.1234567), "above(0.1234567)"),
        (Above(0.12345674), "above(0.12345674)"),
    ],
)
def test_criterion_label_has_all_digits_of_the_threshold(criterion: Criterion, label: str) -> None:
    assert str(criterion) == label
    assert parse_criterion(label) == criterion


def test_a_new_criterion_with_thresholds_has_a_label_without_writing_it() -> None:
    @dataclass(frozen=True)
    class Between(Criterion):
        name: ClassVar[str] = "between"
        low: float
        high: float

        def active(self, x: Tensor, norms: Tensor | None = None) -> Tensor:
            return (x > self.low) & (x < self.high)

    assert str(Between(0.1, 0.12345678)) == "between(0.1, 0.12345678)"


def test_thresholds_label_is_a_fingerprint_of_names_and_values() -> None:
    values = torch.tensor([0.5, 1.0])
    label = str(Thresholds({"a": values, "b": values * 2}))
    assert criterion_name(label) == "thresholds"
    assert label == str(Thresholds({"b": values.clone() * 2, "a": values.bfloat16()}))
    others = [{"a": values}, {"a": values * 2, "b": values}, {"a": values, "c": values * 2}]
    assert len({label, *(str(Thresholds(by_site)) for by_site in others)}) == 4


def test_measurements_by_other_thresholds_do_not_merge(randn: Callable[..., Tensor]) -> None:
    model, x = mlp(), randn(9, 4)
    name = find_sites(model, x)[0].name

    def measured(threshold: float) -> Any:
        return measure(model, [x], criteria=Thresholds({name: torch.full((6,), threshold)}))

    assert (measured(0.2) | measured(0.2)).counts(name).tokens == 18
    with pytest.raises(RunError, match="do not merge"):
        measured(0.2).merge(measured(0.3))
    with pytest.raises(RunError, match="do not merge"):
        measure(model, [x], criteria="above(0.1234567)").merge(measure(model, [x], criteria="above(0.12345674)"))


def test_criterion_forms_and_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    assert criterion_forms() == ["positive", "nonzero", "above(τ)", "contribution(τ)"]
    labels = ["positive", "nonzero", "above(0.1)", "thresholds(3f2a)"]
    assert [comparison(label) for label in labels] == ["> 0", "≠ 0", "above(0.1)", "thresholds(3f2a)"]

    @dataclass(frozen=True)
    class Negative(Positive):
        name: ClassVar[str] = "negative"
        comparison: ClassVar[str] = "< 0"

    monkeypatch.setitem(CRITERIA, "negative", Negative)
    assert criterion_forms()[-1] == "negative"
    assert comparison("negative") == "< 0"
    with pytest.raises(CriterionError, match=r"contribution\(τ\) or negative"):
        parse_criterion("big")


# ---- One criterion or several.


@pytest.mark.parametrize(
    ("criteria", "label"),
    [
        (["positive", "positive"], "positive"),
        (["above(0.10)", "nonzero", "above(0.1)"], r"above\(0.1\)"),
        ([Above(1), Above(1.0)], r"above\(1\)"),
    ],
)
def test_a_criterion_given_twice_is_refused(criteria: list[Any], label: str, randn: Callable[..., Tensor]) -> None:
    model, x = mlp(), randn(9, 4)
    with pytest.raises(CriterionError, match=f"the criterion {label} is given twice; give each criterion once"):
        measure(model, [x], criteria=criteria)
    with pytest.raises(CriterionError, match=f"the criterion {label} is given twice"):
        Probe(model, find_sites(model, x), criteria=criteria)


def test_no_criterion_is_refused() -> None:
    with pytest.raises(CriterionError, match="there is no criterion to count by; give one, such as positive"):
        to_criteria([])


@pytest.mark.parametrize("criteria", ["above(0.1)", Above(0.1)])
def test_measure_and_probe_accept_one_criterion_and_one_tensor(criteria: Any, randn: Callable[..., Tensor]) -> None:
    model, x = mlp(), randn(9, 4)
    expected = (model[:2](x).abs() >= 0.1).sum(0).tolist()
    measured = measure(model, [x], criteria=criteria, tensors="activation")
    assert [row.counts.active.tolist() for row in measured] == [expected]
    assert measured.settings["criteria"] == ["above(0.1)"]
    assert measured.settings["tensors"] == ["activation"]
    with Probe(model, find_sites(model, x), criteria=criteria, tensors="activation") as probe:
        model(x)
    assert [counted.counts[Above(0.1)].active.tolist() for counted in probe.counted.values()] == [expected]
