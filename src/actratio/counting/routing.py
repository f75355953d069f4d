"""What enters a product, as rows of neurons, and which expert's each row is."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from actratio.sites.values import Use


def neurons_last(x: Tensor, use: Use) -> Tensor:
    """Return an activation with the neurons on its last axis, whatever axis they have in the product."""
    entered, width = use.entered, use.entered.shape[use.axis]
    if use.axis == 1:  # a convolution
        return x.movedim(1, -1)
    if x.ndim == entered.ndim and x.stride() != entered.stride() and x.data_ptr() == entered.data_ptr():
        axis = next(
            axis for axis in range(x.ndim) if x.stride(axis) == entered.stride(use.axis) and x.shape[axis] == width
        )
    elif x.shape == entered.shape:
        axis = use.axis
    else:
        axis = -1 if x.shape[-1] == width else next((axis for axis, size in enumerate(x.shape) if size == width), -1)
    return x.movedim(axis, -1)


def rows_by_expert(use: Use, x: Tensor, tokens: int | None) -> Iterable[tuple[int, Tensor, Tensor | None]]:
    """Yield each expert's number, its rows of the activation, and which tokens these rows are.

    Args:
        tokens: how many tokens the forward pass has, if that is known.
    """
    expert, rows = use.weight.expert, use.value.stream.rows
    if isinstance(expert, int):
        yield expert, x, rows
    elif isinstance(expert, Tensor):
        if expert.ndim > 1 and rows is None:  # several experts a token, side by side
            rows = torch.arange(len(expert), device=x.device).repeat_interleave(expert[0].numel())
        expert = expert.flatten()
        flat = x.reshape(len(expert), -1)
        for number in torch.unique(expert).tolist():
            routed = (expert == number).nonzero().flatten()
            yield number, flat[routed], None if rows is None else rows[routed]
    elif use.offsets is not None:
        start = 0
        for number, end in enumerate(use.offsets.tolist()):
            yield number, x[start:end], None if rows is None else rows[start:end]
            start = end
    else:  # (experts, tokens, width): all experts see all tokens, and those that were not routed are scaled by zero
        read_by_all = use.value.stream.data
        if read_by_all.shape[-2] != x.shape[-2]:  # read in another way, which does not say what was routed
            read_by_all = torch.ones(1, x.shape[-2], 1, device=x.device)
        for number, (hidden, read) in enumerate(zip(x, read_by_all.expand(len(x), -1, -1), strict=True)):
            routed = (read != 0).any(-1).nonzero().flatten()
            # A buffer with a fixed number of places for each expert does not say which tokens lie in them.
            yield number, hidden[routed], routed if tokens in (None, len(hidden)) else None
