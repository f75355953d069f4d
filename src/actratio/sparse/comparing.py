"""Compare a model with another form of it: speed and loss, with intervals."""

from __future__ import annotations

import math
import time
from statistics import median

from torch import Tensor, nn

from actratio.sparse.text import SequenceLosses
from actratio.sparse.timing import ForwardPasses
from actratio.statistics.estimate import Estimate, median_interval
from actratio.statistics.ratios import ratio_of_means

_MIN_ROUNDS, _MAX_ROUNDS = 8, 100
_SECONDS = 5.0  # after which no round begins, if there are enough
_NARROW = 0.05  # width of an interval, relative to its value, that is enough
_RUN = 3  # decoding steps of a model in a row; the first one isn't counted


def speedup(dense: nn.Module, other: nn.Module, batch: int, *, prompt: int = 0, text: Tensor | None = None) -> Estimate:
    """Return how many times as fast another form of a model does a forward pass, with its 95% interval over rounds.

    The two take turns. A round gives one ratio of their times, and the result is the median of the ratios with its distribution-free
    interval, which a few disturbed rounds don't change. Rounds are added until it is narrow, there are 100, or 5 seconds are over.

    Args:
        dense, other: in evaluation mode.
        batch, prompt, text: as for ``ForwardPasses``.

    Raises:
        SiteError: as ``ForwardPasses``.
    """
    passes = [ForwardPasses(model, batch, prompt=prompt, text=text) for model in (dense, other)]
    run = 1 if prompt else _RUN
    for timed in passes:
        timed.seconds()  # warms up
    ratios: list[float] = []
    began = time.perf_counter()
    for number in range(_MAX_ROUNDS):
        seconds = [0.0, 0.0]
        for place in (0, 1) if number % 2 else (1, 0):
            times = [passes[place].seconds() for _ in range(run)]
            seconds[place] = median(times[1:] or times)
        ratios.append(seconds[0] / seconds[1])
        if number + 1 < _MIN_ROUNDS:
            continue
        estimate = median_interval(ratios)
        is_narrow = estimate.high - estimate.low <= _NARROW * estimate.value
        if is_narrow or time.perf_counter() - began > _SECONDS:
            break
    return estimate


def loss_increase(dense: SequenceLosses, other: SequenceLosses) -> Estimate:
    """Return by how many per cent the loss of another form of a model is higher, with its 95% interval over sequences.

    The interval is Fieller's, of the ratio of the two models' nats. If the other loss isn't finite, the increase is infinite and has no
    interval.

    Args:
        dense, other: losses on the same sequences.
    """
    if not bool(other.nats.isfinite().all()):
        return Estimate(math.inf)
    ratio = ratio_of_means(other.nats.numpy(), dense.nats.numpy())
    return Estimate(*(100 * (value - 1) for value in (ratio.value, ratio.low, ratio.high)))
