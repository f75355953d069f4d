"""Counting which neurons are active together, from a mask: unions, overlap and idle blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WINDOWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Successive tokens over which the union of active neurons is counted."""

BLOCKS = (16, 64, 256)
"""Successive neurons that count as one block."""


def windows(active: Tensor, lengths: Sequence[int], first: Tensor | None) -> Tensor:
    """Return how many whole windows of each size the sequences have, (len(WINDOWS),)."""
    whole = [sum(length // window for length in lengths) for window in WINDOWS]
    return torch.tensor(whole, dtype=torch.int64, device=active.device)


def union(active: Tensor, lengths: Sequence[int], first: Tensor | None) -> Tensor:
    """Return, for each size of window, Σ over windows of the neurons active for at least one token, (len(WINDOWS),)."""
    sums = torch.zeros(len(WINDOWS), dtype=torch.int64, device=active.device)
    for sequence in torch.split(active, list(lengths)):
        for index, window in enumerate(WINDOWS):
            whole = len(sequence) // window
            if whole:
                sums[index] += sequence[: whole * window].view(whole, window, active.shape[1]).any(1).sum()
    return sums


def both(active: Tensor, lengths: Sequence[int], first: Tensor | None) -> Tensor:
    """Return Σ over pairs of successive tokens of the neurons active for both, ()."""
    pairs = [(part[1:] & part[:-1]).sum() for part in torch.split(active, list(lengths))]
    return sum(pairs, torch.zeros((), dtype=torch.int64, device=active.device))


def either(active: Tensor, lengths: Sequence[int], first: Tensor | None) -> Tensor:
    """Return Σ over pairs of successive tokens of the neurons active for at least one of them, ()."""
    pairs = [(part[1:] | part[:-1]).sum() for part in torch.split(active, list(lengths))]
    return sum(pairs, torch.zeros((), dtype=torch.int64, device=active.device))


def idle_blocks(active: Tensor, lengths: Sequence[int], first: Tensor | None) -> Tensor:
    """Return, for each size of block, Σ over tokens of the blocks without an active neuron, (len(BLOCKS),).

    The last block of a token may be smaller.
    """
    idle = []
    for size in BLOCKS:
        has_active = torch.stack([block.any(1) for block in torch.split(active, size, dim=1)], dim=1)
        idle.append(has_active.numel() - has_active.sum())
    return torch.stack(idle)
