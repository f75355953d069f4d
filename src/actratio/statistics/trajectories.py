"""What changes over training: where to look, and how to compare runs at equal loss."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def log_spaced(last: int, points: int) -> list[int]:
    """Return about ``points`` steps from 0 to ``last``, evenly spaced on a logarithmic axis after step 0.

    Early steps are whole numbers that lie closer than the spacing, so that there can be fewer of them.

    >>> log_spaced(100, 5)
    [0, 1, 5, 22, 100]
    """
    steps = np.geomspace(1, max(last, 1), max(points - 1, 1)).round().astype(int)
    return sorted({0, *steps.tolist(), last})


def at_loss(losses: ArrayLike, values: ArrayLike, target: float) -> float:
    """Return the value at which the loss first falls to ``target``, by linear interpolation between two checkpoints.

    The result is NaN for a run that never reaches the loss: it is censored, and must be reported as such.

    Args:
        losses: training loss at each checkpoint, in the order of training.
        values: the values at the same checkpoints.
        target: the loss.

    >>> at_loss([2.0, 1.0, 0.5], [0.5, 0.3, 0.1], 0.75)
    0.2
    """
    loss, value = np.asarray(losses, dtype=float), np.asarray(values, dtype=float)
    reached = np.flatnonzero(loss <= target)
    if not len(reached):
        return math.nan
    first = int(reached[0])
    if first == 0:
        return float(value[0])
    share = (loss[first - 1] - target) / (loss[first - 1] - loss[first])
    return float(value[first - 1] + share * (value[first] - value[first - 1]))
