"""Least squares of log A for one law, and the criteria that compare laws.

Counts have relative errors, so that the fit is on the log scale. All functions take one set of cells, with arrays of
shape (cells,), or several sets at once, such as one for each seed, with arrays of shape (sets, cells).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from actratio.laws.cells import Cells
from actratio.laws.law import Array, Law

_GRID_POINTS = 89
_STEP = 1e-4  # of k, for a numerical derivative


def fit_cells(law: Law, cells: Cells) -> tuple[Array, Array, Array]:
    """Return c, k and the residual sum of squares of log A, for each set of ``cells``.

    c is log F for a law with a scale F. k is log k for a law that is ``logarithmic``, and 0 for a law without a shape
    parameter.
    """
    if law.linear:  # log A is a straight line in log N
        log_n = np.log(cells.width) - _mean(np.log(cells.width), cells.present)[..., None]
        moment = (cells.present * log_n * cells.log_active).sum(-1)
        k = np.clip(moment / (cells.present * log_n**2).sum(-1), *law.bounds)
    elif law.parameter is None:
        k = np.zeros(cells.width.shape[:-1])
    else:
        k = _search(law, Cells(*(np.atleast_2d(values) for values in cells))).reshape(cells.width.shape[:-1])
    c, rss = _residuals(law, cells, k)
    return c, k, rss


def aicc(rss: float, cells: int, parameters: int) -> float:
    """Return the corrected Akaike criterion n·ln(RSS/n) + 2p + 2p(p+1)/(n−p−1), or ``nan`` if n − p − 1 ≤ 0.

    Source: Hurvich & Tsai, "Regression and time series model selection in small samples", Biometrika 76 (1989).

    Args:
        rss: residual sum of squares.
        cells: number n of cells.
        parameters: number p of parameters, including the variance of the residuals.
    """
    if cells - parameters - 1 <= 0:
        return math.nan
    # For exact data the residuals are rounding errors, and their logarithm would rank the laws at random.
    floor = cells * 1e-20
    return (
        cells * math.log(max(rss, floor) / cells)
        + 2 * parameters
        + 2 * parameters * (parameters + 1) / (cells - parameters - 1)
    )


def left_out_error(law: Law, cells: Cells, groups: ArrayLike) -> float:
    """Return the root mean square of log(predicted / observed), each group being predicted by a fit to the other groups.

    The result is ``nan`` for fewer than three groups, and if the other groups have fewer than two widths.

    Args:
        law: the law.
        cells: arrays of shape (cells,).
        groups: label of each cell, such as its width or its architecture.
    """
    labels = np.asarray(groups)
    distinct = np.unique(labels)
    if len(distinct) < 3:
        return math.nan
    kept = (labels != distinct[:, None]).astype(np.float64)  # row i leaves out the i-th group
    if any(len(np.unique(cells.width[row > 0])) < 2 for row in kept):
        return math.nan
    repeated = Cells(*(np.broadcast_to(values, kept.shape) for values in cells))
    c, k, _ = fit_cells(law, repeated._replace(present=kept))
    errors = law.log_active(cells.width, c[:, None], k[:, None]) - cells.log_active
    return math.sqrt(float((errors**2)[kept == 0].sum()) / len(cells.width))


def gradient(law: Law, widths: Array, c: float, k: float) -> Array:
    """Return the derivatives of log A by c and by k at the widths, of shape (widths, parameters)."""
    at = np.asarray(k)
    columns = [law.slope_of(widths, at)]
    if law.parameter is not None:
        above, below = (law.log_active(widths, np.asarray(c), at + step) for step in (_STEP, -_STEP))
        columns.append((above - below) / (2 * _STEP))
    return np.stack(columns, axis=-1)


def _search(law: Law, cells: Cells) -> Array:
    """Return the best k of each set: the best point of a grid, refined between its neighbours."""
    from scipy.optimize import elementwise  # slow to import, so not part of `import actratio`

    grid = np.linspace(*law.bounds, _GRID_POINTS)
    rows = np.arange(len(cells.width))
    best = np.array([_residuals(law, cells, np.full(len(rows), k))[1] for k in grid]).argmin(0)
    k: Array = grid[best]
    inner = rows[(best > 0) & (best < len(grid) - 1)]  # the other sets keep the bound, and `at_bound` reports it
    if len(inner):
        bracket = tuple(grid[best[inner] + step] for step in (-1, 0, 1))
        k[inner] = elementwise.find_minimum(
            lambda x, row: _residuals(law, Cells(*(values[row] for values in cells)), x)[1],
            bracket,
            args=(inner,),
            tolerances={"xatol": 1e-6},
        ).x
    return k


def _residuals(law: Law, cells: Cells, k: Array) -> tuple[Array, Array]:
    """Return c and the residual sum of squares of log A for given k, for each set."""
    difference = cells.log_active - law.log_shape(cells.width, k[..., None])
    slope = law.slope_of(cells.width, k[..., None])
    c = (cells.present * slope * difference).sum(-1) / (cells.present * slope**2).sum(-1)
    return np.asarray(c), (cells.present * (difference - c[..., None] * slope) ** 2).sum(-1)


def _mean(values: Array, present: Array) -> Array:
    """Return the mean over the cells that are present."""
    return np.asarray((present * values).sum(-1) / present.sum(-1))
