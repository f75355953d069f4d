"""The effect of depth at equal width: least squares of log A = c + α·log N + δ·layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from actratio.laws.cells import Cells
from actratio.laws.law import Array
from actratio.statistics.estimate import Estimate, bootstrap_interval

_MIN_SHARE = 0.95  # of resamples that must separate depth from width; fewer would be a biased selection


def depth_effect(cells: Cells, resamples: Cells, clusters: int, level: float) -> tuple[Estimate, Estimate] | None:
    """Return the factor e^δ by which each additional layer multiplies A, and α at equal depth.

    The result is ``None`` if width and layer do not vary independently. The estimates have no interval if fewer than 95% of
    the resamples separate depth from width.

    Args:
        cells: arrays of shape (cells,).
        resamples: bootstrap resamples of the cells, arrays of shape (resamples, cells).
        clusters: number of independent clusters that were resampled.
        level: confidence level.
    """
    if not _separates_depth(cells):
        return None
    draws = _coefficients(resamples.select(_separates_depth(resamples)))
    if len(draws) < _MIN_SHARE * len(resamples.width):
        draws = draws[:0]
    coefficients = _coefficients(cells)
    alpha = bootstrap_interval(float(coefficients[1]), draws[:, 1], clusters, level)
    depth = bootstrap_interval(float(coefficients[2]), draws[:, 2], clusters, level).exp()
    return depth, alpha


def _design(cells: Cells) -> Array:
    """Return the design matrix, of shape (…, cells, 3)."""
    columns = np.stack([np.ones_like(cells.width), np.log(cells.width), cells.layer], axis=-1)
    return np.asarray(columns * cells.present[..., None])


def _separates_depth(cells: Cells) -> NDArray[np.bool_]:
    """Return whether width and layer vary independently, for each resample."""
    return np.asarray(np.linalg.matrix_rank(_design(cells)) == 3)


def _coefficients(cells: Cells) -> Array:
    """Return c, α and δ by least squares, of shape (…, 3)."""
    return np.asarray((np.linalg.pinv(_design(cells)) @ cells.log_active[..., None])[..., 0])
