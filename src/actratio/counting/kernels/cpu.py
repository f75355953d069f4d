"""Counting on CPUs: one fused pass over the activation, on the bits of its numbers.

Floating-point numbers of one sign have the order of the integers with the same bits, so every criterion with a
threshold is a comparison of integers, also in bfloat16, for which CPUs have no arithmetic. The pass counts each
neuron and packs each token's active neurons into 64-bit words. Unions, overlap and idle blocks are then counted on the
words, a thirty-second of the data.

Numba compiles the loops on first use and caches them on disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from numba import carray, cfunc, njit, prange, types  # type: ignore[attr-defined]
from torch import Tensor

from actratio.counting.co_activation import WINDOWS
from actratio.counting.counts import SiteCounts
from actratio.counting.criteria import Above, Criterion, Nonzero, Positive, nearest
from actratio.counting.magnitudes import BINS, SHIFT, Magnitudes

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIELDS = frozenset(
    {
        "tokens", "active", "squares", "first_tokens", "first_active", "per_token", "windows", "union", "both", "either",
        "idle_blocks",
    }
)  # fmt: skip
"""Fields of ``SiteCounts`` that this kernel counts."""

_WORD = 64
_PER_THREAD = 2**17
"""Numbers that are worth a thread of their own when neurons alone are counted."""
_ALL_ROWS = np.zeros(0, np.uint8)
_TABLES = 4
_INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.bool: torch.int8}
"""Supported dtypes, and the integer dtypes with the same bits."""

_Bounds = tuple[int, int, int]
"""A mask of the bits to compare, and the smallest and the largest masked bits of an active number."""


def supports(x: Tensor, criterion: Criterion) -> bool:
    """Return whether this kernel counts such a tensor by such a criterion."""
    return x.device.type == "cpu" and x.dtype in _INTEGERS and type(criterion) in _BOUNDS


def count(
    x: Tensor,
    criterion: Criterion,
    lengths: Sequence[int],
    first: Tensor | None,
    *,
    norms: Tensor | None = None,
    magnitudes: bool,
    co_activation: bool,
) -> tuple[SiteCounts, Magnitudes | None]:
    """Count an activation (tokens, width); lengths and ``first`` as for ``reference.count``.

    Args:
        norms: not used; this kernel supports no criterion that needs them.
        magnitudes: whether to count the histogram of \\|x\\| in the same pass.
        co_activation: as for ``reference.count``.
    """
    tokens, width = x.shape
    bits = x.contiguous().view(_INTEGERS[x.dtype]).numpy()
    mask, low, high = _BOUNDS[type(criterion)](criterion, x.dtype)
    torch_threads = torch.get_num_threads()
    threads = max(1, min(torch_threads, _most_threads(), tokens))
    active = np.zeros((threads, width), np.int64)
    words = np.zeros((tokens, -(-width // _WORD)), np.uint64)
    histogram = np.zeros((threads, BINS if magnitudes else 1), np.int64)
    shift = max(0, SHIFT - (32 - 8 * bits.itemsize))  # bfloat16 is the upper half of a float32
    numba.set_num_threads(threads)
    _count(
        bits,
        mask,
        low,
        high,
        active,
        words.view(np.uint8),
        histogram,
        _magnitude(x.dtype),
        np.uint64(shift),
        magnitudes,
    )
    if torch.get_num_threads() != torch_threads:
        # Numba's first launch sets the threads of the OpenMP runtime that it shares with PyTorch.
        torch.set_num_threads(torch_threads)
    per_token = np.bitwise_count(words).sum(1, dtype=np.int64)
    counts = SiteCounts(
        tokens=tokens,
        active=torch.from_numpy(active.sum(0)),
        squares=torch.tensor(int((per_token * per_token).sum())),
        first_tokens=None if first is None else int(first.sum()),
        first_active=None if first is None else _of_words(words[first.numpy()], width),
        per_token=torch.from_numpy(np.bincount(per_token, minlength=width + 1)),
    )
    if co_activation:
        windows, union, pairs, idle = _sets(words, np.asarray(lengths, np.int64), len(WINDOWS), width)
        counts = replace(
            counts,
            windows=torch.from_numpy(windows),
            union=torch.from_numpy(union),
            both=torch.tensor(pairs[0]),
            either=torch.tensor(pairs[1]),
            idle_blocks=torch.from_numpy(idle),
        )
    return counts, Magnitudes(torch.from_numpy(histogram.sum(0))) if magnitudes else None


def add_active(x: Tensor, criterion: Criterion, active: Tensor, rows: Tensor | None, flag: Tensor | None) -> None:
    """Add to ``active`` the tokens on which each neuron is active; the arguments are those of ``kernels.add_active``."""
    if flag is not None and not flag:
        return
    x = x.contiguous()
    tokens, width = x.shape
    add, mask, low, high = _prepared(criterion, x.dtype)
    pieces = x.numel() // _PER_THREAD
    threads = min(pieces, torch.get_num_threads(), _most_threads()) if pieces > 1 else 1
    if threads < 2:
        # Without the start of a parallel loop, and with addresses instead of arrays: both would take longer than the count.
        if rows is None:
            add(x.data_ptr(), tokens, width, mask, low, high, None, 0, active.data_ptr())
        else:
            rows = rows.contiguous()
            add(x.data_ptr(), tokens, width, mask, low, high, rows.data_ptr(), tokens, active.data_ptr())
        return
    torch_threads = torch.get_num_threads()
    numba.set_num_threads(threads)
    bits = x.view(_INTEGERS[x.dtype]).numpy()
    bytes_ = _ALL_ROWS if rows is None else rows.contiguous().view(torch.uint8).numpy()
    _add_parallel(bits, mask, low, high, bytes_, np.zeros((threads, width), np.int64), active.numpy())
    if torch.get_num_threads() != torch_threads:  # as in ``count``
        torch.set_num_threads(torch_threads)


@cache
def _prepared(criterion: Criterion, dtype: torch.dtype) -> tuple[Callable[..., None], Any, Any, Any]:
    """Return the loop, and the bounds as numbers of the bits' type, so that as many are compared at a time as fit."""
    mask, low, high = (_bits_type(dtype)(bound) for bound in _BOUNDS[type(criterion)](criterion, dtype))
    return _add_at(dtype), mask, low, high


