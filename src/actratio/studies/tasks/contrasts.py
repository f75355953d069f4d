"""Linear contrasts of log A over a fixed set of networks, with the wider of two intervals.

Seeds were sampled, so one figure a seed and Student's t give an interval *over seeds*. But all seeds share how far each network
is from the fitted line, which that interval does not contain. The interval *over cells* comes from the residuals of the means
over seeds. The wider one decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actratio.statistics.estimate import Estimate, student_quantile

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Contrast:
    """An estimated coefficient.

    Attributes:
        value: the mean over seeds.
        seed_error: standard error over seeds; NaN for one seed.
        seed_degrees: its degrees of freedom.
        cell_error: standard error over cells; NaN if there are no more cells than coefficients.
        cell_degrees: its degrees of freedom.
    """

    value: float
    seed_error: float
    seed_degrees: int
    cell_error: float
    cell_degrees: int

    @property
    def over_seeds(self) -> Estimate:
        """The value with its interval over seeds."""
        return self._interval(self.seed_error, self.seed_degrees)

    @property
    def over_cells(self) -> Estimate:
        """The value with its interval over cells."""
        return self._interval(self.cell_error, self.cell_degrees)

    @property
    def estimate(self) -> Estimate:
        """The value with the wider interval."""
        intervals = [item for item in (self.over_seeds, self.over_cells) if not math.isnan(item.low)]
        return max(intervals, key=lambda item: item.high - item.low, default=Estimate(self.value))

    @property
    def error(self) -> float:
        """The larger standard error; NaN if there is neither."""
        known = [error for error in (self.seed_error, self.cell_error) if not math.isnan(error)]
        return max(known, default=math.nan)

    def p_value(self, null: float) -> float:
        """Return the larger of the two p-values of the coefficient being ``null``; NaN if there is neither."""
        from scipy.special import stdtr

        values = []
        for error, degrees in ((self.seed_error, self.seed_degrees), (self.cell_error, self.cell_degrees)):
            if not math.isnan(error):
                distance = abs(self.value - null)
                t = distance / error if error else math.inf if distance else 0.0
                values.append(2 * float(stdtr(degrees, -t)))
        return max(values, default=math.nan)

    def _interval(self, error: float, degrees: int) -> Estimate:
        if math.isnan(error):
            return Estimate(self.value)
        half = student_quantile(degrees, 0.95) * error
        return Estimate(self.value, self.value - half, self.value + half)


class Design:
    """A linear model of log A, ready to be applied to the measurements of any seeds.

    Args:
        columns: one column per coefficient, each of shape (cells,); the first is the coefficient that is wanted.
    """

    def __init__(self, *columns: ArrayLike) -> None:
        matrix = np.stack([np.asarray(column, dtype=np.float64) for column in columns], 1)
        self._inverse = np.linalg.pinv(matrix)
        self._hat = matrix @ self._inverse
        self._degrees = len(matrix) - int(np.linalg.matrix_rank(matrix))
        self.is_estimable = bool(np.allclose(self._inverse[0] @ matrix, np.eye(len(columns))[0]))

    def contrast(self, log_active: Numbers) -> Contrast:
        """Return the first coefficient.

        Args:
            log_active: log A, shape (seeds, cells).
        """
        weights = self._inverse[0]
        values = log_active @ weights
        seeds = len(values)
        mean = log_active.mean(0)
        squares = float(np.square(mean - self._hat @ mean).sum())
        return Contrast(
            value=float(values.mean()),
            seed_error=float(values.std(ddof=1)) / math.sqrt(seeds) if seeds > 1 else math.nan,
            seed_degrees=seeds - 1,
            cell_error=math.sqrt(squares / self._degrees) * float(np.linalg.norm(weights))
            if self._degrees
            else math.nan,
            cell_degrees=self._degrees,
        )

    def left_out_error(self, mean: Numbers) -> float:
        """Return the root mean square error of each cell's prediction from the others; infinite if one can't be predicted."""
        freedom = 1 - np.diag(self._hat)
        if (freedom < 1e-9).any():
            return math.inf
        return float(np.sqrt(np.square((mean - self._hat @ mean) / freedom).mean()))
