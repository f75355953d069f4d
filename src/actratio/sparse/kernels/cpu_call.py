"""The arguments of one call of the CPU kernel.

``Call`` is the only declaration: Python fills a ``ctypes`` structure, and compiled code reads the same memory as a Numba record.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numba import from_dtype

PAD = 16
"""float32 between the sums of two examples: with sizes that are powers of two, all examples' sums of a column would be in the same few
lines of the first-level cache."""


class Call(ctypes.Structure):
    """The arguments of one call. Every field is an int64; an address of 0 means that the tensor is absent."""

    # Addresses of tensors. Thresholds and scales are float32, weights may be int8, all others have the kernel's type.
    hidden: int  # (batch, width): the activation, or the gate after its activation function
    x: int  # (batch, inputs): what the up projection reads
    up: int  # (width, inputs)
    up_scales: int  # (width,): what the rows of an int8 ``up`` are multiplied by
    up_bias: int  # (width,)
    rows: int  # (width, features)
    scales: int  # (features,): what the columns of int8 ``rows`` are multiplied by
    bias: int  # (features,)
    thresholds: int  # (width,)
    out: int  # (batch, features)

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

    batch: int
    width: int
    features: int
    inputs: int
    max_active: int  # the call does nothing if more neurons are active, over the whole batch

    needed: int  # how many neurons are taken for all examples; 0 if each example has a list of its own

    ahead: (
        int  # bytes from what the dense product of one example reads to what it asks the memory for; 0 asks for nothing
    )

    threads: int
    openmp: int  # address of GOMP_parallel; 0 runs everything in the calling thread
    body: int  # address of the function that OpenMP's threads run
    next_part: int  # the first part that no thread has taken yet

    _fields_ = [(name, ctypes.c_int64) for name in __annotations__]


RECORD: Any = from_dtype(np.dtype(Call))
"""The Numba type of a ``Call``."""
