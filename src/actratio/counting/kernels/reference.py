"""Counting in plain torch: the specification that every faster kernel is tested against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from actratio.counting.counts import BLOCKS, WINDOWS, SiteCounts


def count(
    active: Tensor, lengths: Sequence[int], first: Tensor | None = None, *, co_activation: bool = True
) -> SiteCounts:
    """Count a mask of active neurons.

    Args:
        active: bool, (tokens, width); the tokens of a sequence lie one after another.
        lengths: how many tokens each sequence has; their sum is the number of tokens.
        first: bool, (tokens,), the first tokens of sequences; ``None`` where that means nothing.
        co_activation: whether to count which neurons are active together: unions, overlap and idle blocks.

    Returns:
        Everything that ``SiteCounts`` can hold, without ``co_activation`` the rest, where the mask is.
    """
    tokens, width = active.shape
    if sum(lengths) != tokens:
        raise ValueError(f"sequences of {sum(lengths)} tokens do not make {tokens} rows")
    per_token = active.sum(1)
    counts = SiteCounts(
        tokens=tokens,
        active=active.sum(0),
        squares=(per_token * per_token).sum(),
        first_tokens=None if first is None else int(first.sum()),
        first_active=None if first is None else active[first.to(active.device)].sum(0),
        per_token=torch.bincount(per_token, minlength=width + 1),
    )
    if not co_activation:
        return counts
    zero = torch.zeros((), dtype=torch.int64, device=active.device)
    windows, union, both, either = [0] * len(WINDOWS), [zero] * len(WINDOWS), zero, zero
    for sequence in torch.split(active, list(lengths)):
        for index, window in enumerate(WINDOWS):
            whole = len(sequence) // window
            if whole:
                windows[index] += whole
                union[index] = union[index] + sequence[: whole * window].view(whole, window, width).any(1).sum()
        both = both + (sequence[1:] & sequence[:-1]).sum()
        either = either + (sequence[1:] | sequence[:-1]).sum()
    idle = [tokens * -(-width // size) - _blocks(active, size).sum() for size in BLOCKS]
    return replace(
        counts,
        windows=torch.tensor(windows, device=active.device),
        union=torch.stack(union),
        both=both,
        either=either,
        idle_blocks=torch.stack(idle),
    )


def _blocks(active: Tensor, size: int) -> Tensor:
    """For each token and block of ``size`` neurons, whether one of them is active; a last block may be smaller."""
    return torch.stack([block.any(1) for block in torch.split(active, size, dim=1)], dim=1)
