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
_DRAWS = 5
_LEAST_ROUNDS, _MOST_ROUNDS, _SECONDS = 3, 40, 0.02
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
    device: torch.device,
) -> Crossover:
    """Time both on random activations of falling ratio until the sparse one is faster.

    Args:
        width: number of neurons.
        sparse, dense: functions of an activation (batch, width); successive calls should read weights that are no longer in
            the cache, as those of a model's other layers.
    """
    found = []
    generator = torch.Generator().manual_seed(0)
    for batch in BATCHES:
        x = torch.randn(batch, width, generator=generator)
        best = 0.0
        for ratio in _RATIOS:
            draws = [
                (x * (torch.rand(batch, width, generator=generator) < ratio)).to(device, dtype)
                for _ in range(_DRAWS if ratio < 1 else 1)
            ]
            if _is_faster(sparse, dense, draws):
                best = ratio
                break
        found.append(best)
    return Crossover(tuple(found))


def _is_faster(sparse: Callable[[Tensor], object], dense: Callable[[Tensor], object], draws: Sequence[Tensor]) -> bool:
    """Whether ``sparse`` takes less time, in turns, by more than noise."""
    times: tuple[list[float], list[float]] = ([], [])
    spent = 0.0
    for number in range(_MOST_ROUNDS):
        for function, seconds in zip((sparse, dense), times, strict=True):
            start = time.perf_counter()
            function(draws[number % len(draws)])
            if draws[0].device.type == "cuda":
                torch.cuda.synchronize(draws[0].device)
            seconds.append(time.perf_counter() - start)
            spent += seconds[-1]
        if number >= _LEAST_ROUNDS and spent > _SECONDS:
            break
    ours, theirs = (median(seconds[1:]) for seconds in times)
    return ours <= _MARGIN * theirs
