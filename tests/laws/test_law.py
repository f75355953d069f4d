"""Every law in ``LAWS`` passes the same tests; the known laws are also compared with their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from actratio import fit
from actratio.laws.cells import Cells
from actratio.laws.law import LAWS, Law
from actratio.laws.least_squares import fit_cells

WIDTHS = np.array([32.0, 64, 128, 256, 512, 1024])

FORMULAS = {
    "sqrt": (lambda n: 3.6 * np.sqrt(n), {"F": 3.6}),
    "power": (lambda n: 5.0 * n**0.37, {"F": 5.0, "α": 0.37}),
    "saturating": (lambda n: 80.0 * n / (n + 120.0), {"F": 80.0, "K": 120.0}),
    "logarithmic": (lambda n: 15.0 * np.log1p(n / 20.0), {"F": 15.0, "K": 20.0}),
    "bounded": (lambda n: n * (1 + n / 50.0) ** (0.4 - 1), {"α": 0.4, "K": 50.0}),
}

every_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


def planted(law: Law, place: float) -> tuple[np.ndarray, float, float]:
    """Return exact A for k at a place between its bounds (0 … 1), and the coefficient and k that give it; A ≤ N / 2."""
    low, high = law.bounds
    k = low + place * (high - low)
    c = 0.3
    if law.slope is None:
        c = float(np.log(0.5 * WIDTHS).min() - law.log_shape(WIDTHS, np.asarray(k)).max())
    active = np.exp(law.log_active(WIDTHS, np.asarray(c), np.asarray(k)))
    return active, (math.exp(c) if law.slope is None else c), k


@every_law
@pytest.mark.parametrize("place", [0.4, 0.5])
def test_every_law_recovers_planted_parameters(law: Law, place: float) -> None:
    active, coefficient, k = planted(law, place)
    law_fit = fit(WIDTHS, active).fits[law.name]
    assert tuple(law_fit.parameters) == law.parameters
    assert law_fit.parameters[law.coefficient].value == pytest.approx(coefficient, rel=1e-3)
    if law.parameter is not None:
        expected = math.exp(k) if law.logarithmic else k
        assert law_fit.parameters[law.parameter].value == pytest.approx(expected, rel=1e-3)
    assert not law_fit.at_bound
    assert law_fit.left_out_error < 1e-3
    np.testing.assert_allclose(law_fit.predict(WIDTHS), active, rtol=1e-3)
    assert law_fit.at_reference.value == pytest.approx(active[2], rel=1e-3)


@every_law
def test_every_law_predicts_positive_finite_numbers_far_from_the_data(law: Law) -> None:
    rng = np.random.default_rng(0)
    law_fit = fit(WIDTHS, 3 * np.sqrt(WIDTHS) * np.exp(rng.normal(0, 0.2, 6))).fits[law.name]
    predicted = law_fit.predict(np.array([[1.0, 8.0], [4096.0, 1e6]]))
    assert predicted.shape == (2, 2)
    assert np.isfinite(predicted).all()
    assert (predicted > 0).all()


@every_law
def test_every_law_has_intervals_around_its_estimates(law: Law) -> None:
    rng = np.random.default_rng(0)
    active, _, _ = planted(law, 0.5)
    law_fit = fit(WIDTHS, active * np.exp(rng.normal(0, 0.02, 6))).fits[law.name]
    for estimate in law_fit.parameters.values():
        assert estimate.low < estimate.value < estimate.high


@every_law
def test_every_law_fits_each_set_as_if_it_were_alone(law: Law) -> None:
    """Three sets at once, one of them padded, give the same as one at a time."""
    rng = np.random.default_rng(0)
    active, _, _ = planted(law, 0.5)
    width, log_active = np.tile(WIDTHS, (3, 1)), np.log(active) + rng.normal(0, 0.1, (3, 6))
    present = np.ones((3, 6))
    width[2, 4:], log_active[2, 4:], present[2, 4:] = 1, 0, 0
    together = fit_cells(law, Cells(width, log_active, np.zeros((3, 6)), np.zeros((3, 6)), present))
    for values in together:
        assert values.shape == (3,)
    for row, cells in enumerate((6, 6, 4)):
        zeros = np.zeros(cells)
        single = Cells(width[row, :cells], log_active[row, :cells], zeros, zeros, np.ones(cells))
        for values, value in zip(together, fit_cells(law, single), strict=True):
            assert value.shape == ()
            assert values[row] == pytest.approx(float(value), rel=1e-4, abs=1e-4)
    empty = Cells(*(np.zeros((0, 6)) for _ in Cells._fields))
    assert all(values.shape == (0,) for values in fit_cells(law, empty))


@every_law
def test_every_law_takes_arrays_that_broadcast(law: Law) -> None:
    k = np.linspace(*law.bounds, 5)[:, None]
    assert np.broadcast_shapes(law.log_shape(WIDTHS, k).shape, (5, 6)) == (5, 6)
    assert np.isfinite(law.log_shape(WIDTHS, k)).all()


@pytest.mark.parametrize("name", FORMULAS)
def test_a_law_recovers_its_formula_and_is_preferred(name: str) -> None:
    formula, parameters = FORMULAS[name]
    laws = fit(WIDTHS, formula(WIDTHS))
    law_fit = laws.fits[name]
    for key, value in parameters.items():
        assert law_fit.parameters[key].value == pytest.approx(value, rel=1e-3)
    np.testing.assert_allclose(law_fit.predict([100, 2000]), formula(np.array([100.0, 2000.0])), rtol=1e-3)
    assert law_fit.left_out_error < 1e-3
    assert law_fit.aicc <= laws.best[0].aicc + 2 * 2 + 2 * 3 * 4 / 2 + 2  # at most the penalty for one parameter
    assert not law_fit.at_bound


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="lower bound below the upper bound"):
        Law("cubic", "F·N^β", "β", lambda n, k: k * np.log(n), (3.0, -1.0))


def test_the_bounded_law_cannot_exceed_the_width() -> None:
    """Where a scale times a power would predict more active neurons than there are."""
    active = WIDTHS * (1 + WIDTHS / 50) ** (0.4 - 1)
    fits = fit(WIDTHS, active).fits
    narrow = np.array([1.0, 2.0, 4.0])
    assert (fits["power"].predict(narrow) > narrow).any()
    assert (fits["bounded"].predict(narrow) <= narrow).all()


def test_the_bounded_law_of_a_power_is_at_its_bound() -> None:
    assert fit(WIDTHS, 0.05 * WIDTHS**0.9).fits["bounded"].at_bound
