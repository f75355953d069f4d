# mypy: ignore-errors
"""Numbers in compiled code: float32, bfloat16 as its bits, and int8 weights with scales."""

from __future__ import annotations

import numpy as np
from numba import njit, types

from actratio.sparse.kernels.cpu_intrinsics import array_at, as_bits, as_float, by_type

LINE = 64
"""Bytes of a cache line."""

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


@by_type(jit_options={"fastmath": FAST, "nogil": True})
def dot(split_x, row):
    """Return the product of the inputs and one row of a weight."""
    if row.dtype == types.uint32:

        def of_pairs(split_x, row):
            evens, odds = split_x[: row.size], split_x[row.size :]
            s = np.float32(0)
            for j in range(row.size):
                s += evens[j] * even(row[j]) + odds[j] * odd(row[j])
            return s

        return of_pairs

    def of_numbers(split_x, row):
        s = np.float32(0)
        for j in range(row.size):
            s += split_x[j] * widen(row[j])
        return s

    return of_numbers


@by_type(jit_options={"fastmath": FAST, "nogil": True})
def dot_four(split_x, row0, row1, row2, row3):
    """Return the products of the inputs and four rows: memory delivers more when several rows are read at a time."""
    if row0.dtype == types.uint32:

        def of_pairs(split_x, row0, row1, row2, row3):
            evens, odds = split_x[: row0.size], split_x[row0.size :]
            s0 = s1 = s2 = s3 = np.float32(0)
            for j in range(row0.size):
                e, o = evens[j], odds[j]
                s0 += e * even(row0[j]) + o * odd(row0[j])
                s1 += e * even(row1[j]) + o * odd(row1[j])
                s2 += e * even(row2[j]) + o * odd(row2[j])
                s3 += e * even(row3[j]) + o * odd(row3[j])
            return s0, s1, s2, s3

        return of_pairs

    def of_numbers(split_x, row0, row1, row2, row3):
        s0 = s1 = s2 = s3 = np.float32(0)
        for j in range(row0.size):
            x = split_x[j]
            s0 += x * widen(row0[j])
            s1 += x * widen(row1[j])
            s2 += x * widen(row2[j])
            s3 += x * widen(row3[j])
        return s0, s1, s2, s3

    return of_numbers
