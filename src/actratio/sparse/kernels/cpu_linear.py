# mypy: ignore-errors
"""The compiled dense product: a linear layer whose weight is stored as torch stores it, (outputs, inputs).

A row is read from memory once for all examples of a call. With several examples, four rows are multiplied by two or four of them
at a time, with the sums in registers. In a ``Call``, the weight is ``up``, and ``width`` is the number of its outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite.binding import get_host_cpu_features
from numba import carray, cfunc, njit, types

from actratio.sparse.kernels.cpu_call import RECORD
from actratio.sparse.kernels.cpu_intrinsics import array_at, by_type, call_openmp, take_part
from actratio.sparse.kernels.cpu_loops import Compiled
from actratio.sparse.kernels.cpu_numbers import FAST, dot, dot_four, narrow, odd, split, widen, words_at

_ROWS = 4
"""Rows that are multiplied together."""

_PART = 64
"""Rows that a thread takes at a time."""

_HAS_FEW_REGISTERS = get_host_cpu_features().get("avx512vl") is False
"""Whether the processor has 16 vector registers: sums of four rows and four examples fill them. Others have 32."""


@by_type(inline="always")
def _number(word, shift):
    """Return a weight as a float32; of a word of two bfloat16, the first one with a shift of 16 bits, the second one with 0."""
    if word == types.uint32:
        return lambda word, shift: odd(np.uint32(word << shift))
    return lambda word, shift: widen(word)


@by_type(inline="always")
def _takes_four(words):
    """Return whether four rows are multiplied by four examples at a time. With few registers, it pays only for pairs of bfloat16."""
    takes_four = words.dtype == types.uint32 or not _HAS_FEW_REGISTERS
    return lambda words: takes_four


@njit(nogil=True, fastmath=FAST)
def _four_by_four(x0, x1, x2, x3, w0, w1, w2, w3, shift, sums, row):
    """Add the products of four rows and four examples to ``sums``, from the output ``row`` on."""
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = np.float32(0)
    for j in range(w0.size):
        a, b, c, d = _number(w0[j], shift), _number(w1[j], shift), _number(w2[j], shift), _number(w3[j], shift)
        e, f, g, h = x0[j], x1[j], x2[j], x3[j]
        a0 += a * e
        a1 += a * f
        a2 += a * g
        a3 += a * h
        b0 += b * e
        b1 += b * f
        b2 += b * g
        b3 += b * h
        c0 += c * e
        c1 += c * f
        c2 += c * g
        c3 += c * h
        d0 += d * e
        d1 += d * f
        d2 += d * g
        d3 += d * h
    for place, (s, t, u, v) in enumerate(((a0, a1, a2, a3), (b0, b1, b2, b3), (c0, c1, c2, c3), (d0, d1, d2, d3))):
        sums[0, row + place] += s
        sums[1, row + place] += t
        sums[2, row + place] += u
        sums[3, row + place] += v


@njit(nogil=True, fastmath=FAST)
def _four_by_two(x0, x1, w0, w1, w2, w3, shift, sums, row):
    """Add the products of four rows and two examples to ``sums``, from the output ``row`` on."""
    a0 = a1 = b0 = b1 = c0 = c1 = d0 = d1 = np.float32(0)
    for j in range(w0.size):
        a, b, c, d = _number(w0[j], shift), _number(w1[j], shift), _number(w2[j], shift), _number(w3[j], shift)
        e, f = x0[j], x1[j]
        a0 += a * e
        a1 += a * f
        b0 += b * e
        b1 += b * f
        c0 += c * e
        c1 += c * f
        d0 += d * e
        d1 += d * f
    for place, (s, t) in enumerate(((a0, a1), (b0, b1), (c0, c1), (d0, d1))):
        sums[0, row + place] += s
        sums[1, row + place] += t


@njit(nogil=True)
def _add_rows(x, words, begin, end, ahead, sums):
    """Write the products of the rows ``begin`` to ``end`` and all examples to ``sums``, (examples, rows)."""
    examples, size = len(x), words.shape[1]
    halves = x.shape[1] // size  # 2 for words of two numbers
    tiled = end - (end - begin) % _ROWS
    sums[:, begin:end] = 0
    for row in range(begin, tiled if examples > 1 else begin, _ROWS):
        w0, w1, w2, w3 = words[row], words[row + 1], words[row + 2], words[row + 3]
        for half in range(halves):
            first, last = half * size, (half + 1) * size
            shift = np.uint32(16 * (1 - half))
            example = 0
            while _takes_four(words) and example + 4 <= examples:
                x0, x1 = x[example, first:last], x[example + 1, first:last]
                x2, x3 = x[example + 2, first:last], x[example + 3, first:last]
                _four_by_four(x0, x1, x2, x3, w0, w1, w2, w3, shift, sums[example:], row)
                example += 4
            while example + 2 <= examples:
                x0, x1 = x[example, first:last], x[example + 1, first:last]
                _four_by_two(x0, x1, w0, w1, w2, w3, shift, sums[example:], row)
                example += 2
    if examples % 2:
        _add_one(x[examples - 1], words, begin, tiled, 0 if examples > 1 else ahead, sums[examples - 1])
    for example in range(examples):
        for row in range(tiled, end):
            sums[example, row] = dot(x[example], words, row)


@njit(nogil=True)
def _add_one(x, words, begin, end, ahead, sums):
    """Write the products of some rows and one example, from four places at a time, each of which goes on from row to row."""
    step = (end - begin) // _ROWS
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


@njit(nogil=True)
def _take_rows(call, pointer, like, stored):
    """Compute outputs until all are taken: OpenMP may start fewer threads than were asked for."""
    batch, width, inputs = call.batch, call.width, call.inputs
    x = array_at(call.split_x, (batch, inputs), np.float32(0))
    sums = array_at(call.sums, (batch, width), np.float32(0))
    words = words_at(call.up, width, inputs, stored)
    scales = array_at(call.up_scales, (width if call.up_scales else 0,), np.float32(0))
    bias = array_at(call.up_bias, (width if call.up_bias else 0,), like)
    out = array_at(call.out, (batch, width), like)
    begin = take_part(pointer) * _PART
    while begin < width:
        end = min(begin + _PART, width)
        _add_rows(x, words, begin, end, call.ahead, sums)
        for example in range(batch):
            for row in range(begin, end):
                total = sums[example, row]
                if scales.size:
                    total *= scales[row]
                if bias.size:
                    total += widen(bias[row])
                out[example, row] = narrow(total, like)
        begin = take_part(pointer) * _PART


@njit(nogil=True)
def _linear(call, pointer, like, stored):
    batch, inputs = call.batch, call.inputs
    x = array_at(call.x, (batch, inputs), like)
    split_x = array_at(call.split_x, (batch, inputs), np.float32(0))
    for row in range(batch):
        split(x[row], split_x[row], stored)
    call.next_part = 0
    if call.openmp:
        call_openmp(call.openmp, call.body, pointer, call.threads)
    else:
        _take_rows(call, pointer, like, stored)
    return True


def compile_linear(like: Any, stored: Any) -> Compiled:
    """Compile the dense product for the types of two zeros, as ``cpu_loops.compile_for`` compiles the sparse one."""

    def linear(pointer):
        return np.int64(_linear(carray(pointer, 1)[0], pointer, like, stored))

    def body(pointer):
        _take_rows(carray(pointer, 1)[0], pointer, like, stored)

    pointer = types.CPointer(RECORD)
    return Compiled(cfunc(types.int64(pointer), cache=True)(linear), cfunc(types.void(pointer), cache=True)(body))
