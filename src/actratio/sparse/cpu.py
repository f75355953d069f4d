"""Products with sparse activations on CPUs: only the rows of the neurons that are active are read.

Weights are read by neurons, (width, features): the row of a neuron is one contiguous piece of memory. The work is memory
traffic, so everything here is about reading rows at the speed of the memory:

- Threads share the active neurons, not the columns: rows are read whole.
- Several rows are added at a time, with the sum in registers, so that the output is read and written once for all of them.
- A bfloat16 weight is read as pairs, one 32-bit word for two columns: the even one is the word shifted, the odd one the
  word masked, which takes half the instructions of widening each number; sums of even and odd columns are kept apart.
- In a batch, neurons are taken in chunks and columns in tiles that stay in the cache, so that a row that several examples
  need is read from memory once; each example still adds only what is active for it.

Everything but the output lies in a workspace of the calling thread, as large as the largest call so far. The list of
active neurons has a place for every neuron, so it cannot overflow.

Numba compiles it on first use and keeps the result on disk.
"""

from __future__ import annotations

import threading
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from actratio.sparse import compiled
from actratio.sparse.compiled import CHUNK

_sparse_down: Any = compiled.sparse_down
_sparse_gated: Any = compiled.sparse_gated

GROUP = 16
"""Examples that are multiplied together; a larger batch is taken in groups."""

_KINDS: dict[torch.dtype, tuple[int, Any]] = {torch.float32: (1, np.float32(0)), torch.bfloat16: (2, np.uint16(0))}
"""Of each type: how many numbers are read as one word, and a number of the type that its bits are taken for."""


def takes(rows: Tensor, up: Tensor | None = None) -> bool:
    """Whether these kernels multiply by such weights (width, features): contiguous, and even if they are read as pairs."""
    return all(
        each.device.type == "cpu"
        and each.dtype in _KINDS
        and each.is_contiguous()
        and each.numel() > 0
        and (each.dtype == torch.float32 or each.shape[1] % 2 == 0)
        for each in (rows, up if up is not None else rows)
    )


def down(hidden: Tensor, rows: Tensor, bias: Tensor | None, thresholds: Tensor | None, most: int) -> Tensor | None:
    """Σᵢ hᵢ · rowsᵢ over the active neurons, plus the bias.

    Args:
        hidden: (batch, width), contiguous.
        rows: (width, features), contiguous, of the same type.
        bias: (features,).
        thresholds: (width,) float32: a neuron is active where |h| is larger, or h is NaN; without, where h ≠ 0.
        most: how many active neurons, of all examples of a group together, are worth it.

    Returns:
        (batch, features) in the type of ``hidden``, or ``None`` where more neurons are active.
    """
    batch, width = hidden.shape
    features = rows.shape[1]
    out = torch.empty(batch, features, dtype=hidden.dtype)
    threads = _threads()
    read, written = hidden.data_ptr(), out.data_ptr()
    step = width * hidden.element_size(), features * hidden.element_size()
    weights = (
        rows.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        0 if thresholds is None else thresholds.data_ptr(),
    )
    for start in range(0, batch, GROUP):
        size = min(GROUP, batch - start)
        space = _space(threads, size, width, features, 0)
        done = _sparse_down(
            read, *weights, written, *space, size, width, features, most, threads, *_KINDS[hidden.dtype]
        )
        if not done:
            return None
        read, written = read + size * step[0], written + size * step[1]
    return out


def gated(
    gate: Tensor, x: Tensor, up: Tensor, up_bias: Tensor | None, rows: Tensor, bias: Tensor | None, most: int
) -> Tensor | None:
    """Σᵢ gᵢ · (upᵢ · x) · rowsᵢ over the neurons whose gate is not zero, plus the bias.

    Args:
        gate: (batch, width), contiguous, after its activation function.
        x: (batch, inputs), contiguous: what the up projection reads.
        up: (width, inputs), contiguous.
        up_bias: (width,).
        rows, bias, most: as for ``down``.
    """
    batch, width = gate.shape
    features, inputs, size_of = rows.shape[1], x.shape[1], gate.element_size()
    out = torch.empty(batch, features, dtype=x.dtype)
    threads = _threads()
    for start in range(0, batch, GROUP):
        size = min(GROUP, batch - start)
        space = _space(threads, size, width, features, inputs)
        done = _sparse_gated(
            gate.data_ptr() + start * width * size_of,
            x.data_ptr() + start * inputs * size_of,
            up.data_ptr(),
            0 if up_bias is None else up_bias.data_ptr(),
            rows.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            out.data_ptr() + start * features * size_of,
            *space, size, width, features, inputs, most, threads, *_KINDS[x.dtype],
        )  # fmt: skip
        if not done:
            return None
    return out


class _Workspace(threading.local):
    """What a thread's calls write into: arrays that grow when they must, and their addresses."""

    def __init__(self) -> None:
        self.arrays: list[Any] = [
            np.empty(0, kind) for kind in (np.int32, np.float32, np.int32, np.float32, np.float32)
        ]
        self.fits: set[tuple[int, ...]] = set()
        self.addresses: tuple[int, ...] = ()


_workspace = _Workspace()


def _space(threads: int, batch: int, width: int, features: int, inputs: int) -> tuple[int, ...]:
    """Addresses of room for the active neurons' places and values, the chunks, the threads' sums, and the inputs."""
    key = (threads, batch, width, features, inputs)
    if key not in _workspace.fits:
        sizes = (
            batch * (width + 1), batch * (width + 1), batch * (-(-width // CHUNK) + 1), threads * batch * features, batch * inputs,
        )  # fmt: skip
        arrays = _workspace.arrays
        for place, size in enumerate(sizes):
            if arrays[place].size < size:
                arrays[place] = np.empty(size, arrays[place].dtype)
        _workspace.addresses = tuple(each.ctypes.data for each in arrays)
        _workspace.fits.add(key)
    return _workspace.addresses


def _threads() -> int:
    """As many as torch uses now; the loop runs in them, or one after another where Numba has fewer."""
    global _asked
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    threads = max(1, min(torch.get_num_threads(), most))
    if threads != _asked:
        numba.set_num_threads(threads)
        _asked = threads
    return threads


_asked = 0
