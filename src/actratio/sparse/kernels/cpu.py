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

A product is prepared once and then called with as little Python as can be: after a dense layer has streamed its weights through
the caches, every object that Python touches comes from memory too.

Numba compiles it on first use and keeps the result on disk.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actratio.sparse.kernels import cpu_loops as compiled
from actratio.sparse.kernels import product
from actratio.sparse.kernels.cpu_loops import BATCH, CHUNK, HIDDEN, INPUT, MOST, OUT, PLACES, THREADS, TURN
from actratio.sparse.kernels.product import address

GROUP = 16
"""Examples that are multiplied together; a larger batch is taken in groups."""

_KINDS: dict[torch.dtype, tuple[int, Any, Any, Any]] = {
    torch.float32: (1, compiled.multiply_f32, compiled.up_f32, compiled.down_f32),
    torch.bfloat16: (2, compiled.multiply_bf16, compiled.up_bf16, compiled.down_bf16),
}
"""Of each type: how many numbers are read as one word, the call, and what its threads do."""

_Call = ctypes.c_int64 * (TURN + 1)
_Function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)


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


class Product(product.Product):
    """On a CPU."""

    def __init__(
        self,
        rows: Tensor,
        bias: Tensor | None = None,
        thresholds: Tensor | None = None,
        up: Tensor | None = None,
        up_bias: Tensor | None = None,
    ) -> None:
        super().__init__(rows, bias, thresholds, up, up_bias)
        self._size = rows.element_size()
        per, call, up_body, down_body = _KINDS[rows.dtype]
        self._function: Callable[[int], int] = _Function(call.address)
        self._template = (
            0, 0, address(up), address(up_bias), rows.data_ptr(), address(bias), address(thresholds), 0, 0, 0, 0, 0, 0,
            0, self.width, self.features, self.inputs, 0, 0, per, _openmp(), up_body.address, down_body.address, 0,
        )  # fmt: skip
        self._local = threading.local()

    def __call__(self, hidden: Tensor, most: int, x: Tensor | None = None) -> Tensor | None:
        """As ``product.Product`` says."""
        batch = hidden.numel() // self.width
        out = hidden.new_empty((*hidden.shape[:-1], self.features))
        if batch > GROUP:
            return self._in_groups(hidden, batch, most, x, out)
        return out if self._run(hidden.data_ptr(), out.data_ptr(), batch, most, address(x)) else None

    def _in_groups(self, hidden: Tensor, batch: int, most: int, x: Tensor | None, out: Tensor) -> Tensor | None:
        size = self._size
        for start in range(0, batch, GROUP):
            some = min(GROUP, batch - start)
            read = hidden.data_ptr() + start * self.width * size
            given = address(x) + start * self.inputs * size
            if not self._run(read, out.data_ptr() + start * self.features * size, some, most * some // batch, given):
                return None
        return out

    def _run(self, hidden: int, out: int, batch: int, most: int, x: int) -> int:
        local: dict[Any, Any] = self._local.__dict__
        threads = torch.get_num_threads() if _openmp() else 1
        call = local.get((batch, threads))
        if call is None or call[-1] != _workspace.grown:
            call = local[batch, threads] = self._prepare(batch, threads)
        numbers, place, _ = call
        numbers[HIDDEN], numbers[OUT], numbers[INPUT], numbers[MOST] = hidden, out, x, most
        return self._function(place)

    def _prepare(self, batch: int, threads: int) -> tuple[Any, int, int]:
        """A call's numbers with all that does not change, their address, and the age of the workspace that they speak of."""
        numbers = _Call(*self._template)
        numbers[BATCH], numbers[THREADS] = batch, threads
        _workspace.fit(threads, batch, self.width, self.features, self.inputs)
        for place, array in enumerate(_workspace.arrays):
            numbers[PLACES + place] = array.ctypes.data
        return numbers, ctypes.addressof(numbers), _workspace.grown


@cache
def _openmp() -> int:
    """Address of ``GOMP_parallel`` in the OpenMP library that torch loaded, or 0: then there is one thread.

    Its threads are those that torch's own products run in. Numba's, of a library of its own, would wait for a core while
    torch's still look out for work, which costs more than a small product takes.
    """
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
        folder = str(Path(torch.__file__).parent)
        loaded = {line.split()[-1] for line in maps.splitlines() if re.search(r"/lib(g|i|)omp\d?[^/]*$", line)}
        mine = sorted(path for path in loaded if path.startswith(folder)) or (
            sorted(loaded) if len(loaded) == 1 else []
        )
        function = getattr(ctypes.CDLL(mine[0]), "GOMP_parallel")  # noqa: B009 (mypy knows no attributes of libraries)
        return ctypes.cast(function, ctypes.c_void_p).value or 0
    except (OSError, AttributeError, IndexError):
        return 0


class _Workspace(threading.local):
    """What a thread's calls write into: room for the active neurons' places and values, the chunks, the threads' sums, and the
    inputs.

    Attributes:
        arrays: they grow when they must.
        grown: how often one has.
    """

    def __init__(self) -> None:
        self.arrays: list[Any] = [
            np.empty(0, kind) for kind in (np.int32, np.float32, np.int32, np.float32, np.float32)
        ]
        self.grown = 0

    def fit(self, threads: int, batch: int, width: int, features: int, inputs: int) -> None:
        """Make room for a call."""
        sizes = (
            batch * (width + 1), batch * (width + 1), batch * (-(-width // CHUNK) + 1), threads * batch * features, batch * inputs,
        )  # fmt: skip
        for place, size in enumerate(sizes):
            if self.arrays[place].size < size:
                self.arrays[place] = np.empty(size, self.arrays[place].dtype)
                self.grown += 1


_workspace = _Workspace()
