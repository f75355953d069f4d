# mypy: ignore-errors
"""Numbers in compiled code: float32, bfloat16 as its bits, and int8 weights with scales."""

from __future__ import annotations

import numpy as np
from numba import njit, types

from actratio.sparse.kernels.cpu_intrinsics import array_at, as_bits, as_float, by_type
from actratio.sparse.kernels.cpu_vectors import LINE, dot_lines

FAST = {"contract", "reassoc", "nsz"}  # sums may be reordered; NaN and infinity keep their meaning


@njit(nogil=True, inline="always")
def even(word):
    """Return the first of the two bfloat16 in a word, as a float32."""
    return as_float(np.uint32(word << np.uint32(16)))


@njit(nogil=True, inline="always")
def odd(word):
    """Return the second of the two bfloat16 in a word, as a float32."""
    return as_float(np.uint32(word & np.uint32(0xFFFF0000)))


@by_type(inline="always")
def widen(x):
    """Return a float32 for a float32, the bits of a bfloat16, or an int8."""
    if x == types.float32:
        return lambda x: x
    if x == types.int8:
        return lambda x: np.float32(np.int32(x))
    return lambda x: as_float(np.uint32(np.uint32(x) << np.uint32(16)))


@by_type(inline="always")
def narrow(x, like):
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
def words_at(address, rows, columns, stored):
    """Return the weight (rows, columns) at an address: numbers, or 32-bit words of two bfloat16 columns each."""
    if stored == types.uint16:
        return lambda address, rows, columns, stored: array_at(address, (rows, columns // 2), np.uint32(0))
    return lambda address, rows, columns, stored: array_at(address, (rows, columns), stored)


@by_type(jit_options={"nogil": True})
def split(x, split_x, stored):
    """Copy one example's inputs as float32. If the weights are bfloat16, the even inputs come first, then the odd ones."""
    if stored == types.uint16:

        def of_pairs(x, split_x, stored):
            half = x.size // 2
            for j in range(half):
                split_x[j], split_x[half + j] = widen(x[2 * j]), widen(x[2 * j + 1])

        return of_pairs

    def of_numbers(x, split_x, stored):
        for j in range(x.size):
            split_x[j] = widen(x[j])

    return of_numbers


@njit(nogil=True, fastmath=FAST)
def dot(split_x, words, row):
    """Return the product of the inputs, as ``split`` orders them, and one row of a weight."""
    address = words.ctypes.data + row * words.strides[0]
    (total,) = _in_vectors(split_x, words, (address,), ())
    for j in range(in_lines(words), words.shape[1]):
        total += _term(split_x, words[row, j], j, words.shape[1])
    return total


@njit(nogil=True, fastmath=FAST)
def dot_four(split_x, words, rows, ahead):
    """Return the products of the inputs and four rows of a weight: memory delivers more when several rows are read at a time.

    Args:
        split_x: inputs, as ``split`` orders them.
        words: the weight.
        rows: indices of the rows.
        ahead: addresses that the memory is asked for, as in ``dot_lines``.
    """
    i, j, k, m = rows
    base, row_bytes, size = words.ctypes.data, words.strides[0], words.shape[1]
    addresses = base + i * row_bytes, base + j * row_bytes, base + k * row_bytes, base + m * row_bytes
    s, t, u, v = _in_vectors(split_x, words, addresses, ahead)
    for place in range(in_lines(words), size):
        s += _term(split_x, words[i, place], place, size)
        t += _term(split_x, words[j, place], place, size)
        u += _term(split_x, words[k, place], place, size)
        v += _term(split_x, words[m, place], place, size)
    return s, t, u, v


@njit(nogil=True, inline="always")
def in_lines(words):
    """Return how many of a row's words fill cache lines."""
    per_line = LINE // words.itemsize
    return words.shape[1] // per_line * per_line


@njit(nogil=True, inline="always")
def _in_vectors(split_x, words, addresses, ahead):
    """Return the products of the inputs and the rows at some addresses, over the words that fill cache lines."""
    inputs = split_x.ctypes.data
    odds = inputs + words.shape[1] * split_x.itemsize
    lines = in_lines(words) * words.itemsize // LINE
    return dot_lines(inputs, odds, addresses, ahead, lines, words[0, 0])


@by_type(jit_options={"fastmath": FAST, "nogil": True})
def _term(split_x, word, place, size):
    """Return what a word of a row, which has one number or two, adds to the row's product with the inputs.

    Args:
        split_x: inputs, as ``split`` orders them.
        word: the word.
        place: its place in the row.
        size: how many words the row has.
    """
    if word == types.uint32:
        return lambda split_x, word, place, size: split_x[place] * even(word) + split_x[size + place] * odd(word)
    return lambda split_x, word, place, size: split_x[place] * widen(word)


@njit(nogil=True, inline="always")
def gated(gate, product, i, scales, bias, like):
    """Return the gate times the output ``i`` of the up projection, rounded where a dense product rounds."""
    if scales.size:
        product *= scales[i]
    if bias.size:
        product += widen(bias[i])
    return widen(narrow(gate * widen(narrow(product, like)), like))
