# mypy: ignore-errors
"""Products of several rows of a weight and several examples at a time, with the sums in registers.

A tile is ``ROWS`` rows and up to ``EXAMPLES`` examples. The examples' inputs are packed: in the order in which a tile reads them, so
they are one stream. Rows are read where they are, and the memory is asked for those of the next tile meanwhile. Where the processor
multiplies pairs of bfloat16 (AVX512-BF16), inputs stay bfloat16; elsewhere, they become float32.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import njit, types
from numba.core import cgutils, config
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from actratio.sparse.kernels.cpu_intrinsics import array_at, by_type
from actratio.sparse.kernels.cpu_numbers import even, in_lines, odd, widen
from actratio.sparse.kernels.cpu_vectors import LINE, numbers_at, plus_product, prefetch


def _features():
    """Return the names of the instruction sets that Numba compiles for."""
    if config.CPU_FEATURES is not None:
        return {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    return set() if config.CPU_NAME else {name for name, has in get_host_cpu_features().items() if has}


_FEATURES = _features()
_HAS_PAIRS = "avx512bf16" in _FEATURES
_LANES = 16 if "avx512vl" in _FEATURES else 8 if "avx" in _FEATURES else 4
_HAS_MANY_REGISTERS = _LANES == 16 or "neon" in _FEATURES  # 32 vector registers, others have 16

ROWS = 6 if _LANES > 4 else 4
"""Rows of a tile."""

EXAMPLES = 4 if _HAS_MANY_REGISTERS else 2
"""Examples of a tile, at most."""

_HALF_ROWS = ROWS // 2

_LINES = 128
"""Lines of each row that are multiplied by all examples before the next ones, so that they stay in the cache. Of 16 to 256, 96 and 128
were the fastest on one machine."""

_INT32, _INT64, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_FLOATS, _WORDS = ir.VectorType(_FLOAT, _LANES), ir.VectorType(_INT32, _LANES)
_NUMBER_BYTES = 4  # of a float32, and of a word of two bfloat16
_VECTOR_BYTES = _LANES * _NUMBER_BYTES


class _BFloat(ir.Type):
    """LLVM's bfloat16, which llvmlite doesn't have."""

    def _to_string(self):
        return "bfloat"


_PAIRS = ir.VectorType(_BFloat(), 2 * _LANES)


def _addresses_of(count):
    """Return what computes the addresses of ``count`` rows."""

    @intrinsic
    def addresses(context, base, row_bytes, listed, first, last):
        """Return addresses of rows from the place ``first`` on; after ``last``, that of the last row."""

        def code(context, builder, signature, arguments):
            base, row_bytes, rows, first, last = arguments
            found = []
            for i in range(count):
                row = builder.add(first, _int64(i))
                row = builder.select(builder.icmp_signed("<", row, last), row, last)
                if listed != types.none:
                    pointer = builder.gep(make_array(listed)(context, builder, rows).data, [row])
                    row = builder.sext(builder.load(pointer), _INT64)
                found.append(builder.add(base, builder.mul(row, row_bytes)))
            return context.make_tuple(builder, signature.return_type, found)

        i = types.int64
        return types.UniTuple(i, count)(i, i, listed, i, i), code

    return addresses


_tile_addresses, _half_of_tile, _two_addresses = _addresses_of(ROWS), _addresses_of(ROWS // 2), _addresses_of(2)
_one_address, _addresses_of_two_tiles = _addresses_of(1), _addresses_of(2 * ROWS)


def packs_pairs(like, stored):
    """Return whether activations and weights of these types are multiplied in pairs of bfloat16."""
    return _HAS_PAIRS and like == types.uint16 and stored == types.uint16


@by_type(inline="always")
def packed_at(address, examples, inputs, like, stored):
    """Return the place for packed inputs at an address: words of two bfloat16 if the processor multiplies those, else float32."""
    if packs_pairs(like, stored):
        return lambda address, examples, inputs, like, stored: array_at(address, (examples, inputs // 2), np.uint32(0))
    return lambda address, examples, inputs, like, stored: array_at(address, (examples, inputs), np.float32(0))


@njit(nogil=True)
def pack(x, packed, words):
    """Pack the inputs, (examples, inputs), that are multiplied by those of a weight's words that fill cache lines.

    Each block of examples has a place of its own. It holds a vector for each example, then the next vector for each, and so on.
    """
    first = 0
    while first < len(x):
        count = _block(len(x), first)
        for example in range(count):
            _pack_one(x[first + example], packed[first], words, example, count)
        first += count


@njit(nogil=True, inline="always")
def _block(examples, first):
    """Return how many examples are multiplied together, from the example ``first`` on: a power of two."""
    count = EXAMPLES
    while count > examples - first:
        count //= 2
    return count


@by_type(jit_options={"nogil": True})
def _pack_one(x, packed, words, example, count):
    """Pack the inputs of one example of a block of ``count``. Those of the even columns of bfloat16 come before those of the odd ones."""
    if packed.dtype == types.uint32:

        def of_words(x, packed, words, example, count):
            pairs = array_at(x.ctypes.data, (x.size // 2,), np.uint32(0))
            out = array_at(packed.ctypes.data, (in_lines(words) // _LANES, count, _LANES), np.uint32(0))
            for vector in range(len(out)):
                for lane in range(_LANES):
                    out[vector, example, lane] = pairs[vector * _LANES + lane]

        return of_words
    if words.dtype == types.uint32:

        def of_pairs(x, packed, words, example, count):
            out = array_at(packed.ctypes.data, (in_lines(words) // _LANES, count, 2, _LANES), np.float32(0))
            for vector in range(len(out)):
                for lane in range(_LANES):
                    place = 2 * (vector * _LANES + lane)
                    out[vector, example, 0, lane], out[vector, example, 1, lane] = widen(x[place]), widen(x[place + 1])

        return of_pairs

    def of_numbers(x, packed, words, example, count):
        out = array_at(packed.ctypes.data, (in_lines(words) // _LANES, count, _LANES), np.float32(0))
        for vector in range(len(out)):
            for lane in range(_LANES):
                out[vector, example, lane] = widen(x[vector * _LANES + lane])

    return of_numbers


@njit(nogil=True)
def multiply_rows(x, packed, words, listed, begin, end, sums):
    """Write the products of some rows of a weight and all examples to ``sums``.

    The last tile may have fewer rows. It repeats the last one, so ``sums`` must have places for a whole tile.

    Args:
        x: (examples, inputs).
        packed: what ``pack`` made of it.
        words: the weight.
        listed: indices of rows, int32; None stands for all rows in order.
        begin, end: which of them are multiplied: ``begin`` to ``end``.
        sums: for None, (examples, rows and ROWS - 1 more); for a list, (tiles, examples, ROWS).
    """
    for first in range(begin, end, ROWS):
        out = _tile_of(sums, listed, first)
        out[:] = 0
        multiply_tile(x, packed, words, listed, first, end, out)


@by_type(inline="always")
def _tile_of(sums, listed, first):
    """Return the sums of the tile of rows that begins with the place ``first``: (examples, ROWS)."""
    if listed == types.none:
        return lambda sums, listed, first: sums[:, first : first + ROWS]
    return lambda sums, listed, first: sums[first // ROWS]


@by_type(inline="always")
def _row_at(listed, place):
    if listed == types.none:
        return lambda listed, place: place
    return lambda listed, place: listed[place]


@njit(nogil=True)
def multiply_tile(x, packed, words, listed, first, end, out):
    """Add the products of a tile's rows, which begin with the place ``first``, and all examples to ``out``, (examples, ROWS)."""
    all_lines = in_lines(words) * words.itemsize // LINE
    for line in range(0, all_lines, _LINES):
        lines = min(_LINES, all_lines - line)
        _multiply_lines(packed, words, listed, first, end - 1, line, lines, line + lines == all_lines, out)
    for column in range(in_lines(words), words.shape[1]):
        for place in range(first, min(first + ROWS, end)):
            for example in range(len(x)):
                out[example, place - first] += _term(x[example], words[_row_at(listed, place), column], column)


