"""α at equal depth: planted truths, its two intervals, and the error of √N at what was left out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from actratio.laws.exponent import ExponentDesign
from actratio.statistics.linear_model import Coefficient, LinearModel, wider
from actratio.training import ARTICLE_HIDDEN

from .conftest import FitPlanted, PlantObservations

WIDTH = np.array([float(width) for hidden in ARTICLE_HIDDEN for width in hidden])
LAYER = np.array([layer for hidden in ARTICLE_HIDDEN for layer in range(len(hidden))])
NET = np.array([index for index, hidden in enumerate(ARTICLE_HIDDEN) for _ in hidden])


def test_a_planted_alpha_with_a_hump_in_depth_is_recovered(
    planted_observations: PlantObservations, fit_planted: FitPlanted
) -> None:
    """A rises from the first to the second layer and falls after it; a straight line in depth cannot follow."""
    hump = (1.0, 1.4, 0.9, 0.7)
    exponent = fit_planted(planted_observations(0, exponent=0.37, layers=hump, shared=0, by_seed=0)).exponent
    assert exponent.equal_depth
    assert exponent.alpha.value == pytest.approx(0.37)
    assert [factor.value for factor in exponent.layers.values()] == pytest.approx(list(hump))
    noisy = fit_planted(planted_observations(0, exponent=0.37, layers=hump, shared=0.05)).exponent
    assert noisy.alpha.contains(0.37)
    assert all(factor.contains(true) for factor, true in zip(noisy.layers.values(), hump, strict=True))


def test_alpha_equals_statsmodels() -> None:
    statsmodels = pytest.importorskip("statsmodels.api")
    log_active = np.log(3 * WIDTH**0.4) - 0.1 * LAYER + np.random.default_rng(0).normal(0, 0.1, len(WIDTH))
    design = np.column_stack([np.log(WIDTH), *(layer == LAYER for layer in range(4))])
    low, high = statsmodels.OLS(log_active, design).fit().conf_int()[0]
    alpha = ExponentDesign(WIDTH, LAYER, NET).fit(log_active[None]).alpha
    assert (alpha.low, alpha.high) == pytest.approx((low, high))


def test_layers_of_a_network_that_deviate_together_are_covered_less_often() -> None:
    """The docs say 89%: half of the variance of the cells is one deviation for each network."""
    design, rng, studies = ExponentDesign(WIDTH, LAYER, NET), np.random.default_rng(0), 1000
    deviation, hits = 0.19 / math.sqrt(2), 0
    for _ in range(studies):
        cells = (
            0.5 * np.log(WIDTH) + rng.normal(0, deviation, NET.max() + 1)[NET] + rng.normal(0, deviation, len(WIDTH))
        )
        hits += design.fit(cells + rng.normal(0, 0.05, (5, len(WIDTH)))).alpha.contains(0.5)
    assert hits / studies == pytest.approx(0.89, abs=0.02)


def test_the_wider_interval_is_taken() -> None:
    design, rng = ExponentDesign(WIDTH, LAYER, NET), np.random.default_rng(0)
    shared, by_seed = rng.normal(0, 0.2, len(WIDTH)), rng.normal(0, 0.2, (5, len(WIDTH)))
    law = 0.5 * np.log(WIDTH)
    exponent = design.fit(law + shared + 0.01 * by_seed)
    assert exponent.alpha == exponent.over_cells
    assert exponent.over_seeds.high - exponent.over_seeds.low < 0.1 * (exponent.alpha.high - exponent.alpha.low)
    exponent = design.fit(law + np.linspace(-1, 1, 3)[:, None] * np.log(WIDTH))
    assert exponent.alpha == exponent.over_seeds
    assert exponent.over_cells.value == pytest.approx(exponent.over_seeds.value)


def test_layers_that_follow_from_the_width_are_not_separated() -> None:
    design = ExponentDesign(np.array([512.0, 64, 512, 64]), [0, 1, 0, 1], [0, 0, 1, 1])
    assert not design.equal_depth
    exponent = design.fit(np.log([[60.0, 20.0, 61.0, 21.0]]))
    assert exponent.layers == {}
    assert exponent.alpha.value == pytest.approx(np.log(np.sqrt(60 * 61 / 20 / 21)) / np.log(8))


def test_left_out_errors_equal_their_definition() -> None:
    values = np.random.default_rng(3).normal(3, 0.3, len(WIDTH))
    exponent = ExponentDesign(WIDTH, LAYER, NET).fit(values[None])
    scale = values - 0.5 * np.log(WIDTH)
    for groups, error in ((WIDTH, exponent.left_out_width), (NET, exponent.left_out_architecture)):
        errors = []
        for cell in range(len(WIDTH)):
            others = (groups != groups[cell]) & (LAYER[cell] == LAYER)
            if others.any():  # layer 3 occurs once, and cannot be predicted
                errors.append(scale[cell] - scale[others].mean())
        assert len(errors) == len(WIDTH) - 1
        assert error == pytest.approx(math.sqrt(np.mean(np.square(errors))))


def test_coefficients_have_intervals_and_p_values() -> None:
    from scipy.stats import ttest_1samp

    values = [0.4, 0.45, 0.38, 0.5]
    coefficient = Coefficient.of_seeds(float(np.mean(values)), values)
    assert coefficient.p_value(0.5) == pytest.approx(ttest_1samp(values, 0.5).pvalue)
    low, high = ttest_1samp(values, 0.5).confidence_interval(0.9)
    assert (coefficient.interval(0.9).low, coefficient.interval(0.9).high) == pytest.approx((low, high))
    assert math.isnan(Coefficient.of_seeds(0.4, [0.4]).p_value(0.5))
    assert (Coefficient(0.5, 0.0, 3).p_value(0.5), Coefficient(0.4, 0.0, 3).p_value(0.5)) == (1, 0)
    nothing = Coefficient(0.4, math.nan, 0)
    assert wider(nothing, coefficient) == wider(coefficient, nothing) == coefficient
    assert math.isnan(nothing.interval().low)


def test_a_design_without_spare_cells_has_no_interval_over_cells() -> None:
    model = LinearModel(np.array([[1.0, 0.0], [1.0, 1.0]]))
    assert model.is_identified
    assert math.isnan(model.contrast([0, 1], np.array([[1.0, 2.0]])).cells.error)
    assert not LinearModel(np.ones((3, 2))).is_identified
