"""Estimates: text, clipping, containment, and intervals by their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from actratio.statistics.estimate import Estimate, bootstrap_interval, mean_interval


def test_estimate_as_text() -> None:
    assert str(Estimate(0.5)) == "0.5"
    assert Estimate(0.5, 0.25, 0.75).format("{:.2f}") == "0.50 (0.25 … 0.75)"
    assert Estimate(0.5, 0.25, 0.75).plus_minus("{:.2f}") == "0.50 ± 0.25"
    assert Estimate(0.5).plus_minus("{:.2f}") == "0.50"


def test_estimate_clip() -> None:
    assert Estimate(0.5, -0.4, 1.4).clip(0, 1) == Estimate(0.5, 0, 1)
    assert math.isnan(Estimate(0.5).clip(0, 1).low)


def test_estimate_contains_up_to_rounding() -> None:
    assert Estimate(0.5, 0.5 + 1e-12, 0.6).contains(0.5)
    assert not Estimate(0.5, 0.51, 0.6).contains(0.5)
    assert not Estimate(0.5).contains(0.5)


def test_estimate_exp_and_to_dict() -> None:
    assert Estimate(0.0, -1.0, 1.0).exp() == Estimate(1.0, math.exp(-1), pytest.approx(math.e))  # type: ignore[arg-type]
    assert Estimate(0.0, -1.0, 1e9).exp().to_dict() == {"value": 1.0, "low": pytest.approx(math.exp(-1)), "high": None}
    assert Estimate(2.0).to_dict() == {"value": 2.0, "low": None, "high": None}


def test_bootstrap_interval_equals_its_formula() -> None:
    draws = np.array([1.0, 2.0, 3.0])  # standard deviation 1
    estimate = bootstrap_interval(2.0, draws, clusters=4)
    half = 3.182446305284263 * math.sqrt(4 / 3)  # t of 3 degrees of freedom at 95%, from a table
    assert (estimate.low, estimate.high) == (pytest.approx(2 - half), pytest.approx(2 + half))
    assert math.isnan(bootstrap_interval(2.0, draws[:1], clusters=4).low)


def test_mean_interval_of_one_value_has_no_bounds() -> None:
    assert math.isnan(mean_interval([3.0]).low)
