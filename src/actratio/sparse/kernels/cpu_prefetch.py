"""How far ahead a dense product should ask the memory for weights: machines differ, so it is measured once in a process.

Some processors deliver short numbers more than twice as fast when they are asked for in advance. On others, the requests only
take time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from statistics import median

import torch
from torch import Tensor

DISTANCES = (0, 2048)
"""The distances that are tried, in bytes. Of 512 to 8192, 2048 was about the best for all types and sizes on one machine."""

_BYTES = 1 << 26  # more than most caches hold
_ROUNDS = 5
_LEAST_GAIN = 1.05


@cache
def read_ahead(dtype: torch.dtype, product: Callable[[Tensor, int], Callable[[], object]]) -> int:
    """Return the distance with which a product is fastest, in bytes; 0 unless another one clearly gains.

    Args:
        dtype: of the weight.
        product: makes what multiplies by a weight, (inputs, outputs), asking for it this many bytes ahead.
    """
    inputs = 4096
    weight = torch.ones(_BYTES // inputs // dtype.itemsize, inputs, dtype=dtype).t()
    calls = {distance: product(weight, distance) for distance in DISTANCES}
    seconds: dict[int, list[float]] = {distance: [] for distance in DISTANCES}
    for _ in range(_ROUNDS):
        for distance, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[distance].append(time.perf_counter() - start)
    best = min(DISTANCES, key=lambda distance: median(seconds[distance]))
    return best if median(seconds[0]) > _LEAST_GAIN * median(seconds[best]) else 0
