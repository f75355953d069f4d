# mypy: ignore-errors
"""The compiled part of ``cpu.py``: functions of arrays, or of their addresses, whose types are Numba's.

Arguments are addresses, because unpacking arrays costs more than the smallest of these products.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, njit, prange, types
from numba.extending import intrinsic, overload

CHUNK = 64
"""Neurons, of which the active ones' tiles stay in the second-level cache."""

_ROWS = 4  # added at a time
_PIECE = 256  # columns whose next rows are prefetched together
_TILE = 1024  # columns of float32, or pairs of columns of bfloat16
_FAST = {"contract", "reassoc", "nsz"}  # sums in any order; NaN and infinity stay what they are


@intrinsic
def _as_float(context, bits):
    """The float32 that 32 bits are."""

    def code(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), code


@intrinsic
def _as_bits(context, number):
    """The 32 bits that a float32 is."""

    def code(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), code


@intrinsic
def _pointer(context, address, like):
    """An address as a pointer to numbers of the type of ``like``."""

    def code(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(like)))

    return types.CPointer(like)(types.int64, like), code


@intrinsic
def _prefetch(context, address):
    """Ask for a line of memory before it is read: the processor's own foresight ends with each page."""

    def code(context, builder, signature, arguments):
        pointer, number = ir.PointerType(ir.IntType(8)), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = builder.module.globals.get("llvm.prefetch.p0") or ir.Function(
            builder.module, kind, "llvm.prefetch.p0"
        )
        line = builder.inttoptr(arguments[0], pointer)
        builder.call(function, [line, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(types.uint64), code


_small = njit(cache=True, nogil=True, inline="always")


@_small
def _even(word):
    return _as_float(np.uint32(word << np.uint32(16)))


@_small
def _odd(word):
    return _as_float(np.uint32(word & np.uint32(0xFFFF0000)))


def _widen(x):
    raise NotImplementedError  # compiled code alone calls it


@overload(_widen, inline="always")
def _widen_compiled(x):
    """A float32 of a number, or of a bfloat16's bits."""
    if x == types.float32:
        return lambda x: x
    return lambda x: _as_float(np.uint32(np.uint32(x) << np.uint32(16)))


def _narrow(x, like):
    raise NotImplementedError


@overload(_narrow, inline="always")
def _narrow_compiled(x, like):
    """A float32 rounded to the type of ``like``; to bfloat16, the nearest or the even of two, and NaN to NaN."""
    if like == types.float32:
        return lambda x, like: x

    def rounded(x, like):
        bits = _as_bits(x)
        if bits & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):
            return np.uint16((bits >> np.uint32(16)) | np.uint32(0x40))
        return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

    return rounded


def _word(like):
    raise NotImplementedError


@overload(_word, inline="always")
def _word_compiled(like):
    """What weights are read as: floats, or pairs of bfloat16."""
    if like == types.float32:
        return lambda like: np.float32(0)
    return lambda like: np.uint32(0)


@_small
def _array(address, shape, like):
    return carray(_pointer(address, like), shape)


@njit(cache=True, nogil=True)
def _select(h, thresholds, idx, val, ptr):
    """Active neurons of each example in their order, their values, and where each chunk of neurons begins; how many."""
    total = 0
    for row in range(len(h)):
        count = 0
        line, places, values = h[row], idx[row], val[row]
        for start in range(0, line.size, CHUNK):
            ptr[row, start // CHUNK] = count
            end = min(start + CHUNK, line.size)
            if thresholds.size:
                for i in range(start, end):
                    value = _widen(line[i])
                    places[count], values[count] = i, value
                    count += not (abs(value) <= thresholds[i])
            else:
                for i in range(start, end):
                    value = _widen(line[i])
                    places[count], values[count] = i, value
                    count += value != np.float32(0)
        ptr[row, -1] = count
        total += count
    return total


def _add(sums, words, idx, val, begin, end, first, last):
    raise NotImplementedError


@overload(_add, jit_options={"fastmath": _FAST, "nogil": True})
def _add_compiled(sums, words, idx, val, begin, end, first, last):
    """Add to ``sums`` the rows of the active neurons from ``begin`` to ``end``, columns from ``first`` to ``last``.

    While a piece of some rows is added, the same piece of the next ones is on its way.
    """
    if words.dtype == types.float32:

        def of_floats(sums, words, idx, val, begin, end, first, last):
            n = begin
            while n + _ROWS <= end:
                a0, a1, a2, a3 = val[n], val[n + 1], val[n + 2], val[n + 3]
                w0, w1, w2, w3 = words[idx[n]], words[idx[n + 1]], words[idx[n + 2]], words[idx[n + 3]]
                for start in range(first, last, _PIECE):
                    stop = min(start + _PIECE, last)
                    _fetch(words, idx, n + _ROWS, end, start, stop)
                    for j in range(start, stop):
                        s = sums[j] + a0 * w0[j]
                        s += a1 * w1[j]
                        s += a2 * w2[j]
                        sums[j] = s + a3 * w3[j]
                n += _ROWS
            while n < end:
                a0, w0 = val[n], words[idx[n]]
                for j in range(first, last):
                    sums[j] += a0 * w0[j]
                n += 1

        return of_floats

    def of_pairs(sums, words, idx, val, begin, end, first, last):
        half = sums.size // 2
        even, odd = sums[:half], sums[half:]
        n = begin
        while n + _ROWS <= end:
            a0, a1, a2, a3 = val[n], val[n + 1], val[n + 2], val[n + 3]
            w0, w1, w2, w3 = words[idx[n]], words[idx[n + 1]], words[idx[n + 2]], words[idx[n + 3]]
            for start in range(first, last, _PIECE):
                stop = min(start + _PIECE, last)
                _fetch(words, idx, n + _ROWS, end, start, stop)
                for j in range(start, stop):
                    s = even[j] + a0 * _even(w0[j])
                    t = odd[j] + a0 * _odd(w0[j])
                    s += a1 * _even(w1[j])
                    t += a1 * _odd(w1[j])
                    s += a2 * _even(w2[j])
                    t += a2 * _odd(w2[j])
                    even[j] = s + a3 * _even(w3[j])
                    odd[j] = t + a3 * _odd(w3[j])
            n += _ROWS
        while n < end:
            a0, w0 = val[n], words[idx[n]]
            for j in range(first, last):
                even[j] += a0 * _even(w0[j])
                odd[j] += a0 * _odd(w0[j])
            n += 1

    return of_pairs


@_small
def _fetch(words, idx, begin, end, start, stop):
    """Prefetch a piece of the next rows."""
    for n in range(begin, min(begin + _ROWS, end)):
        place = words.ctypes.data + (np.uint64(idx[n]) * np.uint64(words.shape[1]) + np.uint64(start)) * np.uint64(4)
        for line in range((stop - start + 15) // 16):
            _prefetch(np.uint64(place) + np.uint64(64 * line))


@njit(cache=True, nogil=True, parallel=True)
def _down(idx, val, ptr, words, bias, acc, out):
    """``acc`` (threads, batch, features) takes each thread's sums; ``out`` (batch, features) all of them together."""
    threads, batch, _ = acc.shape
    columns = words.shape[1]
    chunks = ptr.shape[1] - 1
    for thread in prange(threads):
        acc[thread] = 0
        if batch == 1:
            active = ptr[0, chunks]
            begin, end = active * thread // threads, active * (thread + 1) // threads
            _add(acc[thread, 0], words, idx[0], val[0], begin, end, 0, columns)
        else:
            for first in range(0, columns, _TILE):
                last = min(first + _TILE, columns)
                for chunk in range(chunks * thread // threads, chunks * (thread + 1) // threads):
                    for row in range(batch):
                        begin, end = ptr[row, chunk], ptr[row, chunk + 1]
                        _add(acc[thread, row], words, idx[row], val[row], begin, end, first, last)
    for row in range(batch):
        for thread in range(1, threads):
            acc[0, row] += acc[thread, row]
        _write(acc[0, row], bias, out[row])


def _write(sums, bias, out):
    raise NotImplementedError


@overload(_write, jit_options={"nogil": True})
def _write_compiled(sums, bias, out):
    """An example's sums, and the bias, in the order and the type of the output."""
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


def _split(x, xs):
    raise NotImplementedError


@overload(_split, jit_options={"nogil": True})
def _split_compiled(x, xs):
    """One example's inputs as floats: as they are, or first the even and then the odd ones."""
    if x.dtype == types.float32:

        def as_they_are(x, xs):
            xs[:] = x

        return as_they_are

    def even_and_odd(x, xs):
        half = x.size // 2
        for j in range(half):
            xs[j], xs[half + j] = _widen(x[2 * j]), _widen(x[2 * j + 1])

    return even_and_odd


def _dot(xs, row):
    raise NotImplementedError


@overload(_dot, jit_options={"fastmath": _FAST, "nogil": True})
def _dot_compiled(xs, row):
    """The product of inputs and one neuron's row."""
    if row.dtype == types.float32:

        def of_floats(xs, row):
            s = np.float32(0)
            for j in range(row.size):
                s += xs[j] * row[j]
            return s

        return of_floats

    def of_pairs(xs, row):
        even, odd = xs[: row.size], xs[row.size :]
        s = np.float32(0)
        for j in range(row.size):
            s += even[j] * _even(row[j]) + odd[j] * _odd(row[j])
        return s

    return of_pairs


@njit(cache=True, nogil=True, parallel=True)
def _up(idx, val, ptr, x, words, bias, xs, threads):
    """Multiply each active gate in ``val`` by its neuron's up projection, rounded as a dense product would be."""
    batch = len(x)
    chunks = ptr.shape[1] - 1
    for row in range(batch):
        _split(x[row], xs[row])
    for thread in prange(threads):
        if batch == 1:
            active = ptr[0, chunks]
            for n in range(active * thread // threads, active * (thread + 1) // threads):
                i = idx[0, n]
                u = _dot(xs[0], words[i]) + (_widen(bias[i]) if bias.size else np.float32(0))
                val[0, n] = _widen(_narrow(val[0, n] * _widen(_narrow(u, x[0, 0])), x[0, 0]))
        else:
            for chunk in range(chunks * thread // threads, chunks * (thread + 1) // threads):
                for row in range(batch):
                    for n in range(ptr[row, chunk], ptr[row, chunk + 1]):
                        i = idx[row, n]
                        u = _dot(xs[row], words[i]) + (_widen(bias[i]) if bias.size else np.float32(0))
                        val[row, n] = _widen(_narrow(val[row, n] * _widen(_narrow(u, x[0, 0])), x[0, 0]))


@njit(cache=True, nogil=True)
def _views(places, values, starts, sums, threads, batch, width, features):
    """The workspace's arrays at their addresses."""
    return (
        _array(places, (batch, width + 1), np.int32(0)),
        _array(values, (batch, width + 1), np.float32(0)),
        _array(starts, (batch, -(-width // CHUNK) + 1), np.int32(0)),
        _array(sums, (threads, batch, features), np.float32(0)),
    )


@njit(cache=True, nogil=True)
def sparse_down(
    hidden,
    rows,
    bias,
    thresholds,
    out,
    places,
    values,
    starts,
    sums,
    _inputs,
    batch,
    width,
    features,
    most,
    threads,
    per,
    like,
):
    """``down`` on addresses, ``per`` numbers a word; whether so few neurons are active that it was done. A bias or thresholds at 0 are none."""
    idx, val, ptr, acc = _views(places, values, starts, sums, threads, batch, width, features)
    limits = _array(thresholds, (width if thresholds else 0,), np.float32(0))
    if _select(_array(hidden, (batch, width), like), limits, idx, val, ptr) > most:
        return False
    word = _word(like)
    words = _array(rows, (width, features // per), word)
    _down(
        idx, val, ptr, words, _array(bias, (features if bias else 0,), like), acc, _array(out, (batch, features), like)
    )
    return True


@njit(cache=True, nogil=True)
def sparse_gated(
    gate,
    x,
    up,
    up_bias,
    rows,
    bias,
    out,
    places,
    values,
    starts,
    sums,
    inputs_,
    batch,
    width,
    features,
    inputs,
    most,
    threads,
    per,
    like,
):
    """``gated`` on addresses."""
    idx, val, ptr, acc = _views(places, values, starts, sums, threads, batch, width, features)
    if _select(_array(gate, (batch, width), like), _array(0, (0,), np.float32(0)), idx, val, ptr) > most:
        return False
    word = _word(like)
    xs = _array(inputs_, (batch, inputs), np.float32(0))
    given = _array(x, (batch, inputs), like)
    _up(
        idx,
        val,
        ptr,
        given,
        _array(up, (width, inputs // per), word),
        _array(up_bias, (width if up_bias else 0,), like),
        xs,
        threads,
    )
    words = _array(rows, (width, features // per), word)
    _down(
        idx, val, ptr, words, _array(bias, (features if bias else 0,), like), acc, _array(out, (batch, features), like)
    )
    return True
