"""Counting in plain torch: the specification that every faster kernel is tested against."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from actratio.counting.counts import SiteCounts


def count(
    active: Tensor, lengths: Sequence[int], first: Tensor | None = None, *, co_activation: bool = True
) -> SiteCounts:
    """Count a mask of active neurons, each field as it is declared in ``SiteCounts``.

    Args:
        active: bool, (tokens, width); the tokens of a sequence lie one after another.
        lengths: number of tokens of each sequence; their sum is the number of tokens.
        first: bool, (tokens,), the first tokens of sequences; ``None`` if tokens have no order.
        co_activation: whether to count which neurons are active together: unions, overlap and idle blocks.

    Raises:
        ValueError: the lengths don't add up to the number of tokens.
    """
    if sum(lengths) != len(active):
        raise ValueError(f"sequences of {sum(lengths)} tokens do not make {len(active)} rows")
    return SiteCounts(**SiteCounts.from_mask(active, lengths, first, SiteCounts.kernel_fields(co_activation)))


def add_active(mask: Tensor, active: Tensor, rows: Tensor | None = None, flag: Tensor | None = None) -> None:
    """Add to ``active`` the tokens on which each neuron is active.

    Args:
        mask: bool, (tokens, width).
        active, rows, flag: as for ``kernels.add_active``.
    """
    if rows is not None:
        mask = mask & rows[:, None]
    added = mask.sum(0)
    active += added if flag is None else added * flag
