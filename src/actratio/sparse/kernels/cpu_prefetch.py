"""What products should ask the memory for in advance: machines differ, so it is measured once in a process.

Some processors deliver short numbers more than twice as fast when they are asked for in advance. On others, the requests only
take time, or bring so much to the second-level cache that they push out what isn't used yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from itertools import cycle
from statistics import median

import numpy as np
import torch
from torch import Tensor

DISTANCES = (0, 2048)
"""How far ahead the dense product asks, in bytes: what is tried. Of 512 to 8192, 2048 was about the best for all types and sizes on one machine."""

START = 1024
"""Bytes of each of the next rows that the sparse product asks for, unless it asks for all of them. Of 512 to 4096, 1024 was the best for most types
and sizes on one machine."""

_SHORT = 4096  # bytes of a row: processors don't go on by themselves to the next page, so shorter rows are asked for as a whole
_BYTES = 1 << 26  # more than most caches hold
_DRAWS = 8
_ROUNDS, _ROUNDS_OF_DRAWS = 5, 24
_LEAST_GAIN = 1.05


@cache
def read_ahead(dtype: torch.dtype, product: Callable[[Tensor, int], Callable[[], object]]) -> int:
    """Return the distance with which a dense product is fastest, in bytes; 0 unless another one clearly gains.

    Args:
        dtype: of the weight.
        product: makes what multiplies by a weight, (inputs, outputs), asking for it this many bytes ahead.
    """
    inputs = 4096
    weight = torch.ones(_BYTES // inputs // dtype.itemsize, inputs, dtype=dtype).t()
    return _fastest({distance: product(weight, distance) for distance in DISTANCES}, _ROUNDS)


@cache
def asked_of_rows(
    dtype: torch.dtype, row_bytes: int, product: Callable[[Tensor, int], Callable[[Tensor], object]]
) -> int:
    """Return how many bytes of each of the next rows a sparse product should ask for: the first ones, unless asking for all clearly gains.

    The processor itself asks for the rest of a row, once it is read.

    Args:
        dtype: of the weight.
        row_bytes: of a row of the weight.
        product: makes what multiplies activations by a weight, (width, features), asking for so many bytes of rows.
    """
    if row_bytes < _SHORT:
        return row_bytes
    width = max(_BYTES // row_bytes, _DRAWS)
    # NumPy asks for large pages, in which weights are stored.
    rows = torch.from_numpy(np.ones(width * row_bytes, np.int8)).view(dtype).view(width, -1)
    # No row is used again soon, so that it isn't in the caches.
    order = torch.randperm(width, generator=torch.Generator().manual_seed(0))
    draws = cycle([torch.zeros(width).index_fill_(0, some, 1.0) for some in order.tensor_split(_DRAWS)])

    def call(multiply: Callable[[Tensor], object]) -> None:
        multiply(next(draws))

    return _fastest({asked: partial(call, product(rows, asked)) for asked in (START, row_bytes)}, _ROUNDS_OF_DRAWS)


def _fastest(calls: Mapping[int, Callable[[], object]], rounds: int) -> int:
    """Return the number whose call is the fastest; the first one unless another clearly gains."""
    seconds: dict[int, list[float]] = {number: [] for number in calls}
    for _ in range(rounds):
        for number, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[number].append(time.perf_counter() - start)
    first = next(iter(calls))
    best = min(calls, key=lambda number: median(seconds[number]))
    return best if median(seconds[first]) > _LEAST_GAIN * median(seconds[best]) else first
