# mypy: ignore-errors
"""Products of several rows of a weight and all examples of a batch.

A tile is ``ROWS`` rows and up to ``EXAMPLES`` examples, whose sums are in registers. The examples' inputs are packed: in the order in
which a tile reads them, so they are one stream. Rows are read where they are, and the memory is asked for what comes next
meanwhile. Where the processor multiplies pairs of bfloat16, inputs stay bfloat16; elsewhere, they become float32.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from actratio.sparse.kernels.cpu_intrinsics import array_at, by_type, clear
from actratio.sparse.kernels.cpu_numbers import even, in_lines, odd, widen
from actratio.sparse.kernels.cpu_target import ADDED_ROWS, EXAMPLES, LANES, ROWS, packs_pairs
from actratio.sparse.kernels.cpu_tile_vectors import add_for_all, add_products, addresses_of
from actratio.sparse.kernels.cpu_vectors import LINE

_LINES = 128
"""Lines of each row that are multiplied by all examples before the next ones, so that they stay in the cache. Of 16 to 256, 96 and 128
were the fastest on one machine."""

_LINES_READ_OFTEN = _LINES if EXAMPLES > 2 else 32
"""The same for more examples than a tile has. If a tile has few, the lines are read so often that they should stay in the first-level cache."""

_PANEL = 1 << 18
"""Bytes of packed inputs that are multiplied by all rows of a part before the next ones, so that they stay in the second-level cache. There are
at least as many lines of them as are multiplied of a row at a time. Of 1 << 17 to 1 << 19, all were about as fast."""

_one_address, _two_addresses = addresses_of(1), addresses_of(2)
_tile_addresses, _added_addresses = addresses_of(ROWS), addresses_of(ADDED_ROWS)


@by_type(inline="always")
def packed_at(address, examples, inputs, like, stored):
    """Return the place for packed inputs at an address: words of two bfloat16 if the processor multiplies those, else float32."""
    if packs_pairs(like, stored):
        return lambda address, examples, inputs, like, stored: array_at(address, (examples, inputs // 2), np.uint32(0))
    return lambda address, examples, inputs, like, stored: array_at(address, (examples, inputs), np.float32(0))


@njit(nogil=True)
def pack(x, packed, words):
    """Pack the inputs that are multiplied by those of a weight's words that fill cache lines.

    Each block of examples has a place of its own. It holds a vector for each example, then the next vector for each, and so on.

    Args:
        x: (examples, inputs).
        packed: from ``packed_at``.
        words: the weight.
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
            out = array_at(packed.ctypes.data, (in_lines(words) // LANES, count, LANES), np.uint32(0))
            for vector in range(len(out)):
                for lane in range(LANES):
                    out[vector, example, lane] = pairs[vector * LANES + lane]

        return of_words
    if words.dtype == types.uint32:

        def of_pairs(x, packed, words, example, count):
            out = array_at(packed.ctypes.data, (in_lines(words) // LANES, count, 2, LANES), np.float32(0))
            for vector in range(len(out)):
                for lane in range(LANES):
                    place = 2 * (vector * LANES + lane)
                    out[vector, example, 0, lane], out[vector, example, 1, lane] = widen(x[place]), widen(x[place + 1])

        return of_pairs

    def of_numbers(x, packed, words, example, count):
        out = array_at(packed.ctypes.data, (in_lines(words) // LANES, count, LANES), np.float32(0))
        for vector in range(len(out)):
            for lane in range(LANES):
                out[vector, example, lane] = widen(x[vector * LANES + lane])

    return of_numbers


@njit(nogil=True)
def multiply_rows(x, packed, words, listed, begin, end, following, sums):
    """Write the products of some rows of a weight and all examples to ``sums``.

    The last tile may have fewer rows. It repeats the last one, so ``sums`` must have places for a whole tile.

    Args:
        x: (examples, inputs).
        packed: what ``pack`` made of it.
        words: the weight.
        listed: indices of rows, int32; None stands for all rows in order.
        begin, end: the places of the rows in the list. ``begin`` is a multiple of ``ROWS``.
        following: the place of the first row that the thread is likely to multiply by next, whose lines are asked for.
        sums: for None, (examples, rows and ROWS - 1 more); for a list, (tiles, examples, ROWS).
    """
    for first in range(begin, end, ROWS):
        clear(_sums_of(sums, listed, first))
    all_lines = in_lines(words) * words.itemsize // LINE
    per_line = _bytes_per_word(packed, words) * (LINE // words.itemsize) * len(x)
    step = _LINES if len(x) <= EXAMPLES else _LINES_READ_OFTEN
    panel = max(_PANEL // per_line // step, 1) * step
    for start in range(0, all_lines, panel):
        stop = min(start + panel, all_lines)
        after = (begin, stop) if stop < all_lines else (following, 0)
        for first in range(begin, end, ROWS):
            out = _sums_of(sums, listed, first)
            for line in range(start, stop, step):
                last = min(line + step, stop)
                # Short rows of the next tile would come too late, so the memory is asked for those of the tile after it.
                place = first + 2 * ROWS
                if last < stop:
                    asked = first, last
                elif place < end:
                    asked = place, start
                else:
                    asked = after[0] + place - (end + ROWS - 1) // ROWS * ROWS, after[1]
                _multiply_lines(packed, words, listed, first, end - 1, line, last, asked, out)
    if in_lines(words) < words.shape[1]:
        for first in range(begin, end, ROWS):
            _add_rest_products(x, words, listed, first, min(first + ROWS, end), _sums_of(sums, listed, first))


@njit(nogil=True, inline="always")
def _bytes_per_word(packed, words):
    """Return the bytes of an example's packed inputs that are multiplied by a word of a row."""
    return packed.shape[1] // words.shape[1] * packed.itemsize


@by_type(inline="always")
def _sums_of(sums, listed, first):
    """Return the sums of the tile that begins with the place ``first``: (examples, ROWS)."""
    if listed == types.none:
        return lambda sums, listed, first: sums[:, first : first + ROWS]
    return lambda sums, listed, first: sums[first // ROWS]


@njit(nogil=True)
def _add_rest_products(x, words, listed, first, last, out):
    """Add the products of the rows ``first`` to ``last`` and all examples, over the columns that fill no cache line."""
    for column in range(in_lines(words), words.shape[1]):
        for place in range(first, last):
            word = words[_row_at(listed, place), column]
            for example in range(len(x)):
                out[example, place - first] += _term(x[example], word, column)


@by_type(inline="always")
def _row_at(listed, place):
    if listed == types.none:
        return lambda listed, place: place
    return lambda listed, place: listed[place]


@by_type(jit_options={"nogil": True})
def _term(x, word, column):
    """Return what a word of a row, which has one number or two, adds to the row's product with an example's inputs."""
    if word == types.uint32:
        return lambda x, word, column: widen(x[2 * column]) * even(word) + widen(x[2 * column + 1]) * odd(word)
    return lambda x, word, column: widen(x[column]) * widen(word)


@njit(nogil=True, inline="always")
def _multiply_lines(packed, words, listed, first_row, last_row, line, last_line, asked, out):
    """Add the products of some lines of a tile's rows and all examples to ``out``, (examples, ROWS).

    Meanwhile, the memory is asked for as many lines of another tile, or of the same one: ``asked`` is the place of its first row and the
    first line. Each block of examples asks for its share of the rows, so that the memory is always busy.
    """
    base, row_bytes = words.ctypes.data, words.strides[0]
    rows = _tile_addresses(base + line * LINE, row_bytes, listed, first_row, last_row)
    last_asked = len(words) - 1 if listed is None else last_row
    ahead = _tile_addresses(base + asked[1] * LINE, row_bytes, listed, asked[0], last_asked)
    per_line = _bytes_per_word(packed, words) * (LINE // words.itemsize)
    lines, stride, like_inputs = last_line - line, out.strides[0], packed[0, 0]
    examples = len(packed)
    first = 0
    while first < examples:
        count = _block(examples, first)
        share = ROWS * first // examples, ROWS * (first + count) // examples
        inputs = packed[first].ctypes.data + line * per_line * count
        sums = out.ctypes.data + first * stride
        if count == 1:
            add_products(inputs, rows, ahead, share, lines, sums, stride, words[0, 0], like_inputs, 1)
        elif count == 2:
            add_products(inputs, rows, ahead, share, lines, sums, stride, words[0, 0], like_inputs, 2)
        else:
            add_products(inputs, rows, ahead, share, lines, sums, stride, words[0, 0], like_inputs, EXAMPLES)
        first += count


@njit(nogil=True)
def add_rows(sums, words, listed, begin, end, first, last, factors, asked):
    """Add rows of a weight, times a factor for each example, to the examples' sums. The columns must fill cache lines.

    Args:
        sums: (examples, columns). Sums of bfloat16 are kept apart: first those of the even columns, then those of the odd ones.
        words: the weight.
        listed: indices of rows, int32.
        begin, end: the places of the rows in the list. ``begin`` is a multiple of ``ROWS``.
        first, last: the columns, in words.
        factors: (tiles, examples, ROWS) float32, or words of two bfloat16 for two rows each, in the first half of each ROWS.
        asked: bytes of each of the next rows that the memory is asked for meanwhile.
    """
    base, row_bytes, last_place = words.ctypes.data + first * words.itemsize, words.strides[0], end - 1
    lines = (last - first) * words.itemsize // LINE
    before, examples = max(lines - asked // LINE, 0), len(sums)
    place = begin
    while place + ADDED_ROWS <= end:
        rows = _added_addresses(base, row_bytes, listed, place, last_place)
        ahead = _added_addresses(base, row_bytes, listed, place + ADDED_ROWS, last_place)
        if examples == 4:
            _add_some_rows(sums, 4, words, rows, ahead, before, first, lines, factors, place)
        elif examples == 8:
            _add_some_rows(sums, 8, words, rows, ahead, before, first, lines, factors, place)
        elif examples == 16:
            _add_some_rows(sums, 16, words, rows, ahead, before, first, lines, factors, place)
        else:
            _add_some_rows(sums, examples, words, rows, ahead, before, first, lines, factors, place)
        place += ADDED_ROWS
    while place + 2 <= end:
        two = _two_addresses(base, row_bytes, listed, place, last_place)
        _add_some_rows(sums, examples, words, two, (), 0, first, lines, factors, place)
        place += 2
    if place < end:
        one = _one_address(base, row_bytes, listed, place, last_place)
        _add_some_rows(sums, examples, words, one, (), 0, first, lines, factors, place)


@njit(nogil=True, inline="always")
def _add_some_rows(sums, examples, words, rows, ahead, before, first, lines, factors, place):
    """Add the rows that begin at a place of the list to all examples' sums, from the column ``first`` on.

    ``examples`` is their number, if possible a literal (``add_for_all``).
    """
    start, odds = sums.ctypes.data + first * sums.itemsize, words.shape[1] * sums.itemsize
    tile_step, step = factors.strides[0], factors.strides[1]
    own = factors.ctypes.data + place // ROWS * tile_step + _bytes_before(factors, place % ROWS)
    stride, stored, like = sums.strides[0], words[0, 0], factors[0, 0, 0]
    add_for_all(start, stride, odds, examples, own, step, tile_step, rows, ahead, before, lines, stored, like)


@by_type(inline="always")
def _bytes_before(factors, row):
    """Return the bytes of a tile's factors before those of a row: a word of two bfloat16 belongs to two rows."""
    if factors.dtype == types.uint32:
        return lambda factors, row: row // 2 * factors.itemsize
    return lambda factors, row: row * factors.itemsize
