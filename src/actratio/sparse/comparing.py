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

_MIN_ROUNDS, _MAX_ROUNDS = 9, 100  # of fewer, the interval would reach from the smallest ratio to the largest
_SECONDS = 5.0  # how long ``speedup`` measures
_NARROW = 0.05  # width of an interval, relative to its value, that is enough
_RUN = 3  # decoding steps of a model in a row; the first one isn't counted


def speedup(dense: nn.Module, other: nn.Module, batch: int, *, prompt: int = 0, text: Tensor | None = None) -> Estimate:
    """Return how many times as fast another form of a model does a forward pass, as ``Race`` measures it for at most 5 seconds.

    Args:
        dense, other, batch, prompt, text: as for ``Race.of_models``.

    Raises:
        SiteError: as ``ForwardPasses``.
    """
    race = Race.of_models(dense, other, batch, prompt=prompt, text=text)
    race.run(_SECONDS)
    return race.estimate


class Race:
    """Times forward passes of a model and of another form of it, in turns.

    A round gives one ratio of their times, and the result is the median of the ratios with its distribution-free interval, which a few
    disturbed rounds don't change. Rounds of one call of ``run`` are closer to each other than to those of another call, so the interval is
    widened until it has the median of each call.

    Args:
        dense, other: passes of the two.
    """

    def __init__(self, dense: ForwardPasses, other: ForwardPasses) -> None:
        self._passes = dense, other
        self._spells: list[list[float]] = []
        self._dense_seconds: list[float] = []
        for timed in self._passes:
            with timed.in_a_row(1):
                timed.seconds()  # warms up

    @classmethod
    def of_models(
        cls, dense: nn.Module, other: nn.Module, batch: int, *, prompt: int = 0, text: Tensor | None = None
    ) -> Race:
        """Return a race of two models.

        Args:
            dense, other: in evaluation mode.
            batch, prompt, text: as for ``ForwardPasses``.

        Raises:
            SiteError: as ``ForwardPasses``.
        """
        first, second = (ForwardPasses(model, batch, prompt=prompt, text=text) for model in (dense, other))
        return cls(first, second)

    @property
    def dense_seconds(self) -> float:
        """Seconds of a pass of the dense model: the median over rounds."""
        return median(self._dense_seconds)

    @property
    def estimate(self) -> Estimate:
        """How many times as fast the other form is, with its 95% interval over rounds, widened to contain the median of each spell."""
        pooled = median_interval([ratio for spell in self._spells for ratio in spell])
        medians = [median(spell) for spell in self._spells]
        return Estimate(pooled.value, min(pooled.low, *medians), max(pooled.high, *medians))

    def run(self, seconds: float, least: int = _MIN_ROUNDS, most: int = _MAX_ROUNDS) -> int:
        """Add rounds until the interval is narrow, time is over, or there are enough, and return how many were added.

        Args:
            seconds: no round begins after this time, if there are enough.
            least, most: rounds to add.
        """
        began = time.perf_counter()
        spell: list[float] = []
        self._spells.append(spell)
        while len(spell) < most:
            if len(spell) >= least and (self._is_narrow() or time.perf_counter() - began > seconds):
                break
            spell.append(self._round(dense_first=len(spell) % 2 == 1))
        return len(spell)

    def _round(self, *, dense_first: bool) -> float:
        seconds = [0.0, 0.0]
        for place in (0, 1) if dense_first else (1, 0):
            passes = self._passes[place]
            run = 1 if passes.prompt else _RUN
            with passes.in_a_row(run):
                times = [passes.seconds() for _ in range(run)]
            seconds[place] = median(times[1:] or times)
        self._dense_seconds.append(seconds[0])
        return seconds[0] / seconds[1]

    def _is_narrow(self) -> bool:
        if sum(map(len, self._spells)) < _MIN_ROUNDS:
            return False
        estimate = self.estimate
        return estimate.high - estimate.low <= _NARROW * estimate.value


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
