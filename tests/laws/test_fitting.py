"""Fit the laws: exact results, coverage of intervals, depth, seeds, and errors for invalid input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from actratio import ActratioError, fit

from .conftest import FitPlanted, PlantObservations

WIDTHS = np.array([32.0, 64, 128, 256, 512, 1024])


def test_fit_to_two_points_is_exact() -> None:
    laws = fit([100, 400], [20.0, 40.0], resamples=0)
    assert laws.fits["sqrt"].parameters["F"].value == pytest.approx(2.0)
    assert laws.fits["power"].parameters["α"].value == pytest.approx(0.5, abs=1e-5)
    assert math.isnan(laws.fits["power"].aicc)
    assert math.isnan(laws.fits["power"].left_out_error)


def test_aicc_equals_its_formula() -> None:
    active = np.array([20.0, 25, 40, 52, 83, 110])
    log_scales = np.log(active) - 0.5 * np.log(WIDTHS)
    rss = ((log_scales - log_scales.mean()) ** 2).sum()
    p, n = 2, 6  # parameters: F and the variance; cells
    expected = n * math.log(rss / n) + 2 * p + 2 * p * (p + 1) / (n - p - 1)
    assert fit(WIDTHS, active, resamples=0).fits["sqrt"].aicc == pytest.approx(expected)


def test_saturating_law_is_at_its_bound_for_a_straight_line() -> None:
    laws = fit(WIDTHS, 0.5 * WIDTHS, resamples=0)
    assert laws.fits["saturating"].at_bound
    assert laws.fits["power"].parameters["α"].value == pytest.approx(1.0, abs=1e-5)


def test_intervals_cover_at_their_level(planted_observations: PlantObservations, fit_planted: FitPlanted) -> None:
    """About 95% of the 95% intervals contain the truth, although there are only six architectures.

    For 120 studies and a rate of 95% the standard deviation of the number of hits is 2.4. The lower bound is four standard
    deviations below the expected number; the upper bound refuses intervals that are too wide to ever fail.
    """
    studies, hits, exponents = 120, {"F": 0, "α": 0, "depth": 0, "α at depth": 0}, []
    for index in range(studies):
        laws = fit_planted(planted_observations(index, depth=1.0), 60)
        alpha = laws.fits["power"].parameters["α"]
        hits["F"] += laws.fits["sqrt"].parameters["F"].contains(3.5)
        hits["α"] += alpha.contains(0.5)
        assert laws.depth is not None
        hits["depth"] += laws.depth.contains(1.0)
        assert laws.alpha_at_depth is not None
        hits["α at depth"] += laws.alpha_at_depth.contains(0.5)
        exponents.append(alpha.value)
    assert 0.01 < np.std(exponents) < 0.2  # the studies differ, so that coverage is not trivial
    for name, hit in hits.items():
        assert 0.87 * studies <= hit < studies, f"{name}: {hit} of {studies}"


def test_intervals_of_the_saturating_law_cover_at_their_level(
    planted_observations: PlantObservations, fit_planted: FitPlanted
) -> None:
    studies, hits = 60, {"F": 0, "K": 0}
    for index in range(studies):
        rows = planted_observations(1000 + index, exponent=0.0, depth=1.0)  # only errors, around 3.5
        rows["active"] = [a / 3.5 * 90 * n / (n + 150) for a, n in zip(rows["active"], rows["width"], strict=True)]
        parameters = fit_planted(rows, 60).fits["saturating"].parameters
        hits["F"] += parameters["F"].contains(90)
        hits["K"] += parameters["K"].contains(150)
    for name, hit in hits.items():  # the standard deviation of the hits is 1.7 for a rate of 95%
        assert hit >= 0.85 * studies, f"{name}: {hit} of {studies}"


def test_depth_factor_is_recovered(planted_observations: PlantObservations, fit_planted: FitPlanted) -> None:
    laws = fit_planted(planted_observations(3, exponent=0.5, depth=0.8, spread=0.03), 200)
    assert laws.depth is not None
    assert laws.depth.contains(0.8)
    assert laws.depth.high < 1


def test_depth_factor_has_no_interval_if_resamples_do_not_separate_it_from_width(
    planted_observations: PlantObservations, fit_planted: FitPlanted
) -> None:
    rows = planted_observations(0)
    two = {
        key: [value for value, architecture in zip(values, rows["architecture"], strict=True) if architecture < 2]
        for key, values in rows.items()
    }
    laws = fit_planted(two, 50)
    assert laws.depth is not None
    assert math.isnan(laws.depth.low)


def test_seeds_are_averaged() -> None:
    one = fit(WIDTHS, 3 * np.sqrt(WIDTHS) + 1, architectures=list("abcdef"), seeds=[0] * 6, resamples=0)
    many = fit(
        np.tile(WIDTHS, 3),
        np.tile(3 * np.sqrt(WIDTHS) + 1, 3),
        architectures=list("abcdef") * 3,
        seeds=[0] * 6 + [1] * 6 + [2] * 6,
        resamples=0,
    )
    assert (one.cells, many.cells) == (6, 6)
    assert many.seeds == 3
    assert one.fits["power"].aicc == pytest.approx(many.fits["power"].aicc)


def test_seeds_without_architectures_repeat_one_run() -> None:
    widths, active = np.tile(WIDTHS, 2), np.concatenate([3 * np.sqrt(WIDTHS), 4 * np.sqrt(WIDTHS)])
    laws = fit(widths, active, seeds=[0] * 6 + [1] * 6, resamples=0)
    assert (laws.cells, laws.architectures, laws.seeds) == (6, 6, 2)
    assert laws.fits["sqrt"].parameters["F"].value == pytest.approx(3.5)


def test_intervals_of_one_architecture_come_from_its_seeds() -> None:
    rng = np.random.default_rng(0)
    active = np.concatenate([3 * np.sqrt(WIDTHS) * np.exp(rng.normal(0, 0.1, 6)) for _ in range(4)])
    several = fit(
        np.tile(WIDTHS, 4),
        active,
        architectures=["a"] * 24,
        layers=list(range(6)) * 4,
        seeds=np.repeat(range(4), 6).tolist(),
        resamples=50,
    )
    assert several.fits["sqrt"].parameters["F"].contains(3.0)
    single = fit(WIDTHS, active[:6], architectures=["a"] * 6, layers=range(6), resamples=50)
    assert math.isnan(single.fits["sqrt"].parameters["F"].low)
    assert "cannot be judged" in single.verdict


def test_two_architectures_have_no_interval() -> None:
    laws = fit([64, 256], [30.0, 60.0], resamples=100)
    assert math.isnan(laws.fits["sqrt"].parameters["F"].low)
    assert "there are 2 runs, but at least 3 are needed" in laws.verdict


def test_fit_is_repeatable(planted_observations: PlantObservations, fit_planted: FitPlanted) -> None:
    rows = planted_observations(5)
    assert fit_planted(rows, 50).to_dict() == fit_planted(rows, 50).to_dict()


@pytest.mark.parametrize(
    ("widths", "active", "options", "words"),
    [
        ([64], [20.0], {}, "at least two different widths"),
        ([64, 64], [20.0, 21.0], {}, "at least two different widths"),
        ([64, 128], [20.0], {}, "widths has 2 values but active has 1"),
        ([], [], {}, "no observations"),
        ([64, 128], [20.0, 0.0], {}, "active contains 0; give positive"),
        ([64, -128], [20.0, 1.0], {}, "widths contains -128; give positive"),
        ([64, 128], [20.0, math.nan], {}, "active contains nan; give positive"),
        ([64, 128], [65.0, 1.0], {}, "an observation has 65 active neurons but only 64 neurons"),
        (["a", "b"], [1.0, 2.0], {}, "must be numbers"),
        ([64, 128], [20.0, 30.0], {"level": 95}, "between 0 and 1"),
        ([64, 128], [20.0, 30.0], {"resamples": 1}, "resamples is 1; give 0 for no intervals"),
        ([64, 128], [20.0, 30.0], {"seeds": [1]}, "widths has 2 values but seeds has 1"),
        (
            [64, 128, 64],
            [20.0, 30.0, 21.0],
            {"architectures": ["a"] * 3, "seeds": [0, 0, 1]},
            "the architecture a lacks a layer for one of its seeds",
        ),
    ],
)
def test_fit_refuses_invalid_observations(
    widths: list[float], active: list[float], options: dict[str, list[int]], words: str
) -> None:
    with pytest.raises(ActratioError, match=words):
        fit(widths, active, **options)  # type: ignore[arg-type]
