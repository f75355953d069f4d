# mypy: ignore-errors
"""The compiled part of the CPU kernel.

Functions take a ``Call`` and read its addresses, because unpacking array arguments costs more than the smallest product.
``like`` is a zero of the weights' type: float32, or uint16 for the bits of bfloat16.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import carray, cfunc, njit, types

from actratio.sparse.kernels.cpu_call import DOWN, RECORD, UP
from actratio.sparse.kernels.cpu_intrinsics import array_at, as_bits, as_float, by_type, call_openmp, take_part

CHUNK = 64
"""Neurons that are taken together in a batch: the tiles of their rows stay in the second-level cache."""

_TILE = 1024  # columns of float32, or pairs of columns of bfloat16
_FAST = {"contract", "reassoc", "nsz"}  # sums may be reordered; NaN and infinity keep their meaning


@njit(nogil=True, inline="always")
def _even(word):
    return as_float(np.uint32(word << np.uint32(16)))


@njit(nogil=True, inline="always")
def _odd(word):
    return as_float(np.uint32(word & np.uint32(0xFFFF0000)))


@by_type(inline="always")
def _widen(x):
    """Return a float32 for a float32, or for the bits of a bfloat16."""
    if x == types.float32:
        return lambda x: x
    return lambda x: as_float(np.uint32(np.uint32(x) << np.uint32(16)))


@by_type(inline="always")
def _narrow(x, like):
    """Round a float32 to the type of ``like``. For bfloat16, ties go to the even number, and NaN stays NaN."""
    if like == types.float32:
        return lambda x, like: x

    def rounded(x, like):
        bits = as_bits(x)
        if bits & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):
            return np.uint16((bits >> np.uint32(16)) | np.uint32(0x40))
        return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

    return rounded


@by_type(inline="always")
def _words(address, rows, columns, like):
    """Return the weight (rows, columns) at an address: float32, or 32-bit words of two bfloat16 columns each."""
    if like == types.float32:
        return lambda address, rows, columns, like: array_at(address, (rows, columns), np.float32(0))
    return lambda address, rows, columns, like: array_at(address, (rows, columns // 2), np.uint32(0))


@njit(nogil=True, inline="always")
def _workspace(call):
    """Return the workspace's arrays: neurons, values, starts, sums."""
    batch, width = call.batch, call.width
    return (
        array_at(call.neurons, (batch, width + 1), np.int32(0)),
        array_at(call.values, (batch, width + 1), np.float32(0)),
        array_at(call.starts, (batch, -(-width // CHUNK) + 1), np.int32(0)),
        array_at(call.sums, (call.threads, batch, call.features), np.float32(0)),
    )


@njit(nogil=True)
def _select(hidden, thresholds, neurons, values, starts):
    """List the active neurons of each example, and return how many there are in all."""
    total = 0
    for row in range(len(hidden)):
        count = np.uint64(0)  # indexing with a signed integer costs a check for negative values
        line, line_neurons, line_values = hidden[row], neurons[row], values[row]
        for start in range(0, line.size, CHUNK):
            starts[row, start // CHUNK] = count
            end = min(start + CHUNK, line.size)
            if thresholds.size:
                for i in range(start, end):
                    value = _widen(line[i])
                    line_neurons[count], line_values[count] = i, value
                    count += np.uint64(not (abs(value) <= thresholds[i]))
            else:
                for i in range(start, end):
                    value = _widen(line[i])
                    line_neurons[count], line_values[count] = i, value
                    count += np.uint64(value != np.float32(0))
        starts[row, -1] = count
        total += np.int64(count)
    return total


@by_type(jit_options={"fastmath": _FAST, "nogil": True})
def _add(sums, words, neurons, values, begin, end, first, last):
    """Add rows of active neurons to ``sums``: neurons ``begin`` to ``end`` of the list, columns ``first`` to ``last``.

    Sums of bfloat16 are kept apart: first those of the even columns, then those of the odd ones.
    """
    if words.dtype == types.float32:

        def of_floats(sums, words, neurons, values, begin, end, first, last):
            y = sums[first:last]
            n = begin
            while n + 8 <= end:
                a0, a1, a2, a3 = values[n], values[n + 1], values[n + 2], values[n + 3]
                a4, a5, a6, a7 = values[n + 4], values[n + 5], values[n + 6], values[n + 7]
                w0, w1 = words[neurons[n], first:last], words[neurons[n + 1], first:last]
                w2, w3 = words[neurons[n + 2], first:last], words[neurons[n + 3], first:last]
                w4, w5 = words[neurons[n + 4], first:last], words[neurons[n + 5], first:last]
                w6, w7 = words[neurons[n + 6], first:last], words[neurons[n + 7], first:last]
                for j in range(last - first):
                    s = y[j] + a0 * w0[j]
                    s += a1 * w1[j]
                    s += a2 * w2[j]
                    s += a3 * w3[j]
                    s += a4 * w4[j]
                    s += a5 * w5[j]
                    s += a6 * w6[j]
                    y[j] = s + a7 * w7[j]
                n += 8
            while n + 2 <= end:
                a0, a1 = values[n], values[n + 1]
                w0, w1 = words[neurons[n], first:last], words[neurons[n + 1], first:last]
                for j in range(last - first):
                    y[j] += a0 * w0[j] + a1 * w1[j]
                n += 2
            while n < end:
                a0, w0 = values[n], words[neurons[n], first:last]
                for j in range(last - first):
                    y[j] += a0 * w0[j]
                n += 1

        return of_floats

    def of_pairs(sums, words, neurons, values, begin, end, first, last):
        half = sums.size // 2
        even, odd = sums[first:last], sums[half + first : half + last]
        n = begin
        while n + 4 <= end:
            a0, a1, a2, a3 = values[n], values[n + 1], values[n + 2], values[n + 3]
            w0, w1 = words[neurons[n], first:last], words[neurons[n + 1], first:last]
            w2, w3 = words[neurons[n + 2], first:last], words[neurons[n + 3], first:last]
            for j in range(last - first):
                s = even[j] + a0 * _even(w0[j])
                t = odd[j] + a0 * _odd(w0[j])
                s += a1 * _even(w1[j])
                t += a1 * _odd(w1[j])
                s += a2 * _even(w2[j])
                t += a2 * _odd(w2[j])
                even[j] = s + a3 * _even(w3[j])
                odd[j] = t + a3 * _odd(w3[j])
            n += 4
        while n < end:
            a0, w0 = values[n], words[neurons[n], first:last]
            for j in range(last - first):
                even[j] += a0 * _even(w0[j])
                odd[j] += a0 * _odd(w0[j])
            n += 1

    return of_pairs


@njit(nogil=True)
def _down_part(call, part, like):
    """Compute the sums over one part of the active neurons."""
    neurons, values, starts, sums = _workspace(call)
    parts, batch, features = sums.shape
    words = _words(call.rows, call.width, features, like)
    columns, chunks = words.shape[1], starts.shape[1] - 1
    sums[part] = 0
    if batch == 1:
        active = starts[0, chunks]
        begin, end = active * part // parts, active * (part + 1) // parts
        _add(sums[part, 0], words, neurons[0], values[0], begin, end, 0, columns)
        return
    for first in range(0, columns, _TILE):
        last = min(first + _TILE, columns)
        for chunk in range(chunks * part // parts, chunks * (part + 1) // parts):
            for row in range(batch):
                begin, end = starts[row, chunk], starts[row, chunk + 1]
                _add(sums[part, row], words, neurons[row], values[row], begin, end, first, last)


@njit(nogil=True)
def _finish(call, like):
    """Add up the parts' sums and the bias, and write the output."""
    sums = _workspace(call)[3]
    parts, batch, features = sums.shape
    out = array_at(call.out, (batch, features), like)
    bias = array_at(call.bias, (features if call.bias else 0,), like)
    for row in range(batch):
        for part in range(1, parts):
            sums[0, row] += sums[part, row]
        _write(sums[0, row], bias, out[row])


@by_type(jit_options={"nogil": True})
def _write(sums, bias, out):
    """Write one example's sums plus the bias, in the order and the type of the output."""
    if out.dtype == types.float32:

        def of_floats(sums, bias, out):
            for j in range(out.size):
                out[j] = sums[j] + (bias[j] if bias.size else np.float32(0))

        return of_floats

    def of_pairs(sums, bias, out):
        half = out.size // 2
        for j in range(half):
            even = sums[j] + (_widen(bias[2 * j]) if bias.size else np.float32(0))
            odd = sums[half + j] + (_widen(bias[2 * j + 1]) if bias.size else np.float32(0))
            out[2 * j], out[2 * j + 1] = _narrow(even, out[0]), _narrow(odd, out[0])

    return of_pairs


@by_type(jit_options={"nogil": True})
def _split(x, split_x):
    """Copy one example's inputs as float32. Of bfloat16, the even inputs come first, then the odd ones."""
    if x.dtype == types.float32:

        def of_floats(x, split_x):
            split_x[:] = x

        return of_floats

    def of_pairs(x, split_x):
        half = x.size // 2
        for j in range(half):
            split_x[j], split_x[half + j] = _widen(x[2 * j]), _widen(x[2 * j + 1])

    return of_pairs


@by_type(jit_options={"fastmath": _FAST, "nogil": True})
def _dot(split_x, row):
    """Return the product of the inputs and one neuron's row."""
    if row.dtype == types.float32:

        def of_floats(split_x, row):
            s = np.float32(0)
            for j in range(row.size):
                s += split_x[j] * row[j]
            return s

        return of_floats

    def of_pairs(split_x, row):
        even, odd = split_x[: row.size], split_x[row.size :]
        s = np.float32(0)
        for j in range(row.size):
            s += even[j] * _even(row[j]) + odd[j] * _odd(row[j])
        return s

    return of_pairs


@njit(nogil=True)
def _up_part(call, part, like):
    """Multiply one part of the active gates by their up projections. Round where a dense product does."""
    neurons, values, starts, sums = _workspace(call)
    parts, batch, _ = sums.shape
    split_x = array_at(call.split_x, (batch, call.inputs), np.float32(0))
    words = _words(call.up, call.width, call.inputs, like)
    bias = array_at(call.up_bias, (call.width if call.up_bias else 0,), like)
    chunks = starts.shape[1] - 1
    for chunk in range(chunks if batch > 1 else 1):
        if batch > 1 and not chunks * part // parts <= chunk < chunks * (part + 1) // parts:
            continue
        for row in range(batch):
            begin, end = starts[row, chunk], starts[row, chunk + 1]
            if batch == 1:
                active = starts[0, chunks]
                begin, end = active * part // parts, active * (part + 1) // parts
            for n in range(begin, end):
                i = neurons[row, n]
                u = _dot(split_x[row], words[i]) + (_widen(bias[i]) if bias.size else np.float32(0))
                values[row, n] = _widen(_narrow(values[row, n] * _widen(_narrow(u, like)), like))


@njit(nogil=True)
def _take_parts(call, pointer, like):
    """Compute parts of the call's stage until all are taken: OpenMP may start fewer threads than there are parts."""
    part = take_part(pointer)
    while part < call.threads:
        if call.stage == UP:
            _up_part(call, part, like)
        else:
            _down_part(call, part, like)
        part = take_part(pointer)


@njit(nogil=True)
def _run_stage(call, pointer, stage, like):
    """Compute all parts of a stage, by OpenMP's threads if there is an OpenMP library."""
    call.stage, call.next_part = stage, 0
    if call.openmp:
        call_openmp(call.openmp, call.body, pointer, call.threads)
    else:
        _take_parts(call, pointer, like)


@njit(nogil=True)
def _multiply(call, pointer, like):
    """Compute a call, and return whether it was done: False if more than ``max_active`` neurons are active."""
    batch, width = call.batch, call.width
    neurons, values, starts, _ = _workspace(call)
    hidden = array_at(call.hidden, (batch, width), like)
    thresholds = array_at(call.thresholds, (width if call.thresholds else 0,), np.float32(0))
    if _select(hidden, thresholds, neurons, values, starts) > call.max_active:
        return False
    if call.up:
        x = array_at(call.x, (batch, call.inputs), like)
        split_x = array_at(call.split_x, (batch, call.inputs), np.float32(0))
        for row in range(batch):
            _split(x[row], split_x[row])
        _run_stage(call, pointer, UP, like)
    _run_stage(call, pointer, DOWN, like)
    _finish(call, like)
    return True


class Compiled(NamedTuple):
    """Two C functions of the address of a ``Call``.

    Attributes:
        multiply: returns 1 if the product was computed, 0 if too many neurons are active.
        body: what each of OpenMP's threads runs.
    """

    multiply: Any
    body: Any


def compile_for(like: Any) -> Compiled:
    """Compile the kernel for the weight type of ``like``, or load it from Numba's cache on disk.

    The cache identifies a closure by its code and its variables. So ``like``, a plain number, may be one; a compiled function may
    not, since it's pickled with a random id.
    """

    def multiply(pointer):
        return np.int64(_multiply(carray(pointer, 1)[0], pointer, like))

    def body(pointer):
        _take_parts(carray(pointer, 1)[0], pointer, like)

    pointer = types.CPointer(RECORD)
    return Compiled(cfunc(types.int64(pointer), cache=True)(multiply), cfunc(types.void(pointer), cache=True)(body))
