"""Fit the scaling laws to observations.

A law is fitted to *cells*: one value per layer of an architecture, the mean over its seeds. Seeds repeat the same
measurement, so that separate points would overstate the evidence.

Intervals come from a bootstrap over architectures and, within an architecture, over seeds (``cells.Runs.resamples``);
``estimate.bootstrap_interval`` gives the formula. F and K are treated on the log scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from actratio.errors import FitError
from actratio.laws.cells import Cells, Runs
from actratio.laws.depth import depth_effect
from actratio.laws.law import LAWS, Law
from actratio.laws.least_squares import aicc, fit_cells, left_out_error
from actratio.laws.results import MIN_ARCHITECTURES, LawFit, Laws
from actratio.statistics.estimate import LEVEL, bootstrap_interval

RESAMPLES = 1000
"""Default number of bootstrap resamples."""

_AT_BOUND = 1e-3  # a k this close to a bound counts as at the bound


def fit(
    widths: ArrayLike,
    active: ArrayLike,
    *,
    architectures: Sequence[Any] | None = None,
    layers: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Laws:
    """Fit the scaling laws to observations and compare them.

    Args:
        widths: number of neurons N of each observation.
        active: mean number of active neurons A of each observation, above 0.
        architectures: architecture of each observation. Without it, each observation is an architecture of its own; with
            ``seeds``, observations of the same width and layer share one.
        layers: index of the layer of each observation, from 0. Distinguishes layers of equal width in an architecture, and
            is needed for ``Laws.depth``.
        seeds: seed of each observation. Observations that differ only in the seed are averaged.
        level: confidence level of the intervals.
        resamples: number of bootstrap resamples; 0 for no intervals.

    Returns:
        Laws: the fitted laws. Intervals need at least three architectures, or one architecture with two seeds.

    Raises:
        FitError: if the lengths differ, a value is not positive and finite, an observation has more active neurons than
            neurons, there are fewer than two widths, an architecture lacks layers for a seed, ``level`` is not between 0 and
            1, or ``resamples`` is 1 or negative.

    Examples:
        >>> laws = fit([64, 256, 1024], [24.0, 48.0, 96.0], resamples=0)
        >>> round(laws.fits["sqrt"].parameters["F"].value, 6)
        3.0
    """
    if not 0 < level < 1:
        raise FitError(f"level is {level:g}; give a confidence level between 0 and 1, such as 0.95")
    if resamples < 0 or resamples == 1:
        raise FitError(f"resamples is {resamples}; give 0 for no intervals, or at least 2")
    runs = Runs.group(widths, active, architectures, layers, seeds)
    cells = runs.cells()
    distinct = np.unique(cells.width)
    if len(distinct) < 2:
        raise FitError(f"all observations have the width {distinct[0]:g}; give at least two different widths")
    # The spread between two architectures is not known well enough for an interval; seeds of a single one have their own.
    enough = len(runs.groups) == 1 or len(runs.groups) >= MIN_ARCHITECTURES
    replicates = runs.resamples(resamples if enough else 0)
    effect = None if layers is None else depth_effect(cells, replicates, runs.clusters, level)
    depth, alpha_at_depth = (None, None) if effect is None else effect
    return Laws(
        fits={name: _fit_law(law, cells, replicates, runs.clusters, level) for name, law in LAWS.items()},
        cells=len(cells.width),
        widths=len(distinct),
        architectures=len(runs.groups),
        seeds=runs.seeds,
        depth=depth,
        alpha_at_depth=alpha_at_depth,
        level=level,
    )


def _fit_law(law: Law, cells: Cells, resamples: Cells, clusters: int, level: float) -> LawFit:
    log_scale, k, rss = (float(value) for value in fit_cells(law, cells))
    log_scales, shapes, _ = fit_cells(law, resamples)
    parameters = {"F": bootstrap_interval(log_scale, log_scales, clusters, level).exp()}
    if law.parameter is not None:
        shape = bootstrap_interval(k, shapes, clusters, level)
        parameters[law.parameter] = shape.exp() if law.logarithmic else shape
    return LawFit(
        law,
        parameters,
        at_bound=law.parameter is not None and min(abs(k - bound) for bound in law.bounds) < _AT_BOUND,
        aicc=aicc(rss, len(cells.width), len(law.parameters) + 1),
        left_out_error=left_out_error(law, cells),
    )
