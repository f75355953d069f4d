# mypy: ignore-errors
"""The compiled dense product: a linear layer whose weight is stored as torch stores it, (outputs, inputs).

A row is read from memory once for all examples of a call. Several examples are multiplied in tiles (``cpu_tiles``). In a ``Call``, the
weight is ``up``, and ``width`` is the number of its outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, cfunc, njit, types

from actratio.sparse.kernels.cpu_call import DONE, MULTIPLY, POINTER, TOO_SMALL, begin
from actratio.sparse.kernels.cpu_intrinsics import array_at, run_body, take_part
from actratio.sparse.kernels.cpu_loops import Compiled
from actratio.sparse.kernels.cpu_numbers import dot, dot_four, narrow, split, widen, words_at
from actratio.sparse.kernels.cpu_target import ROWS
from actratio.sparse.kernels.cpu_tiles import multiply_rows, pack, packed_at

_STREAMS = 4
"""How many places of the weight are read at the same time, for one example."""

_UNIT = 12
"""A thread takes a multiple of this many rows at a time: whole tiles, and as many rows in every stream."""

_MOST_ROWS = 144
"""Rows that a thread takes at a time, at most. Of 72 to 288, 144 was the fastest on one machine."""


@njit(nogil=True)
def _multiply_one(x, words, begin, end, ahead, sums):
    """Write the products of the rows ``begin`` to ``end`` and one example to ``sums``."""
    tiled = end - (end - begin) % _STREAMS
    _add_one(x, words, begin, tiled, ahead, sums)
    for row in range(tiled, end):
        sums[row] = dot(x, words, row)


@njit(nogil=True)
def _add_one(x, words, begin, end, ahead, sums):
    """Write the products of some rows and one example, from four places at a time, each of which goes on from row to row."""
    step = (end - begin) // _STREAMS
    row_bytes = words.strides[0]
    for row in range(begin, begin + step):
        second, third, fourth = row + step, row + 2 * step, row + 3 * step
        rows = row, second, third, fourth
        if ahead:
            address = words.ctypes.data + row * row_bytes + ahead
            between = step * row_bytes
            asked = address, address + between, address + 2 * between, address + 3 * between
            products = dot_four(x, words, rows, asked)
        else:
            products = dot_four(x, words, rows, ())
        sums[row], sums[second], sums[third], sums[fourth] = products


@njit(nogil=True, inline="always")
def _part(width, threads):
    """Return how many rows a thread takes at a time, so that all threads take equally many."""
    parts = -(-width // (threads * _MOST_ROWS)) * threads
    return -(-width // (parts * _UNIT)) * _UNIT


@njit(nogil=True)
def _take_rows(call, pointer, like, stored):
    """Compute outputs until all are taken: OpenMP may start fewer threads than were asked for."""
    batch, width, inputs = call.batch, call.width, call.inputs
    x = array_at(call.x, (batch, inputs), like)
    split_x = array_at(call.split_x, (batch, inputs), np.float32(0))
    packed = packed_at(call.split_x, batch, inputs, like, stored)
    sums = array_at(call.sums, (batch, width + ROWS - 1), np.float32(0))
    words = words_at(call.up, width, inputs, stored)
    scales = array_at(call.up_scales, (width if call.up_scales else 0,), np.float32(0))
    bias = array_at(call.up_bias, (width if call.up_bias else 0,), like)
    out = array_at(call.out, (batch, width), like)
    part = _part(width, call.threads)
    begin = take_part(pointer) * part
    while begin < width:
        end = min(begin + part, width)
        if batch == 1:
            _multiply_one(split_x[0], words, begin, end, call.ahead, sums[0])
        else:
            # The last two tiles ask for the rows of the next part. Until then, other threads take parts.
            last = begin + max((end - begin) // ROWS - 2, 0) * ROWS
            multiply_rows(x, packed, words, None, begin, last, last, sums)
            multiply_rows(x, packed, words, None, last, end, call.next_part * part, sums)
        for example in range(batch):
            _write(sums[example, begin:end], scales[begin:end], bias[begin:end], out[example, begin:end], like)
        begin = take_part(pointer) * part


@njit(nogil=True)
def _write(sums, scales, bias, out, like):
    """Multiply sums by the scales of int8 weights, add the bias, and write them in the type of the output."""
    # Over slices, because an index that may be negative is checked, and then nothing is vectorized.
    for i in range(out.size):
        total = sums[i]
        if scales.size:
            total *= scales[i]
        if bias.size:
            total += widen(bias[i])
        out[i] = narrow(total, like)


@njit(nogil=True)
def _linear(call, pointer, like, stored):
    batch, inputs = call.batch, call.inputs
    x = array_at(call.x, (batch, inputs), like)
    split_x = array_at(call.split_x, (batch, inputs), np.float32(0))
    if batch == 1:
        split(x[0], split_x[0], stored)
    else:
        pack(x, packed_at(call.split_x, batch, inputs, like, stored), words_at(call.up, call.width, inputs, stored))
    call.next_part = 0
    run_body(call.openmp, call.body, pointer, call.threads)
    return DONE


def compile_linear(like: Any, stored: Any) -> Compiled:
    """Compile the dense product for the types of two zeros, as ``cpu_loops.compile_for`` compiles the sparse one."""

    def linear(pointer, layer, hidden, out, x, max_active, batch, threads):
        call = carray(pointer, 1)[0]
        if not begin(pointer, layer, hidden, out, x, max_active, batch, threads):
            return TOO_SMALL
        return _linear(call, pointer, like, stored)

    def body(pointer):
        _take_rows(carray(pointer, 1)[0], pointer, like, stored)

    return Compiled(cfunc(MULTIPLY, cache=True)(linear), cfunc(types.void(POINTER), cache=True)(body))
