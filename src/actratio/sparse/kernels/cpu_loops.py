# mypy: ignore-errors
"""The compiled sparse products.

Functions take a ``Call`` and read its addresses, because unpacking array arguments costs more than the smallest product.
``like`` is a zero of the activations' type: float32, or uint16 for the bits of bfloat16. ``stored`` is a zero of the weights' type:
the same, or int8.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import carray, cfunc, njit, types

from actratio.sparse.kernels.cpu_active import CHUNK, find_starts, list_active, list_needed, mark_active
from actratio.sparse.kernels.cpu_call import DONE, MULTIPLY, PAD, POINTER, TOO_MANY_ACTIVE, TOO_SMALL, begin
from actratio.sparse.kernels.cpu_intrinsics import array_at, by_type, clear, run_body, take_part
from actratio.sparse.kernels.cpu_needed import needed_part, pays
from actratio.sparse.kernels.cpu_numbers import FAST, dot, dot_four, even, gated, narrow, odd, split, widen, words_at
from actratio.sparse.kernels.cpu_tiles import pack, packed_at
from actratio.sparse.kernels.cpu_vectors import LINE, add_lines

_TILE = 1024  # columns of float32 or int8, or pairs of columns of bfloat16


@njit(nogil=True, inline="always")
def _workspace(call):
    """Return the workspace's arrays: neurons, values, marks, starts, sums."""
    batch, width = call.batch, call.width
    return (
        array_at(call.neurons, (batch, width), np.int32(0)),
        array_at(call.values, (batch, width), np.float32(0)),
        array_at(call.marks, (batch, -(-width // CHUNK)), np.uint64(0)),
        array_at(call.starts, (batch, -(-width // CHUNK) + 1), np.int32(0)),
        array_at(call.sums, (call.threads, batch, call.features + PAD), np.float32(0)),
    )


@njit(nogil=True)
def _add(sums, words, neurons, values, begin, end, first, last, asked):
    """Add rows of active neurons to ``sums``: neurons ``begin`` to ``end`` of the list, columns ``first`` to ``last``.

    Meanwhile, the memory is asked for some bytes of the rows that come next.

    Columns that fill cache lines are added in vectors, the few after them one by one. Sums of bfloat16 are kept apart: first those
    of the even columns, then those of the odd ones.
    """
    row_bytes, item = words.strides[0], words.itemsize
    lines = (last - first) * item // LINE
    if lines:
        evens = sums.ctypes.data + first * sums.itemsize
        odds = evens + words.shape[1] * sums.itemsize
        base, like = words.ctypes.data + first * item, words[0, 0]
        before = max(lines - asked // LINE, 0)
        n = begin
        while n + 8 <= end:
            rows = _four_rows(base, row_bytes, neurons, n, end) + _four_rows(base, row_bytes, neurons, n + 4, end)
            ahead = _four_rows(base, row_bytes, neurons, n + 8, end) + _four_rows(base, row_bytes, neurons, n + 12, end)
            add_lines(evens, odds, _four(values, n) + _four(values, n + 4), rows, ahead, before, lines, like)
            n += 8
        while n + 2 <= end:
            rows = base + neurons[n] * row_bytes, base + neurons[n + 1] * row_bytes
            add_lines(evens, odds, (values[n], values[n + 1]), rows, (), 0, lines, like)
            n += 2
        if n < end:
            add_lines(evens, odds, (values[n],), (base + neurons[n] * row_bytes,), (), 0, lines, like)
    rest = first + lines * LINE // item
    if rest < last:
        _add_columns(sums, words, neurons, values, begin, end, rest, last)


@njit(nogil=True, inline="always")
def _four(numbers, n):
    return numbers[n], numbers[n + 1], numbers[n + 2], numbers[n + 3]


@njit(nogil=True, inline="always")
def _four_rows(base, row_bytes, neurons, n, end):
    """Return the addresses of the rows of four neurons, from place ``n`` of the list on; after its end, that of the last neuron."""
    last = end - 1
    i, j = neurons[min(n, last)], neurons[min(n + 1, last)]
    k, m = neurons[min(n + 2, last)], neurons[min(n + 3, last)]
    return base + i * row_bytes, base + j * row_bytes, base + k * row_bytes, base + m * row_bytes


@by_type(jit_options={"fastmath": FAST, "nogil": True})
def _add_columns(sums, words, neurons, values, begin, end, first, last):
    """Do what ``_add`` does, one column after the other."""
    if words.dtype == types.uint32:

        def of_pairs(sums, words, neurons, values, begin, end, first, last):
            evens, odds = sums[first:last], sums[words.shape[1] + first : words.shape[1] + last]
            for n in range(begin, end):
                value, row = values[n], words[neurons[n], first:last]
                for j in range(last - first):
                    evens[j] += value * even(row[j])
                    odds[j] += value * odd(row[j])

        return of_pairs

    def of_numbers(sums, words, neurons, values, begin, end, first, last):
        y = sums[first:last]
        for n in range(begin, end):
            value, row = values[n], words[neurons[n], first:last]
            for j in range(last - first):
                y[j] += value * widen(row[j])

    return of_numbers


@njit(nogil=True, inline="always")
def _range_of(starts, row, chunk, part, parts):
    """Return where a part's neurons of a chunk begin and end in the list of an example; a batch of one isn't cut into chunks."""
    if len(starts) == 1:
        active = starts[0, -1]
        return active * part // parts, active * (part + 1) // parts
    return starts[row, chunk], starts[row, chunk + 1]


@njit(nogil=True, inline="always")
def _chunks_of(starts, part, parts):
    """Return the first chunk of a part, and the one after its last."""
    if len(starts) == 1:
        return 0, 1
    chunks = starts.shape[1] - 1
    return chunks * part // parts, chunks * (part + 1) // parts


@njit(nogil=True)
def _down_part(call, part, stored):
    """Compute the sums over one part of the active neurons."""
    neurons, values, _, starts, sums = _workspace(call)
    parts, batch, _ = sums.shape
    words = words_at(call.rows, call.width, call.features, stored)
    columns = words.shape[1]
    clear(sums[part])
    first_chunk, last_chunk = _chunks_of(starts, part, parts)
    tile = columns if batch == 1 else _TILE
    for first in range(0, columns, tile):
        last = min(first + tile, columns)
        for chunk in range(first_chunk, last_chunk):
            for row in range(batch):
                begin, end = _range_of(starts, row, chunk, part, parts)
                _add(sums[part, row], words, neurons[row], values[row], begin, end, first, last, call.asked)


@njit(nogil=True)
def _finish(call, like, stored):
    """Add up the parts' sums, multiply by the scales of int8 weights, add the bias, and write the output."""
    sums = _workspace(call)[4]
    parts, batch, features = call.threads, call.batch, call.features
    out = array_at(call.out, (batch, features), like)
    scales = array_at(call.scales, (features if call.scales else 0,), np.float32(0))
    bias = array_at(call.bias, (features if call.bias else 0,), like)
    for row in range(batch):
        totals = sums[0, row]
        for part in range(1, parts):
            for i in range(features):
                totals[i] += sums[part, row, i]
        for i in range(scales.size):
            totals[i] *= scales[i]
        _write(totals, bias, out[row], stored)


@by_type(jit_options={"nogil": True})
def _write(sums, bias, out, stored):
    """Write one example's sums plus the bias, in the order and the type of the output."""
    if stored == types.uint16:

        def of_pairs(sums, bias, out, stored):
            half = out.size // 2
            for j in range(half):
                first = sums[j] + (widen(bias[2 * j]) if bias.size else np.float32(0))
                second = sums[half + j] + (widen(bias[2 * j + 1]) if bias.size else np.float32(0))
                out[2 * j], out[2 * j + 1] = narrow(first, out[0]), narrow(second, out[0])

        return of_pairs

    def of_numbers(sums, bias, out, stored):
        for j in range(out.size):
            out[j] = narrow(sums[j] + (widen(bias[j]) if bias.size else np.float32(0)), out[0])

    return of_numbers


@njit(nogil=True)
def _up_part(call, part, like, stored):
    """Multiply one part of the active gates by their up projections."""
    neurons, values, _, starts, sums = _workspace(call)
    parts, batch, _ = sums.shape
    split_x = array_at(call.split_x, (batch, call.inputs), np.float32(0))
    words = words_at(call.up, call.width, call.inputs, stored)
    scales = array_at(call.up_scales, (call.width if call.up_scales else 0,), np.float32(0))
    bias = array_at(call.up_bias, (call.width if call.up_bias else 0,), like)
    first_chunk, last_chunk = _chunks_of(starts, part, parts)
    for chunk in range(first_chunk, last_chunk):
        for row in range(batch):
            begin, end = _range_of(starts, row, chunk, part, parts)
            listed, gates, example = neurons[row], values[row], split_x[row]
            n = begin
            while n + 4 <= end:
                i, j, k, m = listed[n], listed[n + 1], listed[n + 2], listed[n + 3]
                ahead = _four_rows(words.ctypes.data, words.strides[0], listed, n + 4, end)
                products = dot_four(example, words, (i, j, k, m), ahead)
                gates[n] = gated(gates[n], products[0], i, scales, bias, like)
                gates[n + 1] = gated(gates[n + 1], products[1], j, scales, bias, like)
                gates[n + 2] = gated(gates[n + 2], products[2], k, scales, bias, like)
                gates[n + 3] = gated(gates[n + 3], products[3], m, scales, bias, like)
                n += 4
            while n < end:
                i = listed[n]
                gates[n] = gated(gates[n], dot(example, words, i), i, scales, bias, like)
                n += 1


@njit(nogil=True)
def _list_part(call, part, like):
    """List the active neurons of one part's chunks. The list of a batch of one is already made."""
    if call.batch > 1:
        neurons, values, marks, starts, _ = _workspace(call)
        hidden = array_at(call.hidden, (call.batch, call.width), like)
        first, last = _chunks_of(starts, part, call.threads)
        list_active(hidden, marks, starts, first, last, neurons, values)


@njit(nogil=True)
def _take_parts(call, pointer, like, stored):
    """Compute parts until all are taken: OpenMP may start fewer threads than there are parts."""
    part = take_part(pointer)
    while part < call.threads:
        # No part reads what another part writes, so no thread waits for another.
        if call.needed:
            needed_part(call, part, like, stored)
        else:
            _list_part(call, part, like)
            if call.up:
                _up_part(call, part, like, stored)
            _down_part(call, part, stored)
        part = take_part(pointer)


@njit(nogil=True)
def _multiply(call, pointer, like, stored):
    """Compute a call, and return ``DONE`` or ``TOO_MANY_ACTIVE``."""
    batch, width = call.batch, call.width
    neurons, values, marks, starts, _ = _workspace(call)
    hidden = array_at(call.hidden, (batch, width), like)
    thresholds = array_at(call.thresholds, (width if call.thresholds else 0,), np.float32(0))
    active, needed = mark_active(hidden, thresholds, marks)
    if active > call.max_active:
        return TOO_MANY_ACTIVE
    call.needed = needed if batch > 1 and pays(needed, active, batch, like, stored) else 0
    if call.needed:
        list_needed(marks, neurons[0])
    else:
        find_starts(marks, starts)
        if batch == 1:  # parts are shares of the list
            list_active(hidden, marks, starts, 0, marks.shape[1], neurons, values)
    if call.up:
        x = array_at(call.x, (batch, call.inputs), like)
        if call.needed:
            words = words_at(call.up, width, call.inputs, stored)
            pack(x, packed_at(call.split_x, batch, call.inputs, like, stored), words)
        else:
            split_x = array_at(call.split_x, (batch, call.inputs), np.float32(0))
            for row in range(batch):
                split(x[row], split_x[row], stored)
    call.next_part = 0
    run_body(call.openmp, call.body, pointer, call.threads)
    _finish(call, like, stored)
    return DONE


class Compiled(NamedTuple):
    """Two C functions.

    Attributes:
        multiply: of the arguments of ``begin``. It returns ``DONE``, ``TOO_MANY_ACTIVE`` or ``TOO_SMALL``.
        body: of the address of a ``Call``: what each of OpenMP's threads runs.
    """

    multiply: Any
    body: Any


def compile_for(like: Any, stored: Any) -> Compiled:
    """Compile the kernel for the types of two zeros, or load it from Numba's cache on disk.

    The cache identifies a closure by its code and its variables. So ``like`` and ``stored``, plain numbers, may be among them; a
    compiled function may not, since it's pickled with a random id.
    """

    def multiply(pointer, layer, hidden, out, x, max_active, batch, threads):
        call = carray(pointer, 1)[0]
        if not begin(pointer, layer, hidden, out, x, max_active, batch, threads):
            return TOO_SMALL
        return _multiply(call, pointer, like, stored)

    def body(pointer):
        _take_parts(carray(pointer, 1)[0], pointer, like, stored)

    return Compiled(cfunc(MULTIPLY, cache=True)(multiply), cfunc(types.void(POINTER), cache=True)(body))
