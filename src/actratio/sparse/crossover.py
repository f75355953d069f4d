"""The activation ratio above which the dense product is faster."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

BATCHES = (1, 2, 4, 8, 16, 64)
"""Batch sizes that are measured. Another size uses the next larger one; sizes above the last use the last."""

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
