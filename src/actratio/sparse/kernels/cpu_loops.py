# mypy: ignore-errors
"""The compiled part of ``cpu.py``: functions of arrays, or of their addresses, whose types are Numba's.

Arguments are addresses, because unpacking arrays costs more than the smallest of these products.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic, overload

CHUNK = 64
"""Neurons, of which the active ones' tiles stay in the second-level cache."""

_TILE = 1024  # columns of float32, or pairs of columns of bfloat16
_FAST = {"contract", "reassoc", "nsz"}  # sums in any order; NaN and infinity stay what they are


# What a call is made of, in the order of an int64 array: addresses (0 for none), sizes, and how threads are had.
(
    HIDDEN, INPUT, UP, UP_BIAS, ROWS, BIAS, THRESHOLDS, OUT, PLACES, VALUES, STARTS, SUMS, SPLIT,
    BATCH, WIDTH, FEATURES, INPUTS, MOST, THREADS, PER, RUN, UP_BODY, DOWN_BODY, TURN,
) = range(24)  # fmt: skip


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


@_small
def _views(call):
    """The workspace's arrays at their addresses."""
    batch, width = call[BATCH], call[WIDTH]
    return (
        _array(call[PLACES], (batch, width + 1), np.int32(0)),
        _array(call[VALUES], (batch, width + 1), np.float32(0)),
        _array(call[STARTS], (batch, -(-width // CHUNK) + 1), np.int32(0)),
        _array(call[SUMS], (call[THREADS], batch, call[FEATURES]), np.float32(0)),
    )


@njit(cache=True, nogil=True)
def _select(h, thresholds, idx, val, ptr):
    """Active neurons of each example in their order, their values, and where each chunk of neurons begins; how many."""
    total = 0
    for row in range(len(h)):
        count = np.uint64(0)  # an index that may be negative is looked at twice
        line, places, values = h[row], idx[row], val[row]
        for start in range(0, line.size, CHUNK):
            ptr[row, start // CHUNK] = count
            end = min(start + CHUNK, line.size)
            if thresholds.size:
                for i in range(start, end):
                    value = _widen(line[i])
                    places[count], values[count] = i, value
                    count += np.uint64(not (abs(value) <= thresholds[i]))
            else:
                for i in range(start, end):
                    value = _widen(line[i])
                    places[count], values[count] = i, value
                    count += np.uint64(value != np.float32(0))
        ptr[row, -1] = count
        total += np.int64(count)
    return total


def _add(sums, words, idx, val, begin, end, first, last):
    raise NotImplementedError


@overload(_add, jit_options={"fastmath": _FAST, "nogil": True})
def _add_compiled(sums, words, idx, val, begin, end, first, last):
    """Add to ``sums`` the rows of the active neurons from ``begin`` to ``end``, columns from ``first`` to ``last``."""
    if words.dtype == types.float32:

        def of_floats(sums, words, idx, val, begin, end, first, last):
            y = sums[first:last]
            n = begin
            while n + 8 <= end:
                a0, a1, a2, a3 = val[n], val[n + 1], val[n + 2], val[n + 3]
                a4, a5, a6, a7 = val[n + 4], val[n + 5], val[n + 6], val[n + 7]
                w0, w1 = words[idx[n], first:last], words[idx[n + 1], first:last]
                w2, w3 = words[idx[n + 2], first:last], words[idx[n + 3], first:last]
                w4, w5 = words[idx[n + 4], first:last], words[idx[n + 5], first:last]
                w6, w7 = words[idx[n + 6], first:last], words[idx[n + 7], first:last]
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
                a0, a1 = val[n], val[n + 1]
                w0, w1 = words[idx[n], first:last], words[idx[n + 1], first:last]
                for j in range(last - first):
                    y[j] += a0 * w0[j] + a1 * w1[j]
                n += 2
            while n < end:
                a0, w0 = val[n], words[idx[n], first:last]
                for j in range(last - first):
                    y[j] += a0 * w0[j]
                n += 1

        return of_floats

    def of_pairs(sums, words, idx, val, begin, end, first, last):
        half = sums.size // 2
        even, odd = sums[first:last], sums[half + first : half + last]
        n = begin
        while n + 4 <= end:
            a0, a1, a2, a3 = val[n], val[n + 1], val[n + 2], val[n + 3]
            w0, w1 = words[idx[n], first:last], words[idx[n + 1], first:last]
            w2, w3 = words[idx[n + 2], first:last], words[idx[n + 3], first:last]
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
            a0, w0 = val[n], words[idx[n], first:last]
            for j in range(last - first):
                even[j] += a0 * _even(w0[j])
                odd[j] += a0 * _odd(w0[j])
            n += 1

    return of_pairs


@njit(cache=True, nogil=True)
def _down_part(call, thread, like):
    """One thread's sums over its share of the active neurons."""
    idx, val, ptr, acc = _views(call)
    threads, batch, features = acc.shape
    words = _array(call[ROWS], (call[WIDTH], features // call[PER]), _word(like))
    columns, chunks = words.shape[1], ptr.shape[1] - 1
    acc[thread] = 0
    if batch == 1:
        active = ptr[0, chunks]
        begin, end = active * thread // threads, active * (thread + 1) // threads
        _add(acc[thread, 0], words, idx[0], val[0], begin, end, 0, columns)
        return
    for first in range(0, columns, _TILE):
        last = min(first + _TILE, columns)
        for chunk in range(chunks * thread // threads, chunks * (thread + 1) // threads):
            for row in range(batch):
                begin, end = ptr[row, chunk], ptr[row, chunk + 1]
                _add(acc[thread, row], words, idx[row], val[row], begin, end, first, last)


@njit(cache=True, nogil=True)
def _finish(call, like):
    """All threads' sums together, and the bias, in the order and the type of the output."""
    acc = _views(call)[3]
    threads, batch, features = acc.shape
    out = _array(call[OUT], (batch, features), like)
    bias = _array(call[BIAS], (features if call[BIAS] else 0,), like)
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


@njit(cache=True, nogil=True)
def _up_part(call, thread, like):
    """Multiply one thread's share of the active gates by their neurons' up projections, rounded as dense products are."""
    idx, val, ptr, acc = _views(call)
    threads, batch, _ = acc.shape
    inputs, width = call[INPUTS], call[WIDTH]
    xs = _array(call[SPLIT], (batch, inputs), np.float32(0))
    words = _array(call[UP], (width, inputs // call[PER]), _word(like))
    bias = _array(call[UP_BIAS], (width if call[UP_BIAS] else 0,), like)
    chunks = ptr.shape[1] - 1
    for chunk in range(chunks if batch > 1 else 1):
        if batch > 1 and not chunks * thread // threads <= chunk < chunks * (thread + 1) // threads:
            continue
        for row in range(batch):
            begin, end = ptr[row, chunk], ptr[row, chunk + 1]
            if batch == 1:
                active = ptr[0, chunks]
                begin, end = active * thread // threads, active * (thread + 1) // threads
            for n in range(begin, end):
                i = idx[row, n]
                u = _dot(xs[row], words[i]) + (_widen(bias[i]) if bias.size else np.float32(0))
                val[row, n] = _widen(_narrow(val[row, n] * _widen(_narrow(u, like)), like))


@intrinsic
def _next_turn(context, address):
    """Add one to the int64 at an address, as no other thread does at the same time; what it was."""

    def code(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "seq_cst")

    return types.int64(types.int64), code


@intrinsic
def _call_parallel(context, run, body, argument, threads):
    """``GOMP_parallel(body, argument, threads, 0)`` at the address ``run``."""

    def code(context, builder, signature, arguments):
        word, number = ir.IntType(64), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [word, word, number, number])
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        threads = builder.trunc(arguments[3], number)
        builder.call(function, [arguments[1], arguments[2], threads, ir.Constant(number, 0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), code


_F32, _BF16 = np.float32(0), np.uint16(0)


@cfunc(types.void(types.int64), cache=True)
def down_f32(address):
    """Parts, until all are taken: OpenMP may give fewer threads than were asked for."""
    call = _array(address, (TURN + 1,), np.int64(0))
    turn = _next_turn(address + 8 * TURN)
    while turn < call[THREADS]:
        _down_part(call, turn, _F32)
        turn = _next_turn(address + 8 * TURN)


@cfunc(types.void(types.int64), cache=True)
def down_bf16(address):
    """As ``down_f32``."""
    call = _array(address, (TURN + 1,), np.int64(0))
    turn = _next_turn(address + 8 * TURN)
    while turn < call[THREADS]:
        _down_part(call, turn, _BF16)
        turn = _next_turn(address + 8 * TURN)


@cfunc(types.void(types.int64), cache=True)
def up_f32(address):
    """As ``down_f32``."""
    call = _array(address, (TURN + 1,), np.int64(0))
    turn = _next_turn(address + 8 * TURN)
    while turn < call[THREADS]:
        _up_part(call, turn, _F32)
        turn = _next_turn(address + 8 * TURN)


@cfunc(types.void(types.int64), cache=True)
def up_bf16(address):
    """As ``down_f32``."""
    call = _array(address, (TURN + 1,), np.int64(0))
    turn = _next_turn(address + 8 * TURN)
    while turn < call[THREADS]:
        _up_part(call, turn, _BF16)
        turn = _next_turn(address + 8 * TURN)


@njit(cache=True, nogil=True)
def _multiply(address, like):
    """A call; whether so few neurons are active that it was done.

    Threads are those of the OpenMP library whose ``GOMP_parallel`` is at ``RUN``; where that is 0, there is one.
    """
    call = _array(address, (TURN + 1,), np.int64(0))
    batch, width = call[BATCH], call[WIDTH]
    idx, val, ptr, _ = _views(call)
    limits = _array(call[THRESHOLDS], (width if call[THRESHOLDS] else 0,), np.float32(0))
    if _select(_array(call[HIDDEN], (batch, width), like), limits, idx, val, ptr) > call[MOST]:
        return False
    if call[UP]:
        given = _array(call[INPUT], (batch, call[INPUTS]), like)
        split = _array(call[SPLIT], (batch, call[INPUTS]), np.float32(0))
        for row in range(batch):
            _split(given[row], split[row])
        if call[RUN]:
            call[TURN] = 0
            _call_parallel(call[RUN], call[UP_BODY], address, call[THREADS])
        else:
            _up_part(call, 0, like)
    if call[RUN]:
        call[TURN] = 0
        _call_parallel(call[RUN], call[DOWN_BODY], address, call[THREADS])
    else:
        _down_part(call, 0, like)
    _finish(call, like)
    return True


@cfunc(types.int64(types.int64), cache=True)
def multiply_f32(address):
    """The call at an address: 1 if it was done, 0 if too many neurons are active."""
    return np.int64(_multiply(address, _F32))


@cfunc(types.int64(types.int64), cache=True)
def multiply_bf16(address):
    """As ``multiply_f32``."""
    return np.int64(_multiply(address, _BF16))
