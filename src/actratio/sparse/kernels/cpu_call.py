# mypy: ignore-errors
"""The arguments of one call of the CPU kernel.

``Layer`` and ``Call`` are the only declarations: Python fills ``ctypes`` structures, and compiled code reads the same memory as a Numba
record. Every field is an int64; an address of 0 means that the tensor is absent.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, from_dtype, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

PAD = 16
"""float32 between the sums of two examples: with sizes that are powers of two, all examples' sums of a column would be in the same few
lines of the first-level cache."""


class Layer(ctypes.Structure):
    """What every call of a product has in common."""

    # Addresses of tensors. Thresholds and scales are float32, weights may be int8, all others have the kernel's type.
    up: int  # (width, inputs)
    up_scales: int  # (width,): what the rows of an int8 ``up`` are multiplied by
    up_bias: int  # (width,)
    rows: int  # (width, features)
    scales: int  # (features,): what the columns of int8 ``rows`` are multiplied by
    bias: int  # (features,)
    thresholds: int  # (width,)

    width: int
    features: int
    inputs: int
    ahead: (
        int  # bytes from what the dense product of one example reads to what it asks the memory for; 0 asks for nothing
    )

    asked: int  # bytes of each of the next rows that the sparse product asks the memory for

    openmp: int  # address of GOMP_parallel; 0 runs everything in the calling thread
    body: int  # address of the function that OpenMP's threads run

    _fields_ = [(name, ctypes.c_int64) for name in __annotations__]


class Call(Layer):
    """The arguments of one call, and the workspace of the thread that makes it."""

    # Addresses of the workspace's arrays.
    # int32 (batch, width): indices of the active neurons, in ascending order; or of the needed ones, (needed,).
    neurons: int
    # float32 (batch, width): the active neurons' activations; or what the needed ones' rows are multiplied by, (tiles, batch, ROWS).
    values: int
    marks: int  # (batch, chunks) uint64: a bit for each neuron, set if it is active
    starts: int  # (batch, chunks + 1) int32: where each chunk of neurons begins in ``neurons`` and ``values``
    sums: int  # (threads, batch, features + PAD) float32; of the dense product, (batch, width and a tile's rows)
    # float32 (batch, inputs): x in the order in which the weight is read; or words of two bfloat16.
    split_x: int

    # The largest call that the workspace has room for.
    most_batch: int
    most_width: int
    most_features: int
    most_inputs: int
    most_threads: int

    hidden: int  # address of (batch, width): the activation, or the gate after its activation function
    out: int  # address of (batch, features)
    x: int  # address of (batch, inputs): what the up projection reads
    max_active: int  # the call does nothing if more neurons are active, over the whole batch
    batch: int
    threads: int

    needed: int  # how many neurons are taken for all examples; 0 if each example has a list of its own
    next_part: int  # the first part that no thread has taken yet

    _fields_ = [(name, ctypes.c_int64) for name in __annotations__]


RECORD: Any = from_dtype(np.dtype([(name, np.int64) for name, _ in (*Layer._fields_, *Call._fields_)]))
"""The Numba type of a ``Call``."""

POINTER: Any = types.CPointer(RECORD)

MULTIPLY: Any = types.int64(POINTER, *[types.int64] * 7)
"""The Numba type of a product: its arguments are those of ``begin``."""

DONE, TOO_MANY_ACTIVE, TOO_SMALL = range(3)
"""What a product returns: it was computed, or it wasn't, because too many neurons are active, or because the workspace is too small."""


@intrinsic
def _copy_layer(context, call, layer):
    """Copy a ``Layer`` from its address to the beginning of a call."""

    def code(context, builder, signature, arguments):
        call, layer = arguments
        source = builder.inttoptr(layer, call.type)
        cgutils.raw_memcpy(builder, call, source, ir.Constant(ir.IntType(64), ctypes.sizeof(Layer)), 1)
        return context.get_dummy_value()

    return types.void(call, layer), code


@njit(nogil=True)
def begin(pointer, layer, hidden, out, x, max_active, batch, threads):
    """Write the arguments of a call, and return whether the workspace has room for it.

    A layer's own memory isn't in the caches if the layers before it have streamed their weights through them. So it's all in one place,
    and what changes is in the thread's workspace, which every layer uses.

    Args:
        pointer: to the ``Call``.
        layer: address of the ``Layer``.
        hidden, out, x, max_active, batch, threads: fields of ``Call``.
    """
    _copy_layer(pointer, layer)
    call = carray(pointer, 1)[0]
    call.hidden, call.out, call.x = hidden, out, x
    call.max_active, call.batch = max_active, batch
    call.threads = threads if call.openmp else 1
    return (
        batch <= call.most_batch
        and call.width <= call.most_width
        and call.features <= call.most_features
        and call.inputs <= call.most_inputs
        and call.threads <= call.most_threads
    )