def _bits_type(dtype: torch.dtype) -> Any:
    return torch.empty(0, dtype=_INTEGERS[dtype]).numpy().dtype.type


def _positive(criterion: Criterion, dtype: torch.dtype) -> _Bounds:
    return (_ALL_BITS, 1, 1) if dtype == torch.bool else (_ALL_BITS, 1, _bits_of(math.inf, dtype))


def _nonzero(criterion: Criterion, dtype: torch.dtype) -> _Bounds:
    magnitude = _magnitude(dtype)
    return magnitude, 1, magnitude  # NaN is above infinity, and active


def _above(criterion: Criterion, dtype: torch.dtype) -> _Bounds:
    assert isinstance(criterion, Above)
    if dtype == torch.bool:  # True is 1
        return _ALL_BITS, 1, 1 if nearest(criterion.threshold, torch.float32) <= 1 else 0
    return _magnitude(dtype), _bits_of(nearest(criterion.threshold, dtype), dtype), _bits_of(math.inf, dtype)


_ALL_BITS = -1
_BOUNDS: dict[type[Criterion], Callable[[Criterion, torch.dtype], _Bounds]] = {
    Positive: _positive,
    Nonzero: _nonzero,
    Above: _above,
}
"""How each supported criterion reads as a comparison of bits; other criteria go to the reference."""


@cache
def _most_threads() -> int:
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    return most


def _magnitude(dtype: torch.dtype) -> int:
    """Return a mask of all bits but the sign."""
    return torch.iinfo(_INTEGERS[dtype]).max


def _bits_of(value: float, dtype: torch.dtype) -> int:
    return int(torch.tensor([value], dtype=dtype).view(_INTEGERS[dtype]))


def _of_words(words: NDArray[np.uint64], width: int) -> Tensor:
    """Return how often each neuron is in the words of some tokens."""
    bytes_ = np.ascontiguousarray(words).view(np.uint8)
    return torch.from_numpy(np.unpackbits(bytes_, axis=1, bitorder="little")[:, :width].sum(0, dtype=np.int64))


_compiled = njit(cache=True, nogil=True)


