"""How fast sparse products of a shape are, and the activation ratio above which the dense product is faster."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

BATCHES = (1, 2, 4, 8, 16, 128)
"""Batch sizes that are measured. Another size uses the next larger one; sizes above the last use the last."""

RATIOS = (0.03, 0.1, 0.25, 0.5, 1.0)
"""Activation ratios that are measured."""

FASTER = 1.1
"""A speed-up that is worth converting a layer for: caches in a model are neither as warm nor as cold as when layers are timed."""

SLOWER = 0.97
"""A speed that is less than this, relative to dense, is slower by more than noise."""

_UNKNOWN = 0.5  # as in a ReLU network that isn't trained
_INDICES = tuple(bisect_left(BATCHES, batch) for batch in range(BATCHES[-1] + 1))


@dataclass(frozen=True)
class Crossover:
    """Where the dense product takes over.

    Attributes:
        ratios: for each of ``BATCHES``, the largest activation ratio at which the sparse product is faster; 0 if it never is.
    """

    ratios: tuple[float, ...]

    def max_active(self, batch: int, width: int) -> int:
        """Return the number of active neurons, over the whole batch, above which the dense product is faster."""
        return int(self.ratios[_INDICES[batch] if batch < len(_INDICES) else -1] * batch * width)


ALWAYS = Crossover((1.0,) * len(BATCHES))
NEVER = Crossover((0.0,) * len(BATCHES))


@dataclass(frozen=True)
class ShapeSpeeds:
    """How fast a converted layer of one shape is on this machine, relative to the layer as it was.

    Attributes:
        sparse: of the sparse product: a tuple for each of ``BATCHES``, with a speed for each of ``RATIOS``.
        dense: of the dense product of a converted layer, whose weights are in another order, for each of ``BATCHES``; 0 if it has none.
    """

    sparse: tuple[tuple[float, ...], ...]
    dense: tuple[float, ...]

    def crossover(self, ratio: float) -> Crossover:
        """Return the ratio for each batch size up to which the sparse product is at least as fast as the dense one.

        It is 0 where more neurons than that are usually active, so that nobody looks for active neurons in vain.

        Args:
            ratio: the usual ratio of active neurons; NaN if it isn't known.
        """
        limits = [self._limit(place) for place in range(len(BATCHES))]
        return Crossover(tuple(0.0 if ratio > limit else limit for limit in limits))

    def always_faster(self) -> Crossover:
        """Return the batch sizes at which the product is faster although it reads all weights, by more than noise."""
        return Crossover(tuple(float(speeds[-1] * SLOWER >= 1) for speeds in self.sparse))

    def _limit(self, place: int) -> float:
        speeds, dense = self.sparse[place], self.dense[place]
        last = max((number for number, speed in enumerate(speeds) if speed >= dense), default=-1)
        if last < 0 or last == len(RATIOS) - 1:
            return RATIOS[last] if last >= 0 else 0.0
        # Seconds grow linearly with the ratio.
        low, high = 1 / speeds[last], 1 / speeds[last + 1]
        share = (1 / dense - low) / (high - low)
        return RATIOS[last] + share * (RATIOS[last + 1] - RATIOS[last])

    def gains(self, ratio: float) -> tuple[float, ...]:
        """Return how fast a converted layer is, relative to the layer as it was, for each of ``BATCHES``.

        Args:
            ratio: of active neurons; NaN if it isn't known, which is taken for a half.
        """
        ratio = _UNKNOWN if math.isnan(ratio) else ratio
        return tuple(max(self._at(place, ratio), self.dense[place]) for place in range(len(BATCHES)))

    def _at(self, place: int, ratio: float) -> float:
        seconds = [1 / speed for speed in self.sparse[place]]
        if ratio <= RATIOS[0]:
            return self.sparse[place][0]
        after = min(bisect_left(RATIOS, ratio), len(RATIOS) - 1)
        share = (ratio - RATIOS[after - 1]) / (RATIOS[after] - RATIOS[after - 1])
        return 1 / (seconds[after - 1] + share * (seconds[after] - seconds[after - 1]))

    def pays_off(self, ratio: float) -> bool:
        """Return whether to convert such a layer: it is faster for one sequence, or for some batch size and slower for none.

        Losing with large batches doesn't forbid gaining where a single sequence is decoded.
        """
        gains = self.gains(ratio)
        return gains[0] >= FASTER or (max(gains) >= FASTER and min(gains) >= SLOWER)
