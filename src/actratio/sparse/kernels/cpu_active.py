# mypy: ignore-errors
"""The search for active neurons: vectors are compared into words of 64 bits, one for each neuron, and bits are listed."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from actratio.sparse.kernels.cpu_numbers import widen

CHUNK = 64
"""Neurons of a word, 64. In a batch whose examples have lists, they are also taken together: the tiles of their rows stay in the
second-level cache."""

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


@njit(nogil=True)
def mark_active(hidden, thresholds, marks):
    """Set the bits of the active neurons in ``marks``, (examples, chunks).

    Returns:
        How many neurons are active over all examples, and how many are active in some example.
    """
    active = needed = 0
    full = hidden.shape[1] // CHUNK
    for chunk in range(marks.shape[1]):
        some = np.uint64(0)
        for row in range(len(hidden)):
            start = chunk * CHUNK
            if chunk == full:
                word = _rest_of_marks(hidden[row, start:], thresholds[start:])
            elif thresholds.size:
                word = _marks(hidden[row, start:].ctypes.data, thresholds[start:].ctypes.data, hidden[0, 0])
            else:
                word = _marks(hidden[row, start:].ctypes.data, None, hidden[0, 0])
            marks[row, chunk] = word
            active += _ones(word)
            some |= word
        needed += _ones(some)
    return active, needed


@njit(nogil=True)
def _rest_of_marks(hidden, thresholds):
    """Return the word of the last neurons, fewer than ``CHUNK``."""
    word = np.uint64(0)
    for i in range(hidden.size):
        threshold = thresholds[i] if thresholds.size else np.float32(0)
        word |= np.uint64(not (abs(widen(hidden[i])) <= threshold)) << np.uint64(i)
    return word


@njit(nogil=True)
def list_marked(word, first, out, place):
    """List the neurons of a word, the first of which is ``first``, in ``out`` from a place on, and return the place after them."""
    place = np.uint64(place)  # indexing with a signed integer costs a check for negative values
    while word:
        out[place] = first + _first_one(word)
        word &= word - np.uint64(1)
        place += np.uint64(1)
    return place


@njit(nogil=True)
def list_needed(marks, listed):
    """List the neurons that are active in some example, in ascending order."""
    place = np.uint64(0)
    for chunk in range(marks.shape[1]):
        some = np.uint64(0)
        for row in range(len(marks)):
            some |= marks[row, chunk]
        place = list_marked(some, chunk * CHUNK, listed, place)


@njit(nogil=True)
def find_starts(marks, starts):
    """Write where each chunk of an example begins in its list, (examples, chunks + 1)."""
    for row in range(len(marks)):
        place = 0
        for chunk in range(marks.shape[1]):
            starts[row, chunk] = place
            place += _ones(marks[row, chunk])
        starts[row, -1] = place


@njit(nogil=True)
def list_active(hidden, marks, starts, first, last, neurons, values):
    """List the active neurons of each example in some chunks, and their activations."""
    for row in range(len(hidden)):
        for chunk in range(first, last):
            begin, end = starts[row, chunk], starts[row, chunk + 1]
            list_marked(marks[row, chunk], chunk * CHUNK, neurons[row], begin)
            for place in range(begin, end):
                values[row, place] = widen(hidden[row, neurons[row, place]])


@intrinsic
def _marks(context, address, thresholds, like):
    """Return the word of 64 neurons.

    Args:
        address: of their activations.
        thresholds: address of their thresholds, float32; None stands for zeros.
        like: a number of the activations' type: float32, or uint16 for the bits of bfloat16.
    """

    def code(context, builder, signature, arguments):
        address, limits, _ = arguments
        numbers = _numbers(builder, address, like)
        if thresholds == types.none:
            active = builder.fcmp_unordered("!=", numbers, ir.Constant(numbers.type, [0.0] * CHUNK))
        else:
            pointer = builder.inttoptr(limits, numbers.type.as_pointer())
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(numbers.type, [numbers.type]), f"llvm.fabs.v{CHUNK}f32"
            )
            size = builder.call(function, [numbers])
            active = builder.fcmp_unordered(">", size, builder.load(pointer, align=4))  # NaN is active
        return builder.bitcast(active, _INT64)

    return types.uint64(types.int64, thresholds, like), code


def _numbers(builder, address, like):
    floats, words = ir.VectorType(ir.FloatType(), CHUNK), ir.VectorType(_INT32, CHUNK)
    if like == types.float32:
        return builder.load(builder.inttoptr(address, floats.as_pointer()), align=4)
    bits = ir.VectorType(ir.IntType(16), CHUNK)
    halves = builder.load(builder.inttoptr(address, bits.as_pointer()), align=2)
    shifted = builder.shl(builder.zext(halves, words), ir.Constant(words, [16] * CHUNK))
    return builder.bitcast(shifted, floats)


@intrinsic
def _ones(context, word):
    """Return how many bits are set."""

    def code(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), code


@intrinsic
def _first_one(context, word):
    """Return the place of the first bit that is set."""

    def code(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), code