@njit(cache=True, nogil=True, parallel=True)
def _count(  # type: ignore[no-untyped-def]
    bits, mask, low, high, active, packed, histogram, magnitude, shift, with_histogram
):
    """``bits`` (tokens, width); a neuron is active where ``low <= bits & mask <= high``.

    ``active`` (threads, width), ``packed`` (tokens, bytes of a whole number of words) and ``histogram``
    (threads, bins) are written.
    """
    rows, width = bits.shape
    threads = len(active)
    for thread in prange(threads):
        on = np.zeros(8 * packed.shape[1], np.uint8)
        eights = on.view(np.uint64)
        few = np.zeros(width, np.uint8)  # counts up to 255 rows, in the narrowest integers, which are the fastest
        tables = np.zeros((_TABLES, histogram.shape[1]), np.int32)
        first, last = rows * thread // threads, rows * (thread + 1) // threads
        for row in range(first, last):
            line = bits[row]
            for column in range(width):
                value = line[column] & mask
                on[column] = (value >= low) & (value <= high)
            for column in range(width):
                few[column] += on[column]
            for byte in range(packed.shape[1]):  # eight bytes of 0 or 1 to eight bits
                packed[row, byte] = (eights[byte] * np.uint64(0x0102040810204080)) >> np.uint64(56)
            if with_histogram:
                # Several tables: neighbours often have one bin, and an addition would wait for the one before.
                for column in range(0, width - _TABLES + 1, _TABLES):
                    for table in range(_TABLES):
                        tables[table, np.uint64(line[column + table] & magnitude) >> shift] += 1
                for column in range(width - width % _TABLES, width):
                    tables[0, np.uint64(line[column] & magnitude) >> shift] += 1
            if (row - first) % 255 == 254 or row == last - 1:
                active[thread] += few
                few[:] = 0
                for table in range(_TABLES):
                    histogram[thread] += tables[table]
                tables[:] = 0


@_compiled
def _add(bits, mask, low, high, kept, first, last, active):  # type: ignore[no-untyped-def]
    """Add the rows from ``first`` to ``last`` that are ``kept``, or all if it is empty, to ``active`` (width,)."""
    width = bits.shape[1]
    few = np.zeros(width, np.uint8)
    added = 0
    for row in range(first, last):
        if len(kept) and not kept[row]:
            continue
        line = bits[row]
        for column in range(width):
            value = line[column] & mask
            few[column] += np.uint8((value >= low) & (value <= high))
        added += 1
        if added == 255:
            active += few
            few[:] = 0
            added = 0
    active += few


def _add_at(dtype: torch.dtype) -> Callable[..., None]:
    """Return ``_add`` for all rows, with the addresses of ``bits``, ``kept`` and ``active`` instead of arrays."""
    kind = _bits_type(dtype)
    number, size, address = numba.from_dtype(np.dtype(kind)), types.intp, types.voidptr

    @cfunc(types.void(address, size, size, number, number, number, address, size, address), cache=True)
    def add(bits, rows, width, mask, low, high, kept, kept_rows, active):  # type: ignore[no-untyped-def]
        all_bits, all_kept = carray(bits, (rows, width), kind), carray(kept, (kept_rows,), np.uint8)
        _add(all_bits, mask, low, high, all_kept, 0, rows, carray(active, (width,), np.int64))

    call: Callable[..., None] = add.ctypes
    return call


@njit(cache=True, nogil=True, parallel=True)
def _add_parallel(bits, mask, low, high, kept, parts, active):  # type: ignore[no-untyped-def]
    """Do as ``_add`` for all rows, with a thread for each of ``parts`` (threads, width), which is zero."""
    rows, threads = len(bits), len(parts)
    for thread in prange(threads):
        _add(bits, mask, low, high, kept, rows * thread // threads, rows * (thread + 1) // threads, parts[thread])
    active += parts.sum(0)


@_compiled
def _ones(word):  # type: ignore[no-untyped-def]
    """Number of ones, as in Hacker's Delight (Warren, 2012), figure 5-2."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@_compiled
def _sets(words, lengths, levels, width):  # type: ignore[no-untyped-def]
    """Count windows and unions of 1, 2, 4, … tokens (``levels`` sizes), overlap of successive tokens, and idle blocks."""
    windows, union = np.zeros(levels, np.int64), np.zeros(levels, np.int64)
    pairs, idle = np.zeros(2, np.int64), np.zeros(3, np.int64)
    many = words.shape[1]
    start = 0
    for length in lengths:
        level = words[start : start + length].copy()
        for row in range(1, length):
            for word in range(many):
                pairs[0] += _ones(level[row, word] & level[row - 1, word])
                pairs[1] += _ones(level[row, word] | level[row - 1, word])
        left = length
        for index in range(levels):
            windows[index] += left
            for row in range(left):
                for word in range(many):
                    union[index] += _ones(level[row, word])
            left //= 2
            for row in range(left):
                for word in range(many):
                    level[row, word] = level[2 * row, word] | level[2 * row + 1, word]
        start += length
    for row in range(len(words)):
        for word in range(many):
            value = words[row, word]
            for part in range(min(4, -(-(width - word * _WORD) // 16))):
                idle[0] += ((value >> np.uint64(16 * part)) & np.uint64(0xFFFF)) == 0
            idle[1] += value == 0
            if word % 4 == 0:
                some = value
                for other in range(word + 1, min(word + 4, many)):
                    some |= words[row, other]
                idle[2] += some == 0
    return windows, union, pairs, idle
