"""The ratio of two means."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from actratio.statistics.estimate import LEVEL, Estimate, student_quantile


def ratio_of_means(numerator: ArrayLike, denominator: ArrayLike, level: float = LEVEL) -> Estimate:
    """Return mean(numerator)/mean(denominator) of paired values, with Fieller's interval.

    The interval holds every ratio r for which Student's t test doesn't reject that numerator − r·denominator has the mean 0. There is
    none if the denominator's mean could be 0, because then no ratio can be excluded on at least one side.

    Source: Fieller, "Some Problems in Interval Estimation", Journal of the Royal Statistical Society B 16 (1954).

    Args:
        numerator, denominator: paired values, such as one figure each for every seed.
        level: confidence level.
    """
    x, y = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    a, b = float(x.mean()), float(y.mean())
    if b == 0:
        return Estimate(math.nan)
    if len(x) < 2:
        return Estimate(a / b)
    covariance = np.cov(x, y) / len(x) * student_quantile(len(x) - 1, level) ** 2
    # (a − r·b)² ≤ t²·Var(x − r·y) is a quadratic in r.
    square, half, constant = b * b - covariance[1, 1], a * b - covariance[0, 1], a * a - covariance[0, 0]
    if square <= 0:
        return Estimate(a / b)
    root = math.sqrt(max(half * half - square * constant, 0.0))
    return Estimate(a / b, float((half - root) / square), float((half + root) / square))
