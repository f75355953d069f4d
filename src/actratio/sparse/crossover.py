"""From which activation ratio on the dense product is faster; ``contest`` measures it."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

BATCHES = (1, 2, 4, 8, 16, 64)
"""Batches that are measured; others are taken for the next larger one, and larger ones for the last."""

_PLACES = tuple(bisect_left(BATCHES, batch) for batch in range(BATCHES[-1] + 1))


@dataclass(frozen=True)
class Crossover:
    """The largest activation ratio at which the sparse product is faster, for each batch of ``BATCHES``; 0 for never."""

    ratios: tuple[float, ...]

    def most(self, batch: int, width: int) -> int:
        """How many active neurons, of all examples together, are worth a sparse product."""
        return int(self.ratios[_PLACES[batch] if batch < len(_PLACES) else -1] * batch * width)


ALWAYS = Crossover((1.0,) * len(BATCHES))
NEVER = Crossover((0.0,) * len(BATCHES))
