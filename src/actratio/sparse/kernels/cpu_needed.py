# mypy: ignore-errors
"""Sparse products of a batch that take every neuron that some example needs, for all examples.

An example's inactive neurons then count as zeros. That is more arithmetic than adding each example's own neurons, but all of it is
done in tiles, with one list for all examples.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from actratio.sparse.kernels.cpu_call import PAD
from actratio.sparse.kernels.cpu_intrinsics import array_at, as_bits, by_type, clear
from actratio.sparse.kernels.cpu_numbers import even, gated, in_lines, odd, widen, words_at
from actratio.sparse.kernels.cpu_target import ROWS, packs_pairs
from actratio.sparse.kernels.cpu_tiles import add_rows, multiply_rows, packed_at
from actratio.sparse.kernels.cpu_vectors import LINE

_MOST_WORK, _MOST_WORK_OF_OTHERS = 8, 5  # see ``pays``

_SUMS = 32768
"""How many words of all examples' sums are added to before the next columns, so that they stay in the second-level cache: 128 KB of sums,
or 256 KB if a word is two bfloat16."""


_TILES = 16
"""Tiles whose factors are made for all examples before the next ones, so that what is read and what is written stay in the first-level cache."""


@by_type(inline="always")
def pays(needed, active, examples, like, stored):
    """Return whether taking the needed neurons for all examples is faster than taking each example's own.

    With float32, and with pairs of bfloat16, it was faster on one machine if it's at most 8 times as much arithmetic, and with others
    at most about 5 times.
    """
    most = _MOST_WORK if stored == types.float32 or packs_pairs(like, stored) else _MOST_WORK_OF_OTHERS
    return lambda needed, active, examples, like, stored: needed * examples <= most * active


@njit(nogil=True)
def needed_part(call, part, like, stored):
    """Compute the sums over one part of the needed neurons."""
    parts, batch, width, features, needed = call.threads, call.batch, call.width, call.features, call.needed
    tiles = -(-needed // ROWS)
    begin, end = tiles * part // parts * ROWS, min(tiles * (part + 1) // parts * ROWS, needed)
    listed = array_at(call.neurons, (needed,), np.int32(0))
    products = array_at(call.values, (tiles, batch, ROWS), np.float32(0))
    if call.up:
        x = array_at(call.x, (batch, call.inputs), like)
        packed = packed_at(call.split_x, batch, call.inputs, like, stored)
        multiply_rows(x, packed, words_at(call.up, width, call.inputs, stored), listed, begin, end, end, products)
    factors = _make_factors(call, products, listed, begin, end, like, stored)
    words = words_at(call.rows, width, features, stored)
    sums = array_at(call.sums, (parts, batch, features + PAD), np.float32(0))[part]
    clear(sums)
    full, columns = in_lines(words), _SUMS // batch // LINE * LINE  # whole lines of every type
    for first in range(0, full, columns):
        add_rows(sums, words, listed, begin, end, first, min(first + columns, full), factors, call.asked)
    _add_rest_of_rows(sums, words, listed, begin, end, full, factors)


@njit(nogil=True)
def _make_factors(call, products, listed, begin, end, like, stored):
    """Return what the neurons' rows are multiplied by for each example, in the place of the up projection's products.

    The factors are (tiles, examples, ROWS) float32, or words of two bfloat16 as ``_pack_in_pairs`` makes them. They are 0 if the neuron isn't
    active, and after the last place.
    """
    # All of the call that is read in the loop, because the compiler can't know that writing a factor doesn't change the call.
    batch, width, has_up = call.batch, call.width, call.up != 0
    hidden = array_at(call.hidden, (batch, width), like)
    thresholds = array_at(call.thresholds, (width if call.thresholds else 0,), np.float32(0))
    scales = array_at(call.up_scales, (width if call.up_scales else 0,), np.float32(0))
    bias = array_at(call.up_bias, (width if call.up_bias else 0,), like)
    last_tile = -(-end // ROWS)
    for first_tile in range(begin // ROWS, last_tile, _TILES):
        for example in range(batch):
            for tile in range(first_tile, min(first_tile + _TILES, last_tile)):
                own = products[tile, example]
                for lane in range(ROWS):
                    place = tile * ROWS + lane
                    # Unsigned, because a signed index is checked for negative values.
                    neuron = np.uint64(listed[np.uint64(min(place, end - 1))])
                    value = widen(hidden[np.uint64(example), neuron])
                    threshold = thresholds[neuron] if thresholds.size else np.float32(0)
                    # Without a branch, which would be mispredicted.
                    is_zero = (place >= end) | (abs(value) <= threshold)
                    if has_up:
                        value = gated(value, own[lane], neuron, scales, bias, like)
                    own[lane] = np.float32(0) if is_zero else value
                _pack_in_pairs(own, like, stored)
    return _factors_of(products, like, stored)


@by_type(inline="always")
def _pack_in_pairs(factors, like, stored):
    """Pack the factors of a tile, which are bfloat16 numbers, into words of two in the first half of them, if the processor multiplies those."""
    if not packs_pairs(like, stored):
        return lambda factors, like, stored: None

    def to_words(factors, like, stored):
        words = array_at(factors.ctypes.data, (ROWS // 2,), np.uint32(0))
        for lane in range(0, ROWS, 2):
            first, second = as_bits(factors[lane]), as_bits(factors[lane + 1])
            words[lane // 2] = first >> np.uint32(16) | second & np.uint32(0xFFFF0000)

    return to_words


@by_type(inline="always")
def _factors_of(products, like, stored):
    if packs_pairs(like, stored):
        return lambda products, like, stored: array_at(products.ctypes.data, products.shape, np.uint32(0))
    return lambda products, like, stored: products


@by_type(jit_options={"nogil": True})
def _add_rest_of_rows(sums, words, listed, begin, end, full, factors):
    """Add the columns after those that fill cache lines."""
    number = _of_pair if factors.dtype == types.uint32 else _of_number
    if words.dtype == types.uint32:

        def of_pairs(sums, words, listed, begin, end, full, factors):
            size = words.shape[1]
            for place in range(begin, end):
                for column in range(full, size):
                    word = words[listed[place], column]
                    for example in range(len(sums)):
                        factor = number(factors[place // ROWS, example], place % ROWS)
                        sums[example, column] += factor * even(word)
                        sums[example, size + column] += factor * odd(word)

        return of_pairs

    def of_numbers(sums, words, listed, begin, end, full, factors):
        for place in range(begin, end):
            for column in range(full, words.shape[1]):
                for example in range(len(sums)):
                    factor = number(factors[place // ROWS, example], place % ROWS)
                    sums[example, column] += factor * widen(words[listed[place], column])

    return of_numbers


@njit(nogil=True, inline="always")
def _of_number(factors, lane):
    return factors[lane]


@njit(nogil=True, inline="always")
def _of_pair(factors, lane):
    word = factors[lane // 2]
    return odd(word) if lane % 2 else even(word)
