"""From which activation ratio on the dense product is faster; ``contest`` measures it."""

from __future__ import annotations

from dataclasses import dataclass

BATCHES = (1, 2, 4, 8, 16, 64)
"""Batches that are measured; others are taken for the next larger one, and larger ones for the last."""


@dataclass(frozen=True)
class Crossover:
    """The largest activation ratio at which the sparse product is faster, for each batch of ``BATCHES``; 0 for never."""

    ratios: tuple[float, ...]

    def most(self, batch: int, width: int) -> int:
        """How many active neurons, of all examples together, are worth a sparse product."""
        place = next((number for number, size in enumerate(BATCHES) if size >= batch), len(BATCHES) - 1)
        return int(self.ratios[place] * batch * width)


ALWAYS = Crossover((1.0,) * len(BATCHES))
NEVER = Crossover((0.0,) * len(BATCHES))
