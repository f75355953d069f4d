"""A number with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
"""The level of every interval, unless another is asked for."""


@dataclass(frozen=True)
class Estimate:
    """A value and its interval; the bounds are ``nan`` where the data cannot give one."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        return self.format("{:.3g}")

    def format(self, number: str) -> str:
        """Value and interval, each written by the format string ``number``."""
        if math.isnan(self.low):
            return number.format(self.value)
        return f"{number.format(self.value)} ({number.format(self.low)} … {number.format(self.high)})"

    def plus_minus(self, number: str) -> str:
        """Value ± half of a symmetric interval."""
        if math.isnan(self.low):
            return number.format(self.value)
        return f"{number.format(self.value)} ± {number.format((self.high - self.low) / 2)}"

    def within(self, least: float, most: float) -> Estimate:
        """The interval cut where its quantity ends: a share is none below 0 or above 1, whatever Student's t says."""
        return Estimate(self.value, max(self.low, least), min(self.high, most)) if self.low == self.low else self

    def holds(self, value: float) -> bool:
        """Whether the interval contains ``value``, up to rounding; one that is not known holds nothing."""
        slack = 1e-9 * max(1.0, abs(value))
        return self.low - slack <= value <= self.high + slack


def student_quantile(freedom: int, level: float) -> float:
    """t such that Student's distribution with ``freedom`` degrees has ``level`` of its mass in ±t."""
    from scipy.special import stdtrit  # heavy, so not on `import actratio`

    return float(stdtrit(freedom, (1 + level) / 2))


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Mean of independent values and Student's interval for it: mean ± t(n−1)·s/√n; none for one value.

    >>> mean_interval([1.0, 2.0, 3.0])
    Estimate(value=2.0, low=-0.48413771..., high=4.48413771...)
    """
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return Estimate(mean)
    half = student_quantile(len(array) - 1, level) * float(array.std(ddof=1)) / math.sqrt(len(array))
    return Estimate(mean, mean - half, mean + half)
