# mypy: ignore-errors
"""Products with several rows of a weight, in vectors of 16 numbers, while the memory is asked for the rows that come next.

The loops are written in LLVM's instructions, because LLVM doesn't vectorize loops that ask for memory, and what it makes of others is
slower. It splits the vectors if the processor has shorter ones. A step of a loop reads 64 bytes of each row.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE = 64
"""Bytes of a cache line."""

_LANES = 16
_INT32, _INT64, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_FLOATS, _WORDS = ir.VectorType(_FLOAT, _LANES), ir.VectorType(_INT32, _LANES)
_FLOAT_BYTES = 4


@intrinsic
def dot_lines(context, evens, odds, rows, ahead, lines, stored):
    """Return the product of the inputs and each row, over a number of cache lines, as a tuple of float32.

    Args:
        evens: address of the inputs, float32; if the weights are bfloat16, of those of the even columns.
        odds: address of those of the odd columns; unused for other weights.
        rows: addresses of the rows.
        ahead: addresses of what the memory is asked for meanwhile, which may be anywhere. May be empty.
        lines: number of lines.
        stored: a number of the rows' type: float32, int8, or uint32 for the words of two bfloat16.
    """

    def code(context, builder, signature, arguments):
        evens, odds, rows, ahead, lines, _ = arguments
        rows, ahead = cgutils.unpack_tuple(builder, rows), cgutils.unpack_tuple(builder, ahead)
        sums = [cgutils.alloca_once_value(builder, ir.Constant(_FLOATS, None)) for _ in rows]
        with cgutils.for_range(builder, lines) as loop:
            offset = builder.mul(loop.index, int64(LINE))
            prefetch(builder, ahead, offset)
            for part in range(vectors_of(stored)):
                place = _place(builder, loop.index, part, stored)
                inputs = [_floats_at(builder, base, place) for base in _bases(evens, odds, stored)]
                for total, row in zip(sums, rows, strict=True):
                    numbers = numbers_at(builder, builder.add(row, offset), part, stored)
                    for x, weight in zip(inputs, numbers, strict=True):
                        builder.store(plus_product(builder, builder.load(total), x, weight), total)
        kind = ir.FunctionType(_FLOAT, [_FLOAT, _FLOATS])
        add_up = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.fadd.v{_LANES}f32")
        zero = ir.Constant(_FLOAT, 0.0)
        totals = [builder.call(add_up, [zero, builder.load(total)], fastmath=("reassoc",)) for total in sums]
        return context.make_tuple(builder, signature.return_type, totals)

    return types.UniTuple(types.float32, len(rows))(evens, odds, rows, ahead, lines, stored), code


@intrinsic
def add_lines(context, evens, odds, factors, rows, ahead, before, lines, stored):
    """Add each row times its factor to sums, over a number of cache lines.

    Args:
        evens: address of the sums, float32; if the weights are bfloat16, of those of the even columns.
        odds: address of those of the odd columns; unused for other weights.
        factors: float32, one for each row.
        rows, ahead, lines, stored: as in ``dot_lines``.
        before: lines that are added before the memory is asked for the first line of what is ahead.
    """

    def code(context, builder, signature, arguments):
        evens, odds, factors, rows, ahead, before, lines, _ = arguments
        factors = [spread(builder, factor) for factor in cgutils.unpack_tuple(builder, factors)]
        rows, ahead = cgutils.unpack_tuple(builder, rows), cgutils.unpack_tuple(builder, ahead)
        with cgutils.for_range(builder, lines) as loop:
            offset = builder.mul(loop.index, int64(LINE))
            prefetch_after(builder, ahead, loop.index, before)
            for part in range(vectors_of(stored)):
                place = _place(builder, loop.index, part, stored)
                bases = _bases(evens, odds, stored)
                sums = [_floats_at(builder, base, place) for base in bases]
                for factor, row in zip(factors, rows, strict=True):
                    numbers = numbers_at(builder, builder.add(row, offset), part, stored)
                    sums = [
                        plus_product(builder, total, factor, number)
                        for total, number in zip(sums, numbers, strict=True)
                    ]
                for base, total in zip(bases, sums, strict=True):
                    pointer = builder.inttoptr(builder.add(base, place), _FLOATS.as_pointer())
                    builder.store(total, pointer, align=_FLOAT_BYTES)
        return context.get_dummy_value()

    return types.void(evens, odds, factors, rows, ahead, before, lines, stored), code


def int64(number):
    """Return a constant of 64 bits."""
    return ir.Constant(_INT64, number)


def _item_bytes(stored):
    return stored.bitwidth // 8


def vectors_of(stored, lanes=_LANES):
    """Return how many vectors a line of a weight has."""
    return LINE // (lanes * _item_bytes(stored))


def _bases(evens, odds, stored):
    return (evens, odds) if stored == types.uint32 else (evens,)


def _place(builder, line, part, stored):
    """Return the bytes between the first float32 and those that belong to a part of a line."""
    step = LINE // _item_bytes(stored) * _FLOAT_BYTES
    return builder.add(builder.mul(line, int64(step)), int64(part * _LANES * _FLOAT_BYTES))


def _floats_at(builder, base, place):
    pointer = builder.inttoptr(builder.add(base, place), _FLOATS.as_pointer())
    return builder.load(pointer, align=_FLOAT_BYTES)


def numbers_at(builder, address, part, stored, lanes=_LANES):
    """Return a part of a line as vectors of float32: two if the weights are bfloat16, for the even and the odd columns."""
    size = _item_bytes(stored)
    floats, words = ir.VectorType(_FLOAT, lanes), ir.VectorType(_INT32, lanes)
    kind = floats if stored == types.float32 else ir.VectorType(ir.IntType(8 * size), lanes)
    pointer = builder.inttoptr(builder.add(address, int64(part * lanes * size)), kind.as_pointer())
    vector = builder.load(pointer, align=size)
    if stored == types.float32:
        return (vector,)
    if stored == types.int8:
        return (builder.sitofp(builder.sext(vector, words), floats),)
    even = builder.shl(vector, ir.Constant(words, [16] * lanes))
    odd = builder.and_(vector, ir.Constant(words, [0xFFFF0000] * lanes))
    return builder.bitcast(even, floats), builder.bitcast(odd, floats)


def plus_product(builder, total, left, right):
    """Return ``total + left * right``, which may be one instruction."""
    flags = ("contract",)
    return builder.fadd(total, builder.fmul(left, right, flags=flags), flags=flags)


def spread(builder, number, lanes=_LANES):
    """Return a vector with a number in every place."""
    undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    with_first = builder.insert_element(undefined, number, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(with_first, undefined, ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes))


def prefetch(builder, ahead, offset):
    """Ask for lines to be brought to the second-level cache; the first one is too small for what is needed now and next."""
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, _INT32, _INT32, _INT32])
    function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
    for address in ahead:
        line = builder.inttoptr(builder.add(address, offset), pointer)
        # To read; into the second-level cache; data, not instructions.
        builder.call(function, [line] + [ir.Constant(_INT32, number) for number in (0, 2, 1)])


def prefetch_after(builder, ahead, line, before):
    """Ask for a line, counted from the line ``before`` on; for nothing before that."""
    if ahead:
        with builder.if_then(builder.icmp_signed(">=", line, before)):
            prefetch(builder, ahead, builder.mul(builder.sub(line, before), int64(LINE)))
