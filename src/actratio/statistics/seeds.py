"""Two-stage estimates: one figure for each seed, then Student's t over the seeds.

The seeds are what was sampled, so they are the unit of evidence. Architectures, widths and tasks were chosen, and stay fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from actratio.statistics.estimate import LEVEL, Estimate, mean_interval

if TYPE_CHECKING:
    import pandas as pd


def per_seed(frame: pd.DataFrame, statistic: Callable[[pd.DataFrame], float]) -> pd.Series:
    """Return the statistic of each seed, indexed by ``seed``.

    Args:
        frame: rows with the column ``seed``.
        statistic: computes one figure from the rows of one seed.
    """
    import pandas as pd

    return pd.Series({seed: statistic(rows) for seed, rows in frame.groupby("seed")}, name="statistic", dtype=float)


def over_seeds(values: Iterable[float], level: float = LEVEL) -> Estimate:
    """Return the mean over seeds, or other independent units such as documents, with Student's interval.

    Seeds whose figure is NaN, such as runs that never reached a loss, are left out; report how many there were. Without any
    other seed, the mean is NaN.

    Args:
        values: one figure for each seed, such as the difference of two conditions for each seed.
        level: confidence level.
    """
    known = [float(value) for value in values if not math.isnan(value)]
    return mean_interval(known, level) if known else Estimate(math.nan)


def two_stage(frame: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], level: float = LEVEL) -> Estimate:
    """Return the mean over seeds of a statistic, as ``over_seeds`` does.

    Args:
        frame: rows with the column ``seed``.
        statistic: computes one figure from the rows of one seed.
        level: confidence level.
    """
    return over_seeds(per_seed(frame, statistic), level)


def log_slope(x: ArrayLike, y: ArrayLike) -> float:
    """Return the slope of log y against log x by least squares, such as α of A = F·N^α.

    >>> round(log_slope([1, 4, 16], [3, 6, 12]), 6)
    0.5
    """
    return float(np.polyfit(np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float)), 1)[0])


def prediction_interval(values: ArrayLike, level: float = LEVEL) -> Estimate:
    """Return the mean of n values with the interval for one new value, mean ± t(n−1)·s·√(1 + 1/n).

    A single published figure is compared with this interval, not with the interval of the mean, which is √(n + 1) times
    narrower.
    """
    array = np.asarray(values, dtype=np.float64)
    mean = mean_interval(array.tolist(), level)
    half = (mean.high - mean.low) / 2 * float(np.sqrt(len(array) + 1))
    return Estimate(mean.value, mean.value - half, mean.value + half)
