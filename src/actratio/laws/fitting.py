"""Fit the scaling laws to observations.

A law is fitted to *cells*: one value per layer of an architecture, the mean of log A over its seeds. Seeds repeat the same
measurement, so that separate points would overstate the evidence.

Each parameter has the wider one of two intervals: over seeds, and from the residuals over cells (``intervals``). F and K are
treated on the log scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from actratio.errors import FitError
from actratio.laws.cells import Observed, group_observations
from actratio.laws.exponent import ExponentDesign
from actratio.laws.law import LAWS, Array, Law
from actratio.laws.least_squares import aicc, fit_cells, gradient, left_out_error
from actratio.laws.results import REFERENCE_WIDTH, LawFit, Laws
from actratio.statistics.estimate import LEVEL, Estimate
from actratio.statistics.linear_model import Coefficient, TwoErrors

_AT_BOUND = 1e-3  # a k this close to a bound counts as at the bound


def fit(
    widths: ArrayLike,
    active: ArrayLike,
    *,
    architectures: Sequence[Any] | None = None,
    layers: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    level: float = LEVEL,
) -> Laws:
    """Fit the scaling laws to observations and compare them.

    Args:
        widths: number of neurons N of each observation.
        active: mean number of active neurons A of each observation, above 0.
        architectures: architecture of each observation. Without it, each observation is an architecture of its own; with
            ``seeds``, observations of the same width and layer share one.
        layers: index of the layer of each observation, from 0. Distinguishes layers of equal width in an architecture, and
            is needed for α at equal depth.
        seeds: seed of each observation. Observations that differ only in the seed are averaged.
        level: confidence level of the intervals.

    Returns:
        Laws: the fitted laws. Intervals need more cells than parameters, or two seeds that all architectures share.

    Raises:
        FitError: if the lengths differ, a value is not positive and finite, an observation has more active neurons than
            neurons, there are fewer than two widths, an architecture lacks layers for a seed, or ``level`` is not between 0
            and 1.

    Examples:
        >>> laws = fit([64, 256, 1024], [24.0, 48.0, 96.0])
        >>> round(laws.fits["sqrt"].parameters["F"].value, 6)
        3.0
    """
    if not 0 < level < 1:
        raise FitError(f"level is {level:g}; give a confidence level between 0 and 1, such as 0.95")
    observed = group_observations(widths, active, architectures, layers, seeds)
    cells = observed.cells
    distinct = np.unique(cells.width)
    if len(distinct) < 2:
        raise FitError(f"all observations have the width {distinct[0]:g}; give at least two different widths")
    design = ExponentDesign(cells.width, cells.layer, cells.architecture)
    return Laws(
        fits={name: _fit_law(law, observed, level) for name, law in LAWS.items()},
        exponent=design.fit(observed.by_seed, level),
        cells=len(cells.width),
        widths=len(distinct),
        architectures=len(np.unique(cells.architecture)),
        seeds=observed.seeds,
        level=level,
    )


def _fit_law(law: Law, observed: Observed, level: float) -> LawFit:
    cells = observed.cells
    c, k, rss = (float(value) for value in fit_cells(law, cells))
    at_bound = law.parameter is not None and min(abs(k - bound) for bound in law.bounds) < _AT_BOUND
    by_seed = fit_cells(law, observed.seed_cells)[:2]
    reference = np.array([float(REFERENCE_WIDTH)])
    at_reference = gradient(law, reference, c, k)[0]

    covariance, degrees = _covariance(gradient(law, cells.width, c, k), rss)

    def interval(value: float, values: Array, direction: Array) -> Estimate:
        error = math.nan if at_bound else math.sqrt(max(float(direction @ covariance @ direction), 0.0))
        seeds = Coefficient.of_seeds(value, values[:0] if at_bound else values)
        return TwoErrors(seeds, Coefficient(value, error, degrees)).interval(level)

    unit = np.eye(len(law.parameters))
    coefficient = interval(c, by_seed[0], unit[0])
    parameters = {law.coefficient: coefficient.exp() if law.slope is None else coefficient}
    if law.parameter is not None:
        shape = interval(k, by_seed[1], unit[1])
        parameters[law.parameter] = shape.exp() if law.logarithmic else shape
    active = law.log_active(reference, *(values[:, None] for values in by_seed))[:, 0]
    return LawFit(
        law,
        parameters,
        at_bound=at_bound,
        aicc=aicc(rss, len(cells.width), len(law.parameters) + 1),
        left_out_error=left_out_error(law, cells, cells.width),
        left_out_architecture=left_out_error(law, cells, cells.architecture),
        at_reference=interval(
            float(law.log_active(reference, np.asarray(c), np.asarray(k))[0]), active, at_reference
        ).exp(),
    )


def _covariance(jacobian: Array, rss: float) -> tuple[Array, int]:
    """Return the covariance of the parameters of a least-squares fit, NaN without spare cells, and its degrees of freedom."""
    cells, parameters = jacobian.shape
    degrees = cells - parameters
    if degrees < 1:
        return np.full((parameters, parameters), math.nan), degrees
    return np.asarray(np.linalg.pinv(jacobian.T @ jacobian) * rss / degrees), degrees
