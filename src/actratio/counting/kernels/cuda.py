"""Counting on GPUs: one Triton kernel reads the activation once, and a small one goes over its bits.

As on CPUs, the first pass counts each neuron and packs each token's active neurons into words. Unions, overlap and idle
blocks are then counted on the words, a sixteenth of a bfloat16 activation. Nothing waits for the GPU: all counts stay
there until they are read.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from actratio.counting.co_activation import BLOCKS, WINDOWS
from actratio.counting.counts import SiteCounts
from actratio.counting.criteria import Above, Contribution, Criterion, Nonzero, Positive, nearest
from actratio.counting.magnitudes import BINS, SHIFT, Magnitudes

FIELDS = frozenset(
    {
        "tokens", "active", "squares", "first_tokens", "first_active", "per_token", "windows", "union", "both", "either",
        "idle_blocks",
    }
)  # fmt: skip
"""Fields of ``SiteCounts`` that this kernel counts."""

_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_KINDS: dict[type[Criterion], int] = {Positive: 0, Nonzero: 1, Above: 2, Contribution: 3}
"""The kernel's constant for each supported criterion; other criteria go to the reference."""
_WORD = 32
_ROWS, _COLUMNS = 16, 256
_PROGRAMS = 1024  # a few for each multiprocessor of a large GPU
_WORDS = 16  # of a program of the second pass, whole blocks of 256 neurons
_LONGEST = WINDOWS[-1]


def supports(x: Tensor, criterion: Criterion) -> bool:
    """Return whether this kernel counts such a tensor by such a criterion."""
    return x.is_cuda and x.dtype in _TYPES and type(criterion) in _KINDS


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
    """Count an activation (tokens, width); the arguments are those of ``kernels.count``."""
    tokens, width = x.shape
    x = x if x.stride(1) == 1 else x.contiguous()
    device, many = x.device, triton.cdiv(width, _COLUMNS) * _COLUMNS // _WORD

    def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    active, first_active, bins = zeros(width), zeros(width), zeros(BINS)
    per_token = zeros(tokens, dtype=torch.int32)
    words = torch.empty(tokens, many, dtype=torch.int32, device=device) if co_activation else per_token
    is_first = per_token if first is None else first.to(device=device, dtype=torch.int32, non_blocking=True)
    if tokens and width:
        grid, rows = _grid(tokens, width)
        _count[grid](
            _bits(x), x if norms is None else norms.to(device), is_first, active, first_active, per_token, words, bins,
            tokens, width, x.stride(0), many, rows, _threshold(criterion, x.dtype),
            BFLOAT=x.dtype == torch.bfloat16, KIND=_KINDS[type(criterion)], FIRST=first is not None, MAGNITUDES=magnitudes, SETS=co_activation,
            ROWS=_ROWS, COLUMNS=_COLUMNS, BINS=BINS, SHIFT=SHIFT,
        )  # fmt: skip
        # Elements beyond the edges of a tile were read as zero, which is bin 0.
        bins[0] -= grid[0] * grid[1] * rows * _COLUMNS - tokens * width
    spread = per_token.long()
    counts = SiteCounts(
        tokens=tokens,
        active=active,
        squares=(spread * spread).sum(),
        first_tokens=None if first is None else int(first.sum()),
        first_active=None if first is None else first_active,
        # Not bincount, which waits to know the largest.
        per_token=zeros(width + 1).scatter_add_(0, spread, torch.ones_like(spread)),
    )
    if co_activation:
        counts = _with_sets(counts, words, lengths, width)
    return counts, Magnitudes(bins) if magnitudes else None


def add_active(x: Tensor, criterion: Criterion, active: Tensor, rows: Tensor | None, flag: Tensor | None) -> None:
    """Add to ``active`` the tokens on which each neuron is active; the arguments are those of ``kernels.add_active``.

    While the flag isn't set, the programs read nothing but the flag.
    """
    tokens, width = x.shape
    if not tokens or not width:
        return
    x = x if x.stride(1) == 1 else x.contiguous()
    grid, rows_of_program = _grid(tokens, width)
    _add[grid](
        _bits(x), x if rows is None else rows.contiguous().view(torch.uint8), x if flag is None else flag.view(torch.uint8), active,
        tokens, width, x.stride(0), rows_of_program, _threshold(criterion, x.dtype),
        BFLOAT=x.dtype == torch.bfloat16, KIND=_KINDS[type(criterion)], KEPT=rows is not None, FLAG=flag is not None,
        ROWS=_ROWS, COLUMNS=_COLUMNS,
    )  # fmt: skip


