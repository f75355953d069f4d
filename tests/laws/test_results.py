"""The verdict on √N, for data with a known answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from actratio import fit
from actratio.statistics.estimate import Estimate

from .conftest import FitPlanted, PlantObservations

WIDTHS = np.array([32.0, 64, 128, 256, 512, 1024])


def test_verdict_supported_and_not_supported(planted_observations: PlantObservations, fit_planted: FitPlanted) -> None:
    assert "√N is supported" in fit_planted(planted_observations(1, depth=1.0), 100).verdict
    assert "√N is not supported" in fit_planted(planted_observations(1, exponent=0.2), 100).verdict


def test_verdict_is_not_settled_if_another_law_has_a_much_lower_aicc() -> None:
    rng = np.random.default_rng(2)
    widths = np.geomspace(32, 1024, 12)
    active = 15 * np.log1p(widths / 8) * np.exp(rng.normal(0, 0.03, 12))
    fits = fit(widths, active, resamples=0).fits
    wide = replace(fits["power"], parameters={**fits["power"].parameters, "α": Estimate(0.4, 0.2, 0.6)})
    laws = replace(fit(widths, active, resamples=0), fits={**fits, "power": wide})
    assert laws.best is not None
    assert laws.fits["sqrt"].aicc > laws.best.aicc + 2
    assert "√N is not settled" in laws.verdict
    assert f"{laws.best.law.formula} has an AICc lower by" in laws.verdict


def test_verdict_supports_exact_data() -> None:
    """The interval of α of exact data is a point, and rounding must not exclude 0.5."""
    for repeats in (1, 3):
        widths = np.tile(WIDTHS, repeats)
        laws = fit(widths, 3.75 * np.sqrt(widths), resamples=20)
        assert laws.fits["power"].parameters["α"].value == pytest.approx(0.5, abs=1e-12)
        assert "√N is supported" in laws.verdict


@pytest.mark.parametrize(
    ("widths", "active", "options", "words"),
    [
        ([64, 256, 1024], [30, 90, 500], {}, "3 layers are too few to compare"),
        ([64, 256, 512, 1024], [30, 60, 90, 120], {}, "4 layers are too few to compare"),
        ([64, 256], [30, 60], {}, "there are 2 runs, but at least 3 are needed"),
        (WIDTHS, 3 * np.sqrt(WIDTHS), {"resamples": 0}, "without resamples"),
        (WIDTHS, 3 * np.sqrt(WIDTHS), {"architectures": ["a"] * 6, "layers": range(6)}, "a single run"),
    ],
)
def test_verdict_cannot_be_judged(
    widths: list[float], active: list[float], options: dict[str, object], words: str
) -> None:
    laws = fit(widths, active, **{"resamples": 20, **options})  # type: ignore[arg-type]
    assert "cannot be judged" in laws.verdict
    assert words in laws.verdict


def test_verdict_is_not_settled_if_the_interval_contains_a_constant() -> None:
    active = 2 * np.sqrt(WIDTHS) * np.exp([0.8, -0.9, 0.7, -0.8, 0.9, -0.7])
    laws = fit(WIDTHS, active, resamples=100)
    assert laws.fits["power"].parameters["α"].contains(0.5)
    assert "√N is not settled" in laws.verdict
    assert "but also 0 (a constant number of active neurons)" in laws.verdict
    power = laws.fits["power"]
    linear = replace(power, parameters={**power.parameters, "α": Estimate(0.75, 0.4, 1.1)})
    laws = replace(laws, fits={**laws.fits, "power": linear})
    assert "√N is not settled" in laws.verdict
    assert "but also 1 (a constant ratio of active neurons)" in laws.verdict


def test_verdict_is_not_settled_if_alpha_at_equal_depth_excludes_one_half(
    planted_observations: PlantObservations, fit_planted: FitPlanted
) -> None:
    """Wide layers come first and deeper layers have fewer active neurons, so that α of width alone is too large."""
    laws = fit_planted(planted_observations(5, exponent=0.4, depth=0.8, spread=0.02), 200)
    assert laws.alpha_at_depth is not None
    assert laws.alpha_at_depth.contains(0.4)
    assert laws.fits["power"].parameters["α"].contains(0.5)
    assert "√N is not settled" in laws.verdict
    assert "at equal depth the interval of α" in laws.verdict
    assert laws.to_dict()["alpha_at_depth"]["value"] == laws.alpha_at_depth.value