@njit(nogil=True)
def _multiply_lines(packed, words, listed, place, last, line, lines, ends_row, out):
    """Add the products of ``lines`` lines of a tile's rows and all examples to ``out``.

    Meanwhile, the memory is asked for the lines that come next, by all blocks of ``EXAMPLES`` together.
    """
    base = words.ctypes.data
    rows = _tile_addresses(base + line * LINE, words.strides[0], listed, place, last)
    after, next_base = (place + ROWS, base) if ends_row else (place, base + (line + lines) * LINE)
    examples = len(packed)
    blocks = examples // EXAMPLES
    first = 0
    while first < examples:
        count, block = _block(examples, first), first // EXAMPLES
        if blocks > 2 and count == EXAMPLES:
            ahead = _two_addresses(next_base, words.strides[0], listed, after + 2 * block, last)
            _multiply_block(packed, words, rows, ahead, line, lines, first, count, out)
        elif blocks == 2 and count == EXAMPLES:
            half = _half_of_tile(next_base, words.strides[0], listed, after + _HALF_ROWS * block, last)
            _multiply_block(packed, words, rows, half, line, lines, first, count, out)
        elif first == 0:
            all_rows = _tile_addresses(next_base, words.strides[0], listed, after, last)
            _multiply_block(packed, words, rows, all_rows, line, lines, first, count, out)
        else:
            _multiply_block(packed, words, rows, (), line, lines, first, count, out)
        first += count


