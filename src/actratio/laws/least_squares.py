"""Least squares of log A for one law, and the criteria that compare laws.

Counts have relative errors, so that the fit is on the log scale. All functions take one set of cells, with arrays of
shape (cells,), or several resamples at once, with arrays of shape (resamples, cells).
"""

from __future__ import annotations

import math

import numpy as np

from actratio.laws.cells import Cells
from actratio.laws.law import Array, Law

_GRID_POINTS = 89


def fit_cells(law: Law, cells: Cells) -> tuple[Array, Array, Array]:
    """Return log F, k and the residual sum of squares of log A, for each resample of ``cells``.

    k is log k for a law that is ``logarithmic``, and 0 for a law without a shape parameter.
    """
    if law.linear:  # log A is a straight line in log N
        log_n = np.log(cells.width) - _mean(np.log(cells.width), cells.present)[..., None]
        moment = (cells.present * log_n * cells.log_active).sum(-1)
        k = np.clip(moment / (cells.present * log_n**2).sum(-1), *law.bounds)
    elif law.parameter is None:
        k = np.zeros(cells.width.shape[:-1])
    else:
        k = _search(law, Cells(*(np.atleast_2d(values) for values in cells))).reshape(cells.width.shape[:-1])
    log_scale, rss = _residuals(law, cells, k)
    return log_scale, k, rss


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


def left_out_error(law: Law, cells: Cells) -> float:
    """Return the root mean square of log(predicted / observed), each width being predicted by a fit to the other widths.

    The result is ``nan`` for fewer than three widths.
    """
    widths = np.unique(cells.width)
    if len(widths) < 3:
        return math.nan
    kept = (cells.width != widths[:, None]).astype(np.float64)  # row i leaves out the i-th width
    repeated = Cells(*(np.broadcast_to(values, kept.shape) for values in cells))
    log_scale, k, _ = fit_cells(law, repeated._replace(present=kept))
    errors = log_scale[:, None] + law.log_shape(cells.width, k[:, None]) - cells.log_active
    return math.sqrt(float((errors**2)[kept == 0].sum()) / len(cells.width))


def _search(law: Law, cells: Cells) -> Array:
    """Return the best k of each resample: the best point of a grid, refined between its neighbours."""
    from scipy.optimize import elementwise  # slow to import, so not part of `import actratio`

    grid = np.linspace(*law.bounds, _GRID_POINTS)
    rows = np.arange(len(cells.width))
    best = np.array([_residuals(law, cells, np.full(len(rows), k))[1] for k in grid]).argmin(0)
    k: Array = grid[best]
    inner = rows[(best > 0) & (best < len(grid) - 1)]  # the other resamples keep the bound, and `at_bound` reports it
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
    """Return log F and the residual sum of squares of log A for given k, for each resample."""
    difference = cells.log_active - law.log_shape(cells.width, k[..., None])
    log_scale = _mean(difference, cells.present)
    return log_scale, (cells.present * (difference - log_scale[..., None]) ** 2).sum(-1)


def _mean(values: Array, present: Array) -> Array:
    """Return the mean over the cells that are present."""
    return np.asarray((present * values).sum(-1) / present.sum(-1))
