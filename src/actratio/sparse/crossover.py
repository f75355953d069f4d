"""From which activation ratio on the dense product is faster, measured where it will run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

BATCHES = (1, 2, 4, 8, 16, 64)
"""Batches that are measured; others are taken for the next larger one, and larger ones for the last."""

_RATIOS = (1.0, 0.5, 0.25, 0.1, 0.03)
_ROUNDS = 5
_MARGIN = 0.97  # what is not faster by more than noise is not faster


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


def measure_crossover(
    width: int,
    dtype: torch.dtype,
    sparse: Callable[[Tensor], object],
    dense: Callable[[Tensor], object],
    batches: Sequence[int] = BATCHES,
) -> Crossover:
    """Time both on random activations of falling ratio until the sparse one is faster.

    Args:
        width: number of neurons.
        sparse, dense: functions of an activation (batch, width); successive calls should read weights that are no longer in
            the cache, as those of a model's other layers.
    """
    found = []
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        x = torch.randn(batch, width, generator=generator)
        often = _ROUNDS if batch <= 16 else 2
        limit = _time(dense, [x.to(dtype)], often)
        best = 0.0
        for ratio in _RATIOS:
            some = [
                (x * (torch.rand(batch, width, generator=generator) < ratio)).to(dtype)
                for _ in range(often if ratio < 1 else 1)
            ]
            if _time(sparse, some, often) <= limit / (_MARGIN if ratio == 1 else 1.0) * (1 if ratio == 1 else _MARGIN):
                best = ratio
                break
        found.append(best)
    return Crossover(tuple(found))


def _time(function: Callable[[Tensor], object], inputs: Sequence[Tensor], often: int) -> float:
    function(inputs[0])
    times = []
    for number in range(often):
        start = time.perf_counter()
        function(inputs[number % len(inputs)])
        times.append(time.perf_counter() - start)
    return median(times)
