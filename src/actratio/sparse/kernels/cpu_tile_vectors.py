# mypy: ignore-errors
"""Products of several rows of a weight and several examples, in the processor's vectors, as ``cpu_vectors`` has them for one example."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from actratio.sparse.kernels.cpu_target import LANES, ROWS, VECTORS_OF_ADDED_ROWS
from actratio.sparse.kernels.cpu_vectors import (
    LINE,
    int64,
    numbers_at,
    plus_product,
    prefetch,
    prefetch_after,
    spread,
    vectors_of,
)

_INT32, _INT64, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_FLOATS, _WORDS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT32, LANES)
_NUMBER_BYTES = 4  # of a float32, and of a word of two bfloat16
_UNROLLED = 4  # examples that a compiled loop over examples adds to at a time
_VECTOR_BYTES = LANES * _NUMBER_BYTES


def addresses_of(count):
    """Return a compiled function that computes the addresses of ``count`` rows."""

    @intrinsic
    def addresses(context, base, row_bytes, listed, first, last):
        """Return addresses of rows as a tuple, from the place ``first`` on; after the place ``last``, that of the last row.

        Args:
            base: address of the first row of all.
            row_bytes: bytes between two rows.
            listed: indices of rows, int32; None stands for all rows in order.
            first, last: places in the list.
        """

        def code(context, builder, signature, arguments):
            base, row_bytes, rows, first, last = arguments
            found = []
            for i in range(count):
                row = builder.add(first, int64(i))
                row = builder.select(builder.icmp_signed("<", row, last), row, last)
                if listed != types.none:
                    pointer = builder.gep(make_array(listed)(context, builder, rows).data, [row])
                    row = builder.sext(builder.load(pointer), _INT64)
                found.append(builder.add(base, builder.mul(row, row_bytes)))
            return context.make_tuple(builder, signature.return_type, found)

        i = types.int64
        return types.UniTuple(i, count)(i, i, listed, i, i), code

    return addresses


@intrinsic(prefer_literal=True)
def add_products(context, inputs, rows, ahead, share, lines, sums, stride, stored, like_inputs, count):
    """Add the product of each example and each row to sums, over a number of cache lines of the rows.

    Args:
        inputs: address of the packed inputs (``cpu_tiles.pack``).
        rows, lines, stored: as in ``cpu_vectors.dot_lines``.
        ahead: addresses of what the memory may be asked for meanwhile.
        share: of these, the first that it is asked for, and the one after the last.
        sums: address of the first example's sum for the first row, float32. Those of the other rows follow.
        stride: bytes between the sums of two examples.
        like_inputs: a number of the inputs' type: float32, or uint32 for the words of two bfloat16.
        count: the number of examples, a literal.
    """
    examples = count.literal_value
    has_pairs = like_inputs == types.uint32
    halves = 2 if stored == types.uint32 and not has_pairs else 1
    parts = vectors_of(stored, LANES)

    def code(context, builder, signature, arguments):
        inputs, rows, ahead, share, lines, sums, stride, *_ = arguments
        rows, ahead = cgutils.unpack_tuple(builder, rows), cgutils.unpack_tuple(builder, ahead)
        first_asked, end_asked = cgutils.unpack_tuple(builder, share)
        addresses = cgutils.alloca_once(builder, _INT64, len(ahead))
        for i, address in enumerate(ahead):
            builder.store(address, builder.gep(addresses, [int64(i)]))
        zero = ir.Constant(_FLOATS, None)
        totals = [[cgutils.alloca_once_value(builder, zero) for _ in rows] for _ in range(examples)]
        with cgutils.for_range(builder, lines) as loop:
            offset = builder.mul(loop.index, int64(LINE))
            # A loop, because one function for each number of rows would take long to compile.
            with cgutils.for_range_slice(builder, first_asked, end_asked, int64(1)) as (i, _):
                prefetch(builder, [builder.load(builder.gep(addresses, [i]))], offset)
            x = builder.add(inputs, builder.mul(loop.index, int64(parts * examples * halves * _VECTOR_BYTES)))
            for part in range(parts):
                start = builder.add(x, int64(part * examples * halves * _VECTOR_BYTES))
                kind = _WORDS if has_pairs else _FLOATS
                values = [
                    _vector_at(builder, builder.add(start, int64(place * _VECTOR_BYTES)), kind)
                    for place in range(examples * halves)
                ]
                for place, row in enumerate(rows):  # row by row, because all rows' numbers don't fit in the registers
                    address = builder.add(row, offset)
                    if has_pairs:
                        numbers = (_vector_at(builder, address, _WORDS),)
                    else:
                        numbers = numbers_at(builder, address, part, stored, LANES)
                    for example in range(examples):
                        total = totals[example][place]
                        for half, number in enumerate(numbers):
                            value = values[example * halves + half]
                            builder.store(_plus(builder, builder.load(total), value, number, has_pairs), total)
        together = LANES // len(rows)
        for first in range(0, examples, together):
            some = totals[first : first + together]
            added = _add_up(builder, [builder.load(total) for example in some for total in example])
            for i in range(len(some)):
                lanes = ir.Constant(ir.VectorType(_INT32, len(rows)), [i * len(rows) + j for j in range(len(rows))])
                products = builder.shuffle_vector(added, added, lanes)
                place = builder.add(sums, builder.mul(stride, int64(first + i)))
                _store(builder, builder.fadd(_vector_at(builder, place, products.type), products), place)
        return context.get_dummy_value()

    return types.void(inputs, rows, ahead, share, lines, sums, stride, stored, like_inputs, count), code


@intrinsic(prefer_literal=True)
def add_for_all(
    context, sums, stride, odds, examples, factors, step, tile_step, rows, ahead, before, lines, stored, like
):
    """Add each row times a factor of each example to the example's sums, over a number of cache lines.

    Args:
        sums: address of the first example's sums, float32; if the weights are bfloat16, of those of the even columns.
        stride: bytes between the sums of two examples.
        odds: bytes from the sums of the even columns to those of the odd ones; unused for other weights.
        examples: the number of examples. If it's a literal, there's no loop over them: in some processes, 8 or 16 examples took 1.5 times as long with
            it, probably because its end was mispredicted.
        factors: address of the first example's factors, one for each row. If they are words of two bfloat16, one for two rows.
        step: bytes between the factors of two examples.
        tile_step: bytes between the factors of the rows of two tiles.
        rows, ahead, before, lines, stored: as in ``cpu_vectors.add_lines``.
        like: a number of the factors' type: float32 or uint32.
    """
    has_pairs = like == types.uint32
    halves = 2 if stored == types.uint32 else 1
    parts, rows_of_word = vectors_of(stored, LANES), 2 if has_pairs else 1
    together = VECTORS_OF_ADDED_ROWS // halves or 1  # parts of a line
    literal = examples.literal_value if isinstance(examples, types.IntegerLiteral) else None

    def code(context, builder, signature, arguments):
        sums, stride, odds, examples, factors, step, tile_step, rows, ahead, before, lines, *_ = arguments
        rows, ahead = cgutils.unpack_tuple(builder, rows), cgutils.unpack_tuple(builder, ahead)
        between = odds if halves == 2 else int64(_VECTOR_BYTES)

        def numbers_of(offset, part):
            """Return some vectors of each row, or of two rows whose numbers are paired."""
            places = [builder.add(row, offset) for row in rows]
            if has_pairs:
                return _paired(builder, [_vector_at(builder, place, _WORDS) for place in places])
            some = range(part, part + together)
            return [sum((numbers_at(builder, place, i, stored, LANES) for i in some), start=()) for place in places]

        def add(numbers, start, example):
            own = builder.add(factors, builder.mul(example, step))
            first = builder.add(start, builder.mul(example, stride))
            addresses = [builder.add(first, builder.mul(between, int64(i))) for i in range(len(numbers[0]))]
            totals = [_vector_at(builder, address, _FLOATS) for address in addresses]
            for row, vectors in zip(range(0, len(rows), rows_of_word), numbers, strict=True):
                in_tile = int64(row % ROWS // rows_of_word * _NUMBER_BYTES)
                place = builder.add(builder.add(own, in_tile), builder.mul(tile_step, int64(row // ROWS)))
                pointer = builder.inttoptr(place, (_INT32 if has_pairs else _FLOAT).as_pointer())
                factor = spread(builder, builder.load(pointer), LANES)
                totals = [
                    _plus(builder, total, factor, number, has_pairs)
                    for total, number in zip(totals, vectors, strict=True)
                ]
            for address, total in zip(addresses, totals, strict=True):
                _store(builder, total, address)

        whole = builder.sub(examples, builder.srem(examples, int64(_UNROLLED)))
        with cgutils.for_range(builder, lines) as loop:
            offset = builder.mul(loop.index, int64(LINE))
            for part in range(0, parts, together):
                numbers = numbers_of(offset, part)
                vector = builder.add(builder.mul(loop.index, int64(parts)), int64(part))
                start = builder.add(sums, builder.mul(vector, int64(_VECTOR_BYTES)))
                if literal:
                    turns = parts // together * literal
                    for example in range(literal):
                        turn = part // together * literal + example  # the memory is asked for a share in every turn
                        share = ahead[len(ahead) * turn // turns : len(ahead) * (turn + 1) // turns]
                        prefetch_after(builder, share, loop.index, before)
                        add(numbers, start, int64(example))
                else:
                    if part == 0:
                        prefetch_after(builder, ahead, loop.index, before)
                    with cgutils.for_range_slice(builder, int64(0), whole, int64(_UNROLLED)) as (example, _):
                        for i in range(_UNROLLED):
                            add(numbers, start, builder.add(example, int64(i)))
                    with cgutils.for_range_slice(builder, whole, examples, int64(1)) as (example, _):
                        add(numbers, start, example)
        return context.get_dummy_value()

    kinds = sums, stride, odds, examples, factors, step, tile_step, rows, ahead, before, lines, stored, like
    return types.void(*kinds), code


def _vector_at(builder, address, kind):
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=_NUMBER_BYTES)


def _store(builder, vector, address):
    builder.store(vector, builder.inttoptr(address, vector.type.as_pointer()), align=_NUMBER_BYTES)


def _plus(builder, total, left, right, has_pairs):
    """Return ``total`` plus the products of two vectors, of float32 or of words of two bfloat16."""
    if not has_pairs:
        return plus_product(builder, total, left, right)
    kind = ir.FunctionType(_FLOATS, [_FLOATS, _WORDS, _WORDS])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
    return builder.call(function, [total, left, right])


def _paired(builder, words):
    """Return the numbers of two rows at a time side by side: two vectors of words, of the even columns and of the odd ones."""
    if len(words) % 2:
        words = [*words, ir.Constant(_WORDS, None)]
    low, high, sixteen = (ir.Constant(_WORDS, [number] * LANES) for number in (0xFFFF, 0xFFFF0000, 16))
    paired = []
    for first, second in zip(words[::2], words[1::2], strict=True):
        evens = builder.or_(builder.and_(first, low), builder.shl(second, sixteen))
        odds = builder.or_(builder.lshr(first, sixteen), builder.and_(second, high))
        paired.append((evens, odds))
    return paired


def _add_up(builder, vectors):
    """Return a vector that begins with the sum of each vector's numbers. There are at most ``LANES`` vectors."""
    while len(vectors) & (len(vectors) - 1):
        vectors = [*vectors, ir.Constant(_FLOATS, None)]
    size = LANES  # numbers that are left of each sum
    while size > 1:
        half, width = size // 2, vectors[0].type.count
        lower = [start + i for start in range(0, width, size) for i in range(half)]
        if len(vectors) > 1:  # two vectors become one
            lower += [width + i for i in lower]
            pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
        else:
            pairs = [(vectors[0], vectors[0])]
        places = ir.VectorType(_INT32, len(lower))
        masks = ir.Constant(places, lower), ir.Constant(places, [i + half for i in lower])
        vectors = [builder.fadd(*(builder.shuffle_vector(a, b, mask) for mask in masks)) for a, b in pairs]
        size = half
    return vectors[0]
