"""Compare a model with another form of it: speed and loss, with intervals."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from statistics import median

from torch import Tensor, nn

from actratio.auditing.results import Work
from actratio.sparse.text import Batch, sequence_losses
from actratio.sparse.timing import ForwardPasses
from actratio.statistics.estimate import Estimate, mean_interval
from actratio.statistics.ratios import ratio_of_means

_MIN_ROUNDS, _MAX_ROUNDS = 8, 100
_SECONDS = 5.0  # after which no round begins, if there are enough
_NARROW = 0.05  # width of an interval, relative to its value, that is enough
_RUN = 3  # decoding steps of a model in a row; the first one isn't counted


def speedup(dense: nn.Module, other: nn.Module, work: Work) -> Estimate:
    """Return how many times as fast another form of a model does some work, with its 95 % interval over rounds.

    The two take turns. A round gives one ratio of their times; the interval is Student's, of the ratios' logarithms. Rounds are added
    until it is narrow, there are 100, or 5 seconds are over.

    Args:
        dense, other: in evaluation mode.
        work: what is timed.

    Raises:
        SiteError: a model can't do this work.
    """
    passes = [ForwardPasses(model, work.batch, prompt=work.prompt) for model in (dense, other)]
    run = 1 if work.prompt else _RUN
    for timed in passes:
        timed.seconds()  # warms up
    logarithms: list[float] = []
    began = time.perf_counter()
    for number in range(_MAX_ROUNDS):
        seconds = [0.0, 0.0]
        for place in (0, 1) if number % 2 else (1, 0):
            times = [passes[place].seconds() for _ in range(run)]
            seconds[place] = median(times[1:] or times)
        logarithms.append(math.log(seconds[0] / seconds[1]))
        estimate = mean_interval(logarithms).exp()
        is_narrow = estimate.high - estimate.low <= _NARROW * estimate.value
        if number + 1 >= _MIN_ROUNDS and (is_narrow or time.perf_counter() - began > _SECONDS):
            break
    return estimate


def loss_increase(dense_nats: Tensor, model: nn.Module, batches: Sequence[Batch]) -> Estimate:
    """Return by how many per cent a model's loss is higher than that of the dense model, with its 95 % interval over sequences.

    The loss is that of all sequences together. The interval is Fieller's, of the ratio of the two models' nats.

    Args:
        dense_nats: (sequences,), what ``sequence_losses`` returned for the dense model on the same batches.
        model: a causal language model.
        batches: text.

    Raises:
        SiteError: as ``sequence_losses``.
    """
    nats, _ = sequence_losses(model, batches)
    ratio = ratio_of_means(nats.numpy(), dense_nats.numpy())
    return Estimate(*(100 * (value - 1) for value in (ratio.value, ratio.low, ratio.high)))