def _grid(tokens: int, width: int) -> tuple[tuple[int, int], int]:
    """Return the programs, by columns and rows, and the rows of each, a whole number of tiles."""
    blocks = triton.cdiv(width, _COLUMNS)
    splits = max(1, min(triton.cdiv(tokens, _ROWS), _PROGRAMS // blocks))
    rows = triton.cdiv(triton.cdiv(tokens, splits), _ROWS) * _ROWS
    return (blocks, triton.cdiv(tokens, rows)), rows


def _bits(x: Tensor) -> Tensor:
    return x.view(torch.int16) if x.dtype == torch.bfloat16 else x


def _threshold(criterion: Criterion, dtype: torch.dtype) -> float:
    if isinstance(criterion, Above | Contribution):
        return nearest(criterion.threshold, torch.float32 if criterion.needs_norms else dtype)
    return 0.0


def _with_sets(counts: SiteCounts, words: Tensor, lengths: Sequence[int], width: int) -> SiteCounts:
    """Add unions, overlap and idle blocks; each sequence is cut into pieces of the longest window."""
    pieces, start = [], 0
    for length in lengths:
        for at in range(0, length, _LONGEST):
            pieces.append((start + at, min(_LONGEST, length - at), int(at > 0)))
        start += length
    device = words.device
    union, rest = (torch.zeros(size, dtype=torch.int64, device=device) for size in (len(WINDOWS), 2 + len(BLOCKS)))
    if pieces and width:
        where = torch.tensor(pieces, dtype=torch.int64).to(device, non_blocking=True)
        _sets[len(pieces), triton.cdiv(words.shape[1], _WORDS)](
            words, where, union, rest, width, words.shape[1],
            LEVELS=len(WINDOWS), LONGEST=_LONGEST, WORDS=_WORDS,
        )  # fmt: skip
    windows = [sum(length // window for length in lengths) for window in WINDOWS]
    return replace(
        counts,
        windows=torch.tensor(windows, dtype=torch.int64).to(device, non_blocking=True),
        union=union,
        both=rest[0],
        either=rest[1],
        idle_blocks=rest[2:],
    )


@triton.jit
def _count(
    x_ptr, norms_ptr, is_first_ptr, active_ptr, first_active_ptr, per_token_ptr, words_ptr, bins_ptr,
    tokens, width, stride, many, rows_of_program, threshold,
    BFLOAT: tl.constexpr, KIND: tl.constexpr, FIRST: tl.constexpr, MAGNITUDES: tl.constexpr, SETS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BINS: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """A program counts ``COLUMNS`` neurons over ``rows_of_program`` tokens, a tile of ``ROWS`` at a time."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    start = tl.program_id(1) * rows_of_program
    counted = tl.zeros([COLUMNS], tl.int32)
    counted_first = tl.zeros([COLUMNS], tl.int32)
    histogram = tl.zeros([BINS], tl.int32)
    if KIND == 3:
        norms = tl.load(norms_ptr + columns, mask=inside, other=0.0)
    for row in range(start, start + rows_of_program, ROWS):
        rows = row + tl.arange(0, ROWS)
        present = rows < tokens
        mask = present[:, None] & inside[None, :]
        at = rows.to(tl.int64)[:, None]
        x = tl.load(x_ptr + at * stride + columns[None, :], mask=mask, other=0)
        x = _as_float(x, BFLOAT)
        weighted = x * norms[None, :] if KIND == 3 else x
        active = (_is_active(weighted, threshold, KIND) & mask).to(tl.int32)
        counted += tl.sum(active, 0)
        tl.atomic_add(per_token_ptr + rows, tl.sum(active, 1), mask=present)
        if FIRST:
            firsts = tl.load(is_first_ptr + rows, mask=present, other=0)
            counted_first += tl.sum(active * firsts[:, None], 0)
        if SETS:
            bits = tl.reshape(active, [ROWS, COLUMNS // 32, 32]) << tl.arange(0, 32)[None, None, :]
            word = tl.program_id(0) * (COLUMNS // 32) + tl.arange(0, COLUMNS // 32)
            tl.store(words_ptr + at * many + word[None, :], tl.sum(bits, 2), mask=present[:, None])
        if MAGNITUDES:
            bin_ = (x.to(tl.int32, bitcast=True) & 0x7FFFFFFF) >> SHIFT
            histogram += tl.histogram(tl.reshape(bin_, [ROWS * COLUMNS]), BINS)
    tl.atomic_add(active_ptr + columns, counted.to(tl.int64), mask=inside)
    if FIRST:
        tl.atomic_add(first_active_ptr + columns, counted_first.to(tl.int64), mask=inside)
    if MAGNITUDES:
        tl.atomic_add(bins_ptr + tl.arange(0, BINS), histogram.to(tl.int64))


@triton.jit
def _add(
    x_ptr, kept_ptr, flag_ptr, active_ptr, tokens, width, stride, rows_of_program, threshold,
    BFLOAT: tl.constexpr, KIND: tl.constexpr, KEPT: tl.constexpr, FLAG: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A program adds ``COLUMNS`` neurons over ``rows_of_program`` tokens, or none if the flag isn't set."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    start = tl.program_id(1) * rows_of_program
    end = start + rows_of_program
    if FLAG:
        is_set = tl.load(flag_ptr).to(tl.int32) != 0
        end = tl.where(is_set, end, start)
        inside = inside & is_set
    added = tl.zeros([COLUMNS], tl.int32)
    for row in range(start, end, ROWS):
        rows = row + tl.arange(0, ROWS)
        present = rows < tokens
        if KEPT:
            present = present & (tl.load(kept_ptr + rows, mask=present, other=0) != 0)
        mask = present[:, None] & inside[None, :]
        x = _as_float(
            tl.load(x_ptr + rows.to(tl.int64)[:, None] * stride + columns[None, :], mask=mask, other=0), BFLOAT
        )
        added += tl.sum((_is_active(x, threshold, KIND) & mask).to(tl.int32), 0)
    tl.atomic_add(active_ptr + columns, added.to(tl.int64), mask=inside)


@triton.jit
def _as_float(x, BFLOAT: tl.constexpr):
    if BFLOAT:  # given as integers: the upper half of a float32, also where a conversion would lose subnormals
        x = (x.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        x = x.to(tl.float32)
    return x


@triton.jit
def _is_active(x, threshold, KIND: tl.constexpr):
    if KIND == 0:
        on = x > 0
    elif KIND == 1:
        on = x != 0
    else:
        on = tl.abs(x) >= threshold
    return on


@triton.jit
def _ones(word):
    """Number of ones, as in Hacker's Delight (Warren, 2012), figure 5-2."""
    v = word.to(tl.uint32, bitcast=True)
    v = v - ((v >> 1) & 0x55555555)
    v = (v & 0x33333333) + ((v >> 2) & 0x33333333)
    v = (v + (v >> 4)) & 0x0F0F0F0F
    return ((v * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def _or(a, b):
    return a | b


@triton.jit
def _sets(
    words_ptr, where_ptr, union_ptr, rest_ptr, width, many,
    LEVELS: tl.constexpr, LONGEST: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """A program goes over a piece of a sequence (start, tokens, whether a token comes before) and ``WORDS`` words."""
    piece = where_ptr + 3 * tl.program_id(0)
    start, size, before = tl.load(piece), tl.load(piece + 1), tl.load(piece + 2)
    rows = tl.arange(0, LONGEST)
    word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    at = words_ptr + (start + rows)[:, None] * many + word[None, :]
    mask = (rows < size)[:, None] & (word < many)[None, :]
    level = tl.load(at, mask=mask, other=0)
    follows = mask & (rows + before > 0)[:, None]
    previous = tl.load(at - many, mask=follows, other=0)
    tl.atomic_add(rest_ptr, tl.sum(_ones(level & previous)).to(tl.int64))
    tl.atomic_add(rest_ptr + 1, tl.sum(tl.where(follows, _ones(level | previous), 0)).to(tl.int64))
    # Blocks of 16, 64 and 256 neurons are half a word, two words and eight; the last one may be smaller.
    halves = ((level & 0xFFFF) == 0) & mask & (word * 32 < width)[None, :]
    others = (((level >> 16) & 0xFFFF) == 0) & mask & (word * 32 + 16 < width)[None, :]
    tl.atomic_add(rest_ptr + 2, (tl.sum(halves.to(tl.int32)) + tl.sum(others.to(tl.int32))).to(tl.int64))
    pairs = tl.reduce(tl.reshape(level, [LONGEST, WORDS // 2, 2]), 2, _or)
    begins = tl.program_id(1) * WORDS + tl.arange(0, WORDS // 2) * 2
    idle = (pairs == 0) & (rows < size)[:, None] & (begins * 32 < width)[None, :]
    tl.atomic_add(rest_ptr + 3, tl.sum(idle.to(tl.int32)).to(tl.int64))
    eights = tl.reduce(tl.reshape(level, [LONGEST, WORDS // 8, 8]), 2, _or)
    begins = tl.program_id(1) * WORDS + tl.arange(0, WORDS // 8) * 8
    idle = (eights == 0) & (rows < size)[:, None] & (begins * 32 < width)[None, :]
    tl.atomic_add(rest_ptr + 4, tl.sum(idle.to(tl.int32)).to(tl.int64))
    for index in tl.static_range(LEVELS):
        window = tl.arange(0, LONGEST >> index)
        whole = ((window + 1) << index) <= size
        tl.atomic_add(union_ptr + index, tl.sum(tl.where(whole[:, None], _ones(level), 0)).to(tl.int64))
        if index < LEVELS - 1:
            level = tl.reduce(tl.reshape(level, [LONGEST >> (index + 1), 2, WORDS]), 1, _or)