@njit(nogil=True)
def _multiply_block(packed, words, rows, ahead, line, lines, first, count, out):
    """Add the products of lines of a tile's rows and the block of ``count`` examples that begins with ``first`` to ``out``."""
    per_line = (
        packed.itemsize * packed.shape[1] // words.shape[1] * (LINE // words.itemsize)
    )  # bytes of one example's inputs
    inputs = packed[first].ctypes.data + line * per_line * count
    address, stride = out.ctypes.data + first * out.strides[0], out.strides[0]
    stored, given = words[0, 0], packed[0, 0]
    if EXAMPLES > 2 and count == 4:
        _add_products(inputs, rows, ahead, lines, address, stride, stored, given, 4)
    elif count == 2:
        _add_products(inputs, rows, ahead, lines, address, stride, stored, given, 2)
    else:
        _add_products(inputs, rows, ahead, lines, address, stride, stored, given, 1)


@by_type(jit_options={"nogil": True})
def _term(x, word, column):
    """Return what a word of a row, which has one number or two, adds to the row's product with an example's inputs."""
    if word == types.uint32:
        return lambda x, word, column: widen(x[2 * column]) * even(word) + widen(x[2 * column + 1]) * odd(word)
    return lambda x, word, column: widen(x[column]) * widen(word)


@intrinsic(prefer_literal=True)
def _add_products(context, inputs, rows, ahead, lines, sums, stride, stored, given, count):
    """Add the product of each input and each row to sums, over a number of cache lines of the rows.

    Args:
        inputs: address of the packed inputs.
        rows, ahead, lines, stored: as in ``dot_lines``.
        sums: address of the float32 to which the first input's product with the first row is added. The other rows' follow it.
        stride: bytes between the sums of two inputs.
        given: a number of the inputs' type: float32, or uint32 for the words of two bfloat16.
        count: the number of inputs, a literal.
    """
    examples = count.literal_value
    has_pairs = given == types.uint32
    halves = 2 if stored == types.uint32 and not has_pairs else 1
    parts = LINE // (_LANES * stored.bitwidth // 8)

    def code(context, builder, signature, arguments):
        inputs, rows, ahead, lines, sums, stride, *_ = arguments
        rows, ahead = cgutils.unpack_tuple(builder, rows), cgutils.unpack_tuple(builder, ahead)
        totals = [
            [cgutils.alloca_once_value(builder, ir.Constant(_FLOATS, None)) for _ in rows] for _ in range(examples)
        ]
        with cgutils.for_range(builder, lines) as loop:
            offset = builder.mul(loop.index, _int64(LINE))
            prefetch(builder, ahead, offset)
            x = builder.add(inputs, builder.mul(loop.index, _int64(parts * examples * halves * _VECTOR_BYTES)))
            for part in range(parts):
                addresses = [builder.add(row, offset) for row in rows]
                if has_pairs:
                    place = _int64(part * _VECTOR_BYTES)
                    numbers = [(_vector_at(builder, builder.add(one, place), _WORDS),) for one in addresses]
                else:
                    numbers = [numbers_at(builder, one, part, stored, _LANES) for one in addresses]
                for example in range(examples):
                    for half in range(halves):
                        place = ((part * examples + example) * halves + half) * _VECTOR_BYTES
                        kind = _WORDS if has_pairs else _FLOATS
                        values = _vector_at(builder, builder.add(x, _int64(place)), kind)
                        for total, number in zip(totals[example], numbers, strict=True):
                            add = _plus_pairs if has_pairs else plus_product
                            builder.store(add(builder, builder.load(total), values, number[half]), total)
        together = _LANES // len(rows)
        for first in range(0, examples, together):
            some = totals[first : first + together]
            added = _add_up(builder, [builder.load(total) for one in some for total in one])
            for i in range(len(some)):
                address = builder.add(sums, builder.mul(stride, _int64(first + i)))
                lanes = ir.Constant(ir.VectorType(_INT32, len(rows)), [i * len(rows) + j for j in range(len(rows))])
                products = builder.shuffle_vector(added, added, lanes)
                pointer = builder.inttoptr(address, products.type.as_pointer())
                before = builder.load(pointer, align=_NUMBER_BYTES)
                builder.store(builder.fadd(before, products), pointer, align=_NUMBER_BYTES)
        return context.get_dummy_value()

    return types.void(inputs, rows, ahead, lines, sums, stride, stored, given, count), code


