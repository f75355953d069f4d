"""Products with sparse activations on CPUs, which read only the rows of the active neurons.

Weights are stored neuron by neuron, (width, features): a neuron's row is contiguous in memory. The time is that of the memory traffic:

- Threads share the active neurons, not the columns, so rows are read whole.
- Several rows are added at a time, with the sums in registers. The output is read and written once for all of them. Meanwhile, the
  memory is asked for the rows that come next.
- A bfloat16 weight is read as 32-bit words of two columns. The even column is the word shifted, the odd one is the word masked.
  That takes half the instructions of widening each number. Sums of even and odd columns are kept apart.
- In a batch, a row that several examples need is read from memory once. Either each example adds only its own active neurons, in chunks
  of neurons and columns that stay in the cache, or every neuron that some example needs is taken for all of them.

Everything but the output is in a workspace of the calling thread, which has room for the most examples, neurons, features, inputs and threads
of all calls so far. The list of active neurons has a place for every neuron, so it can't overflow.

A product is prepared once, and a call runs as little Python as possible: after a dense layer has streamed its weights through the
caches, every object that Python touches is read from memory again.

Numba compiles the kernel on first use and keeps the result on disk.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actratio.sparse.kernels import openmp
from actratio.sparse.kernels.cpu_active import CHUNK
from actratio.sparse.kernels.cpu_call import DONE, PAD, TOO_SMALL, Call, Layer
from actratio.sparse.kernels.cpu_linear import compile_linear
from actratio.sparse.kernels.cpu_loops import Compiled, compile_for
from actratio.sparse.kernels.cpu_prefetch import asked_of_rows, read_ahead
from actratio.sparse.kernels.cpu_target import ROWS
from actratio.sparse.kernels.cpu_vectors import LINE
from actratio.sparse.kernels.product import Product, Weights, address

GROUP = 16
"""Examples that are multiplied together; a larger batch is split into groups."""

_ZEROS: dict[torch.dtype, Any] = {
    torch.float32: np.float32(0),
    torch.bfloat16: np.uint16(0),
    torch.int8: np.int8(0),
}
_Function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, *[ctypes.c_int64] * 7)


_Types = tuple[torch.dtype, torch.dtype]


@cache
def _functions(compile_product: Callable[[Any, Any], Compiled], dtypes: _Types) -> tuple[Callable[..., int], int]:
    """Return a compiled product for the types of activations and weights, and the address of what its threads run."""
    compiled = compile_product(*(_ZEROS[dtype] for dtype in dtypes))
    return _Function(compiled.multiply.address), compiled.body.address


class _CPUProduct(Product):
    """What the two products on CPUs have in common: they need the addresses of their weights only."""

    device_type = "cpu"
    dtypes = (torch.float32, torch.bfloat16)
    reads_int8 = True

    def __init__(self, weights: Weights, compile_product: Callable[[Any, Any], Compiled], **fields: int) -> None:
        super().__init__(weights)
        self._kept = weights.thresholds, weights.scales, weights.up_scales  # these stay alive after release_weights
        self._item_size = self.dtype.itemsize
        self._multiply, body = _functions(compile_product, (self.dtype, weights.rows.dtype))
        self._layer = Layer(openmp=openmp.parallel_address(), body=body, **fields)
        self._layer_address = ctypes.addressof(self._layer)

    def release_weights(self) -> bool:
        self.weights = None
        return True

    def _run(self, batch: int, hidden: int, out: int, max_active: int, x: int) -> bool:
        """Compute a call of at most ``GROUP`` examples, with the addresses of its tensors, and return whether it was computed."""
        threads = torch.get_num_threads()
        arguments = self._layer_address, hidden, out, x, max_active, batch, threads
        status = self._multiply(_workspace.address, *arguments)
        if status == TOO_SMALL:
            _workspace.grow(self._layer, batch, threads)
            status = self._multiply(_workspace.address, *arguments)
        return status == DONE


class CPUProduct(_CPUProduct):
    """The sparse product: weights are stored neuron by neuron, and only those of active neurons are read.

    Args:
        weights: what it multiplies by.
        asked: bytes of each of the next rows that the memory is asked for; by default what is fastest on this machine.
    """

    def __init__(self, weights: Weights, asked: int | None = None) -> None:
        super().__init__(
            weights,
            compile_for,
            up=address(weights.up),
            up_scales=address(weights.up_scales),
            up_bias=address(weights.up_bias),
            rows=address(weights.rows),
            scales=address(weights.scales),
            bias=address(weights.bias),
            thresholds=address(weights.thresholds),
            width=weights.rows.shape[0],
            features=weights.rows.shape[1],
            inputs=0 if weights.up is None else weights.up.shape[1],
        )
        if asked is None:
            stored = weights.rows.dtype
            asked = asked_of_rows(stored, self.features * stored.itemsize, _multiplied_sparsely)
        self._layer.asked = asked

    @classmethod
    def supports(cls, weights: Weights) -> bool:
        """Return whether the kernel can multiply by such weights. It reads bfloat16 in pairs of columns."""
        return super().supports(weights) and (
            weights.rows.dtype != torch.bfloat16
            or all(weight is None or weight.shape[1] % 2 == 0 for weight in (weights.rows, weights.up))
        )

    def __call__(self, hidden: Tensor, max_active: int, x: Tensor | None = None) -> Tensor | None:
        batch = hidden.numel() // self.width
        out = hidden.new_empty(*hidden.shape[:-1], self.features)
        if batch > GROUP:
            return self._in_groups(hidden, batch, max_active, x, out)
        x_address = 0 if x is None else x.data_ptr()  # address() costs a call
        return out if self._run(batch, hidden.data_ptr(), out.data_ptr(), max_active, x_address) else None

    def _in_groups(self, hidden: Tensor, batch: int, max_active: int, x: Tensor | None, out: Tensor) -> Tensor | None:
        size = self._item_size
        for start in range(0, batch, GROUP):
            count = min(GROUP, batch - start)
            hidden_address = hidden.data_ptr() + start * self.width * size
            out_address = out.data_ptr() + start * self.features * size
            x_address = address(x) + start * self.inputs * size
            if not self._run(count, hidden_address, out_address, max_active * count // batch, x_address):
                return None
        return out


class CPULinear(_CPUProduct):
    """The dense product: weights are stored by outputs, as torch stores them, and all are read.

    ``Weights.rows`` is the transposed weight, (inputs, outputs). The roles of the two sizes are exchanged in the ``Layer``, in which
    the weight takes the place of an up projection.

    Args:
        weights: what it multiplies by.
        ahead: bytes from what is read to what the memory is asked for; by default what is fastest on this machine.
    """

    by_outputs = True

    def __init__(self, weights: Weights, ahead: int | None = None) -> None:
        inputs, outputs = weights.rows.shape
        super().__init__(
            weights,
            compile_linear,
            up=address(weights.rows),
            up_scales=address(weights.scales),
            up_bias=address(weights.bias),
            width=outputs,
            features=1,
            inputs=inputs,
            ahead=read_ahead(weights.rows.dtype, _multiplied_once) if ahead is None else ahead,
        )

    @classmethod
    def supports(cls, weights: Weights) -> bool:
        """Return whether the kernel can multiply by such weights. It reads bfloat16 in pairs of inputs."""
        return (
            super().supports(weights)
            and (weights.thresholds, weights.up) == (None, None)
            and (weights.rows.dtype != torch.bfloat16 or weights.rows.shape[0] % 2 == 0)
        )

    def __call__(self, hidden: Tensor, max_active: int, x: Tensor | None = None) -> Tensor:
        size, inputs, outputs = self._item_size, self.width, self.features
        batch = hidden.numel() // inputs
        out = hidden.new_empty(*hidden.shape[:-1], outputs)
        hidden_address, out_address = hidden.data_ptr(), out.data_ptr()
        for start in range(0, batch, GROUP):
            count = min(GROUP, batch - start)
            x_address = hidden_address + start * inputs * size
            self._run(count, 0, out_address + start * outputs * size, 0, x_address)
        return out


def _multiplied_once(weight: Tensor, ahead: int) -> Callable[[], object]:
    """Return what multiplies one example by a weight, (inputs, outputs)."""
    weights = _scaled_by_one(weight)
    return partial(CPULinear(weights, ahead), torch.ones(1, len(weight), dtype=weights.activation_dtype), 0)


def _multiplied_sparsely(rows: Tensor, asked: int) -> Callable[[Tensor], object]:
    """Return what multiplies activations, (width,), by a weight, (width, features)."""
    weights = _scaled_by_one(rows)
    product = CPUProduct(weights, asked)
    return lambda hidden: product(hidden.to(product.dtype), product.width)


def _scaled_by_one(weight: Tensor) -> Weights:
    is_int8 = weight.dtype == torch.int8
    scales = torch.ones(weight.shape[1]) if is_int8 else None
    return Weights(weight, scales=scales, dtype=torch.float32 if is_int8 else None)


class _Workspace(threading.local):
    """A thread's arrays, which its calls write to, and the arguments of its calls.

    Attributes:
        address: of the thread's ``Call``.
        arrays: by the name of their field of ``Call``.
    """

    def __init__(self) -> None:
        self._call = Call()
        self.address = ctypes.addressof(self._call)
        self.arrays: dict[str, Any] = {}

    def grow(self, layer: Layer, batch: int, threads: int) -> None:
        """Make room for a call, and for those that there was room for.

        Until everything is in its place, there is room for no call, so a call after an interruption doesn't write to memory that is gone.
        """
        call: Any = self._call
        asked = {
            "width": layer.width,
            "features": layer.features,
            "inputs": layer.inputs,
            "threads": threads if layer.openmp else 1,
            "batch": batch,
        }
        most = {name: max(size, getattr(call, f"most_{name}")) for name, size in asked.items()}
        examples, width, chunks = most["batch"], most["width"], -(-most["width"] // CHUNK)
        sums = max(most["threads"] * (most["features"] + PAD), width + ROWS - 1)
        arrays: dict[str, Any] = {
            "neurons": _aligned(examples * width, np.int32),
            "values": _aligned(examples * (width + ROWS - 1), np.float32),
            "marks": _aligned(examples * chunks, np.uint64),
            "starts": _aligned(examples * (chunks + 1), np.int32),
            "sums": _aligned(examples * sums, np.float32),
            "split_x": _aligned(examples * most["inputs"], np.float32),
        }
        call.most_batch = 0
        self.arrays = arrays
        for name, array in arrays.items():
            setattr(call, name, array.ctypes.data)
        for name, size in most.items():  # the batch comes last
            setattr(call, f"most_{name}", size)


def _aligned(size: int, dtype: Any) -> Any:
    """Return a new array that begins with a cache line; NumPy's own often begin 16 bytes later."""
    item_size = np.dtype(dtype).itemsize
    memory = np.empty(size * item_size + LINE, np.uint8)
    first = -memory.ctypes.data % LINE
    return memory[first : first + size * item_size].view(dtype)


_workspace = _Workspace()
