"""A number with its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
"""Default confidence level of intervals."""


@dataclass(frozen=True)
class Estimate:
    """A value and its confidence interval.

    Attributes:
        value: the estimate.
        low, high: bounds of the interval; ``nan`` if the data gives no interval.
    """

    value: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        return self.format("{:.3g}")

    def format(self, number: str) -> str:
        """Return ``value (low … high)``, with each number formatted by the format string ``number``."""
        if math.isnan(self.low):
            return number.format(self.value)
        return f"{number.format(self.value)} ({number.format(self.low)} … {number.format(self.high)})"

    def plus_minus(self, number: str) -> str:
        """Return ``value ± half-width``, for a symmetric interval."""
        if math.isnan(self.low):
            return number.format(self.value)
        return f"{number.format(self.value)} ± {number.format((self.high - self.low) / 2)}"

    def clip(self, minimum: float, maximum: float) -> Estimate:
        """Return the estimate with its interval clipped to [minimum, maximum], such as [0, 1] for a share."""
        return self if math.isnan(self.low) else Estimate(self.value, max(self.low, minimum), min(self.high, maximum))

    def contains(self, value: float) -> bool:
        """Return whether the interval contains ``value`` up to rounding; ``False`` if there is no interval."""
        slack = 1e-9 * max(1.0, abs(value))
        return self.low - slack <= value <= self.high + slack

    def exp(self) -> Estimate:
        """Return the estimate of e^x, given this estimate of x."""
        with np.errstate(over="ignore"):
            low, value, high = np.exp([self.low, self.value, self.high])
        return Estimate(float(value), float(low), float(high))

    def to_dict(self) -> dict[str, float | None]:
        """Return value and bounds for JSON; numbers that are not finite become ``None``."""
        return {"value": finite_or_none(self.value), "low": finite_or_none(self.low), "high": finite_or_none(self.high)}


def finite_or_none(value: float) -> float | None:
    """Return ``value``, or ``None`` if it is NaN or infinite, which JSON cannot hold."""
    return value if math.isfinite(value) else None


def student_quantile(degrees: int, level: float) -> float:
    """Return t such that Student's distribution with ``degrees`` degrees of freedom has the probability ``level`` in [−t, t]."""
    from scipy.special import stdtrit  # slow to import, so not part of `import actratio`

    return float(stdtrit(degrees, (1 + level) / 2))


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Return the mean of n independent values with Student's interval, mean ± t(n−1)·s/√n; no interval for one value.

    >>> mean_interval([1.0, 2.0, 3.0])
    Estimate(value=2.0, low=-0.48413771..., high=4.48413771...)
    """
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return Estimate(mean)
    half = student_quantile(len(array) - 1, level) * float(array.std(ddof=1)) / math.sqrt(len(array))
    return Estimate(mean, mean - half, mean + half)


def median_interval(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Return the median of n independent values with its distribution-free interval, between two of the values; no interval for few values.

    Source: Conover, *Practical Nonparametric Statistics* (3rd edition, 1999), section 3.2, as ``scipy.stats.quantile_test`` has it.

    >>> median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 70.0])
    Estimate(value=4.0, low=1.0, high=70.0)
    """
    from scipy.stats import quantile_test  # slow to import

    interval = quantile_test(values, p=0.5).confidence_interval(level)
    return Estimate(float(np.median(values)), float(interval.low), float(interval.high))


def bootstrap_interval(value: float, draws: NDArray[np.float64], clusters: int, level: float = LEVEL) -> Estimate:
    """Return ``value`` with the interval value ± t(G−1)·√(G/(G−1))·SE, G being the number of clusters.

    Percentiles of the draws would be too narrow for the few clusters (architectures) of a study.
    Source: Cameron & Miller, "A Practitioner's Guide to Cluster-Robust Inference", Journal of Human Resources 50 (2015),
    section VI.

    Args:
        value: estimate from the data itself.
        draws: estimates from bootstrap resamples, of shape (resamples,); with fewer than two there is no interval.
        clusters: number of independent clusters that were resampled.
        level: confidence level.
    """
    if len(draws) < 2:
        return Estimate(value)
    error = float(np.std(draws, ddof=1)) * math.sqrt(clusters / (clusters - 1))
    half = student_quantile(clusters - 1, level) * error
    return Estimate(value, value - half, value + half)