@njit(nogil=True)
def add_rows(sums, words, listed, begin, end, first, last, factors):
    """Add rows of a weight, times a factor for each example, to the examples' sums: columns ``first`` to ``last``.

    Args:
        sums: (examples, columns). Sums of bfloat16 are kept apart: first those of the even columns, then those of the odd ones.
        words: the weight.
        listed: indices of rows, int32.
        begin, end: which of them are added.
        factors: (tiles, examples, ROWS) float32, or as many words of two bfloat16, for pairs of rows.
    """
    base, row_bytes, last_row = words.ctypes.data, words.strides[0], end - 1
    place = begin
    while place + 2 * ROWS <= end:
        rows = _addresses_of_two_tiles(base, row_bytes, listed, place, last_row)
        ahead = _addresses_of_two_tiles(base, row_bytes, listed, place + 2 * ROWS, last_row)
        _add_some(sums, words, rows, ahead, first, last, factors[place // ROWS :], 0)
        place += 2 * ROWS
    while place + 2 <= end:
        rows = _two_addresses(base, row_bytes, listed, place, last_row)
        _add_some(sums, words, rows, (), first, last, factors[place // ROWS :], place % ROWS)
        place += 2
    if place < end:
        row = _one_address(base, row_bytes, listed, place, last_row)
        _add_some(sums, words, row, (), first, last, factors[place // ROWS :], place % ROWS)


@njit(nogil=True)
def _add_some(sums, words, rows, ahead, first, last, factors, lane):
    """Add rows, times the factors from a lane of a tile on, to all examples' sums."""
    offset, lines = first * words.itemsize, (last - first) * words.itemsize // LINE
    evens, odds = sums.ctypes.data + first * sums.itemsize, words.shape[1] * sums.itemsize
    address = factors.ctypes.data + _bytes_before(factors, lane)
    _add_to_all(
        evens,
        odds,
        sums.strides[0],
        len(sums),
        address,
        factors.strides[1],
        factors.strides[0],
        rows,
        ahead,
        offset,
        lines,
        words[0, 0],
        factors[0, 0, 0],
    )


@by_type(inline="always")
def _bytes_before(factors, lane):
    """Return the bytes of a tile's factors before those of a lane: a word of two bfloat16 belongs to two lanes."""
    if factors.dtype == types.uint32:
        return lambda factors, lane: lane // 2 * factors.itemsize
    return lambda factors, lane: lane * factors.itemsize


@intrinsic
def _add_to_all(
    context, sums, odds, stride, examples, factors, step, between, rows, ahead, offset, lines, stored, given
):
    halves = 2 if stored == types.uint32 else 1
    has_pairs = given == types.uint32
    parts = LINE // (_LANES * stored.bitwidth // 8)

    def code(context, builder, signature, arguments):
        sums, odds, stride, examples, factors, step, between, rows, ahead, before, lines, *_ = arguments
        rows, ahead = cgutils.unpack_tuple(builder, rows), cgutils.unpack_tuple(builder, ahead)
        with cgutils.for_range(builder, lines) as loop:
            offset = builder.add(before, builder.mul(loop.index, _int64(LINE)))
            prefetch(builder, ahead, offset)
            for part in range(parts):
                addresses = [builder.add(row, offset) for row in rows]
                if has_pairs:
                    numbers = _paired(builder, [_vector_at(builder, one, _WORDS) for one in addresses])
                else:
                    numbers = [numbers_at(builder, one, part, stored, _LANES) for one in addresses]
                place = builder.mul(
                    builder.add(builder.mul(loop.index, _int64(parts)), _int64(part)), _int64(_VECTOR_BYTES)
                )
                start = builder.add(sums, place)
                with cgutils.for_range(builder, examples) as each:
                    example = builder.add(start, builder.mul(each.index, stride))
                    given_at = builder.add(factors, builder.mul(each.index, step))
                    spread = []
                    for i in range(len(numbers)):
                        lane = 2 * i if has_pairs else i
                        place = _int64(lane % ROWS // (2 if has_pairs else 1) * _NUMBER_BYTES)
                        address = builder.add(builder.add(given_at, place), builder.mul(between, _int64(lane // ROWS)))
                        pointer = builder.inttoptr(address, (_INT32 if has_pairs else _FLOAT).as_pointer())
                        spread.append(_spread(builder, builder.load(pointer)))
                    for half in range(halves):
                        address = builder.add(example, builder.mul(odds, _int64(half)))
                        total = _vector_at(builder, address, _FLOATS)
                        for factor, number in zip(spread, numbers, strict=True):
                            add = _plus_pairs if has_pairs else plus_product
                            total = add(builder, total, factor, number[half])
                        builder.store(total, builder.inttoptr(address, _FLOATS.as_pointer()), align=_NUMBER_BYTES)
        return context.get_dummy_value()

    return types.void(
        sums, odds, stride, examples, factors, step, between, rows, ahead, offset, lines, stored, given
    ), code


def _paired(builder, words):
    """Return the numbers of pairs of rows side by side: two vectors of words for each pair, of the even and of the odd columns."""
    if len(words) % 2:
        words = [*words, ir.Constant(_WORDS, None)]
    low, high, sixteen = (ir.Constant(_WORDS, [number] * _LANES) for number in (0xFFFF, 0xFFFF0000, 16))
    paired = []
    for first, second in zip(words[::2], words[1::2], strict=True):
        evens = builder.or_(builder.and_(first, low), builder.shl(second, sixteen))
        odds = builder.or_(builder.lshr(first, sixteen), builder.and_(second, high))
        paired.append((evens, odds))
    return paired


def _spread(builder, number):
    """Return a vector with a number in every place."""
    kind = ir.VectorType(number.type, _LANES)
    undefined, places = ir.Constant(kind, ir.Undefined), ir.Constant(_WORDS, [0] * _LANES)
    return builder.shuffle_vector(builder.insert_element(undefined, number, ir.Constant(_INT32, 0)), undefined, places)


def _int64(number):
    return ir.Constant(_INT64, number)


def _vector_at(builder, address, kind):
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=_NUMBER_BYTES)


def _plus_pairs(builder, total, left, right):
    """Return ``total`` plus the products of two vectors of words, each of two bfloat16: AVX512-BF16's instruction."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS, _PAIRS, _PAIRS])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
    return builder.call(function, [total, builder.bitcast(left, _PAIRS), builder.bitcast(right, _PAIRS)])


def _add_up(builder, vectors):
    """Return a vector that begins with the sum of each vector's numbers. There are at most ``_LANES`` vectors."""
    while len(vectors) & (len(vectors) - 1):
        vectors = [*vectors, ir.Constant(_FLOATS, None)]
    size = _LANES  # numbers that are left of each sum
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
