"""Fit the laws: exact results, coverage of intervals, depth, seeds, and errors for invalid input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from actratio import ActratioError, fit
from actratio.laws import fitting
from actratio.laws.law import LAWS

from .conftest import FitPlanted, PlantObservations

WIDTHS = np.array([32.0, 64, 128, 256, 512, 1024])


def test_fit_to_two_points_is_exact() -> None:
    laws = fit([100, 400], [20.0, 40.0])
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
    assert fit(WIDTHS, active).fits["sqrt"].aicc == pytest.approx(expected)


def test_saturating_law_is_at_its_bound_for_a_straight_line() -> None:
    laws = fit(WIDTHS, 0.5 * WIDTHS)
    assert laws.fits["saturating"].at_bound
    assert laws.fits["power"].parameters["α"].value == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("shared", "by_seed"), [(0.1, 0.03), (0.0, 0.1)])
def test_intervals_cover_at_their_level(
    shared: float,
    by_seed: float,
    planted_observations: PlantObservations,
    fit_planted: FitPlanted,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At least about 95% of the 95% intervals contain the truth, whether seeds share the cells' errors or not.

    For 150 studies and a rate of 95% the standard deviation of the number of hits is 2.7. The lower bound is four standard
    deviations below the expected number; the upper bound refuses intervals that are too wide to ever fail. The wider one of two
    intervals may cover a little too much.
    """
    monkeypatch.setattr(fitting, "LAWS", {name: LAWS[name] for name in ("sqrt", "power")})  # the others take longer
    studies, hits, exponents = 150, {"F": 0, "α": 0, "A at 128": 0, "α at equal depth": 0, "layer 2": 0}, []
    for index in range(studies):
        laws = fit_planted(planted_observations(index, shared=shared, by_seed=by_seed))
        alpha = laws.fits["power"].parameters["α"]
        hits["F"] += laws.fits["sqrt"].parameters["F"].contains(3.5)
        hits["α"] += alpha.contains(0.5)
        hits["A at 128"] += laws.fits["power"].at_reference.contains(3.5 * math.sqrt(128))
        hits["α at equal depth"] += laws.exponent.alpha.contains(0.5)
        hits["layer 2"] += laws.exponent.layers[2].contains(1.0)
        exponents.append(alpha.value)
    assert 0.01 < np.std(exponents) < 0.2  # the studies differ, so that coverage is not trivial
    for name, hit in hits.items():
        assert 0.87 * studies <= hit < studies, f"{name}: {hit} of {studies}"


def test_intervals_of_laws_with_a_curved_shape_cover_at_their_level(
    planted_observations: PlantObservations, fit_planted: FitPlanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "left_out_error", lambda *_: math.nan)  # it takes longer than the fit
    studies, hits = 60, {"F": 0, "K": 0, "bounded α": 0, "bounded K": 0}
    for index in range(studies):
        rows = planted_observations(1000 + index, exponent=0.0, shared=0.05)  # only errors, around 3.5
        errors = [a / 3.5 for a in rows["active"]]
        rows["active"] = [e * 90 * n / (n + 150) for e, n in zip(errors, rows["width"], strict=True)]
        monkeypatch.setattr(fitting, "LAWS", {"saturating": LAWS["saturating"]})
        parameters = fit_planted(rows).fits["saturating"].parameters
        hits["F"] += parameters["F"].contains(90)
        hits["K"] += parameters["K"].contains(150)
        rows["active"] = [e * n * (1 + n / 60) ** -0.7 for e, n in zip(errors, rows["width"], strict=True)]
        monkeypatch.setattr(fitting, "LAWS", {"bounded": LAWS["bounded"]})
        parameters = fit_planted(rows).fits["bounded"].parameters
        hits["bounded α"] += parameters["α"].contains(0.3)
        hits["bounded K"] += parameters["K"].contains(60)
    for name, hit in hits.items():  # the standard deviation of the hits is 1.7 for a rate of 95%
        assert hit >= 0.85 * studies, f"{name}: {hit} of {studies}"


def test_seeds_are_averaged() -> None:
    one = fit(WIDTHS, 3 * np.sqrt(WIDTHS) + 1, architectures=list("abcdef"), seeds=[0] * 6)
    many = fit(
        np.tile(WIDTHS, 3),
        np.tile(3 * np.sqrt(WIDTHS) + 1, 3),
        architectures=list("abcdef") * 3,
        seeds=[0] * 6 + [1] * 6 + [2] * 6,
    )
    assert (one.cells, many.cells) == (6, 6)
    assert many.seeds == 3
    assert one.fits["power"].aicc == pytest.approx(many.fits["power"].aicc)


def test_seeds_without_architectures_repeat_one_run() -> None:
    widths, active = np.tile(WIDTHS, 2), np.concatenate([3 * np.sqrt(WIDTHS), 4 * np.sqrt(WIDTHS)])
    laws = fit(widths, active, seeds=[0] * 6 + [1] * 6)
    assert (laws.cells, laws.architectures, laws.seeds) == (6, 6, 2)
    assert laws.fits["sqrt"].parameters["F"].value == pytest.approx(math.sqrt(3 * 4))  # log A is averaged


def test_one_seed_has_the_interval_over_cells_only() -> None:
    active = 3 * np.sqrt(WIDTHS) * np.exp(np.random.default_rng(0).normal(0, 0.1, 6))
    exponent = fit(WIDTHS, active).exponent
    assert math.isnan(exponent.over_seeds.low)
    assert exponent.alpha == exponent.over_cells


def test_two_points_have_the_interval_over_seeds_only() -> None:
    active = [20.0, 40.0, 22.0, 41.0, 21.0, 43.0]
    exponent = fit([100, 400] * 3, active, seeds=[0, 0, 1, 1, 2, 2]).exponent
    assert math.isnan(exponent.over_cells.low)
    assert exponent.alpha == exponent.over_seeds
    assert exponent.alpha.contains(0.5)


def test_architectures_with_different_seeds_have_the_interval_over_cells_only() -> None:
    laws = fit([64, 128, 256, 64], [20.0, 30, 40, 22], architectures=["a", "b", "c", "a"], seeds=[0, 0, 0, 1])
    assert (laws.cells, laws.seeds) == (3, 2)
    assert math.isnan(laws.exponent.over_seeds.low)
    assert not math.isnan(laws.exponent.alpha.low)


def test_left_out_architectures_are_predicted_by_the_others() -> None:
    active = 3 * np.sqrt(WIDTHS)
    active[-1] *= 2
    names = ["a", "a", "b", "b", "c", "c"]
    law_fit = fit(WIDTHS, active, architectures=names).fits["sqrt"]
    logs = np.log(active) - 0.5 * np.log(WIDTHS)
    errors = [logs[i] - logs[[name != names[i] for name in names]].mean() for i in range(6)]
    assert law_fit.left_out_architecture == pytest.approx(math.sqrt(np.mean(np.square(errors))))


def test_fit_is_repeatable(planted_observations: PlantObservations, fit_planted: FitPlanted) -> None:
    rows = planted_observations(5)
    assert fit_planted(rows).to_dict() == fit_planted(rows).to_dict()


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
