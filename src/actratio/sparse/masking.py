"""Hooks on what enters the down projections, and trying thresholds with them without changing the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from actratio.sites.mlps import MLP


@contextmanager
def hidden_hooks(mlps: Iterable[MLP], hook: Callable[[MLP, Tensor], Tensor | None]) -> Iterator[None]:
    """Call ``hook`` with what enters each MLP's down projection, (…, width), while the block runs.

    If the hook returns a tensor, the down projection reads it instead.
    """
    with ExitStack() as stack:
        for mlp in mlps:

            def enter(_: nn.Module, args: tuple[Any, ...], mlp: MLP = mlp) -> tuple[Any, ...] | None:
                replaced = hook(mlp, args[0])
                return None if replaced is None else (replaced, *args[1:])

            stack.callback(mlp.down.register_forward_pre_hook(enter).remove)
        yield


@contextmanager
def masked(mlps: Iterable[MLP], thresholds: Mapping[str, Tensor]) -> Iterator[None]:
    """Set the neurons at or below their thresholds to zero while the block runs, as a sparse model does.

    Args:
        thresholds: (width,) for each MLP's site name, compared with ``|h|``.
    """

    def mask(mlp: MLP, hidden: Tensor) -> Tensor:
        return torch.where(hidden.abs() <= thresholds[mlp.site.name].to(hidden.device), 0, hidden)

    with hidden_hooks(mlps, mask):
        yield
