"""The verdict on √N, for data with a known answer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from actratio import fit
from actratio.laws.results import error_text
from actratio.statistics.estimate import Estimate
from actratio.statistics.verdict import NO, UNDECIDED, YES

from .conftest import FitPlanted, PlantObservations

WIDTHS = np.array([32.0, 64, 128, 256, 512, 1024])


def test_verdict_yes_and_no(planted_observations: PlantObservations, fit_planted: FitPlanted) -> None:
    laws = fit_planted(planted_observations(1, shared=0.02))
    assert laws.verdict.verdict == YES
    assert laws.reason.startswith("√N holds: the 95% interval of α at equal depth")
    laws = fit_planted(planted_observations(1, exponent=0.2))
    assert laws.verdict.verdict == NO
    assert "excludes 0.5" in laws.reason
    assert laws.to_dict()["verdict"]["verdict"] == "no"
    assert laws.to_dict()["verdict"]["estimate"] == laws.exponent.alpha.value


def test_verdict_is_about_alpha_at_equal_depth(
    planted_observations: PlantObservations, fit_planted: FitPlanted
) -> None:
    """Wide layers come first and deeper layers have fewer active neurons, so that α of width alone is too large."""
    laws = fit_planted(planted_observations(5, exponent=0.35, layers=(1, 0.8, 0.64, 0.5), shared=0.05))
    assert laws.fits["power"].parameters["α"].contains(0.5)
    assert laws.exponent.alpha.contains(0.35)
    assert laws.verdict.verdict == NO


def test_verdict_says_yes_for_exact_data() -> None:
    """The interval of α of exact data is a point, and rounding must not exclude 0.5."""
    for repeats in (1, 3):
        widths = np.tile(WIDTHS, repeats)
        laws = fit(widths, 3.75 * np.sqrt(widths))
        assert laws.fits["power"].parameters["α"].value == pytest.approx(0.5, abs=1e-12)
        assert laws.verdict.verdict == YES


@pytest.mark.parametrize(
    ("widths", "active", "options", "words"),
    [
        ([64, 256], [30, 60], {}, "there are 2 architectures, and the rule needs 3"),
        (WIDTHS, 3 * np.sqrt(WIDTHS), {"architectures": ["a"] * 6, "layers": range(6)}, "there is one architecture"),
        (WIDTHS, 2 * np.sqrt(WIDTHS) * np.exp([0.8, -0.9, 0.7, -0.8, 0.9, -0.7]), {}, "is wider than (0.4, 0.6)"),
        ([64, 64, 256], [31, 34, 60], {"architectures": ["a", "b", "c"]}, "√N is not decidable"),
    ],
)
def test_verdict_is_not_decidable(
    widths: list[float], active: list[float], options: dict[str, object], words: str
) -> None:
    laws = fit(widths, active, **options)  # type: ignore[arg-type]
    assert laws.verdict.verdict == UNDECIDED
    assert words in laws.reason


def test_verdict_without_an_interval_is_not_decidable() -> None:
    laws = fit([64, 256], [30.0, 60.0], layers=[0, 1])
    assert not laws.exponent.equal_depth
    laws = replace(laws, architectures=3)
    assert laws.verdict.verdict == UNDECIDED
    assert "too few for an interval" in laws.reason


def test_verdict_needs_a_small_error_for_yes(planted_observations: PlantObservations, fit_planted: FitPlanted) -> None:
    laws = fit_planted(planted_observations(1, shared=0.02))
    for error in (0.2, math.nan):
        worse = replace(laws, exponent=replace(laws.exponent, left_out_width=error))
        assert worse.verdict.verdict == UNDECIDED
        assert "the error is not below 15%" in worse.reason


def test_an_interval_inside_the_band_that_excludes_one_half_is_a_no(
    planted_observations: PlantObservations, fit_planted: FitPlanted
) -> None:
    laws = fit_planted(planted_observations(1, shared=0.02))
    laws = replace(laws, exponent=replace(laws.exponent, alpha=Estimate(0.45, 0.42, 0.48)))
    assert laws.verdict.verdict == NO


def test_laws_within_two_aicc_are_not_ranked(planted_observations: PlantObservations, fit_planted: FitPlanted) -> None:
    laws = fit_planted(planted_observations(2, shared=0.2))
    smallest = min(law_fit.aicc for law_fit in laws.fits.values())
    assert {law_fit.law.name for law_fit in laws.best} == {
        name for name, law_fit in laws.fits.items() if law_fit.aicc <= smallest + 2
    }
    assert fit([64, 256, 1024], [20.0, 45, 80]).best == []


@pytest.mark.parametrize(("error", "text"), [(0.1, "11%"), (3.0, "a factor of 20.1"), (math.nan, "an unknown amount")])
def test_error_text(error: float, text: str) -> None:
    assert error_text(error) == text
