"""Linear models of log A, and estimates with two sources of error: seeds, and how far cells are from the fit.

The wider of the two intervals counts. Architectures were chosen, so they are not resampled. A seed is a new draw of the initial weights and of the order of the
examples. What all seeds share, such as a layer that is off the law in every run, shows only in the residuals over cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actratio.statistics.estimate import LEVEL, Estimate, student_quantile

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Coefficient:
    """An estimate with a standard error.

    Attributes:
        value: the estimate.
        error: its standard error; ``nan`` if the data gives none.
        degrees: degrees of freedom of the standard error.
    """

    value: float
    error: float
    degrees: int

    @classmethod
    def of_seeds(cls, value: float, values: ArrayLike) -> Coefficient:
        """Return ``value`` with the standard error of the mean over seeds.

        Args:
            value: the estimate.
            values: the estimate from each seed, of shape (seeds,); with fewer than two, there is no standard error.
        """
        array = np.asarray(values, dtype=np.float64)
        if len(array) < 2:
            return cls(value, math.nan, 0)
        return cls(value, float(array.std(ddof=1)) / math.sqrt(len(array)), len(array) - 1)

    def interval(self, level: float = LEVEL) -> Estimate:
        """Return the estimate with Student's interval; without one if there is no standard error."""
        if math.isnan(self.error) or self.degrees < 1:
            return Estimate(self.value)
        half = student_quantile(self.degrees, level) * self.error
        return Estimate(self.value, self.value - half, self.value + half)

    def p_value(self, null: float) -> float:
        """Return the two-sided p-value of the test that the truth is ``null``; ``nan`` without a standard error."""
        from scipy.special import stdtr

        if math.isnan(self.error) or self.degrees < 1:
            return math.nan
        if self.error == 0:
            return 1.0 if self.value == null else 0.0
        return float(2 * stdtr(self.degrees, -abs(self.value - null) / self.error))


@dataclass(frozen=True)
class TwoErrors:
    """One estimate with two standard errors, over seeds and over cells. At each level, the wider interval counts.

    Student's quantile depends on the degrees of freedom, so that the interval that is wider at one level can be the narrower one
    at another level.

    Attributes:
        seeds, cells: the estimate with each standard error.
    """

    seeds: Coefficient
    cells: Coefficient

    @property
    def value(self) -> float:
        """The estimate."""
        return self.seeds.value

    @property
    def error(self) -> float:
        """The larger standard error; ``nan`` if there is neither."""
        known = [error for error in (self.seeds.error, self.cells.error) if not math.isnan(error)]
        return max(known, default=math.nan)

    def interval(self, level: float = LEVEL) -> Estimate:
        """Return the estimate with the interval that is wider at this level."""
        return wider(self.seeds, self.cells, level).interval(level)

    def p_value(self, null: float) -> float:
        """Return the larger p-value of the test that the truth is ``null``; ``nan`` without a standard error."""
        values = [self.seeds.p_value(null), self.cells.p_value(null)]
        return max((value for value in values if not math.isnan(value)), default=math.nan)


def wider(first: Coefficient, second: Coefficient, level: float = LEVEL) -> Coefficient:
    """Return the one whose interval at this level is wider; one without an interval is never chosen over the other."""
    if math.isnan(first.error) or math.isnan(second.error):
        return second if math.isnan(first.error) else first
    first_half, second_half = (item.interval(level).high - item.value for item in (first, second))
    # Without degrees of freedom there is no interval, and the comparison is false.
    return second if second_half > first_half or math.isnan(first_half) else first


class LinearModel:
    """Ordinary least squares with one design for all seeds.

    >>> model = LinearModel(np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]))
    >>> round(model.contrast([0.0, 1.0], np.array([[1.0, 3.0, 5.0], [1.0, 2.0, 3.0]])).value, 6)
    1.5

    Args:
        design: shape (cells, coefficients).
    """

    def __init__(self, design: Numbers) -> None:
        self._design = design
        self.pseudo_inverse = np.linalg.pinv(design)
        self.rank = int(np.linalg.matrix_rank(design))
        self.coefficients = design.shape[1]
        self.degrees = len(design) - self.rank
        self._residuals = np.eye(len(design)) - design @ self.pseudo_inverse

    @property
    def is_identified(self) -> bool:
        """Whether the design separates all coefficients."""
        return bool(self.rank == self.coefficients)

    def can_estimate(self, weights: ArrayLike) -> bool:
        """Whether the design determines this weighted sum of the coefficients."""
        given = np.asarray(weights, dtype=np.float64)
        return bool(np.allclose(given @ self.pseudo_inverse @ self._design, given))

    def contrast(self, weights: ArrayLike, values: Numbers) -> TwoErrors:
        """Return a weighted sum of the coefficients, with its standard errors over seeds and over cells.

        Args:
            weights: one for each coefficient.
            values: shape (seeds, cells). The fit to the means over seeds has the same weighted sum as the mean over
                seeds, because least squares is linear in the values.
        """
        sums = np.asarray(weights, dtype=np.float64) @ self.pseudo_inverse
        by_seed = values @ sums
        value = float(by_seed.mean())
        error = math.nan
        if self.degrees > 0:
            error = self.spread(values.mean(0)) * math.sqrt(float(sums @ sums))
        return TwoErrors(Coefficient.of_seeds(value, by_seed), Coefficient(value, error, self.degrees))

    def spread(self, values: Numbers) -> float:
        """Return the standard deviation of the residuals; ``nan`` without spare cells.

        Args:
            values: shape (cells,).
        """
        if self.degrees < 1:
            return math.nan
        residuals = self._residuals @ values
        return math.sqrt(float(residuals @ residuals) / self.degrees)

    def left_out_error(self, values: Numbers) -> float:
        """Return the root mean square error of each cell's prediction from the others; infinite if one can't be predicted.

        Args:
            values: shape (cells,).
        """
        freedom = np.diag(self._residuals)
        if (freedom < 1e-9).any():
            return math.inf
        return float(np.sqrt(np.square(self._residuals @ values / freedom).mean()))
