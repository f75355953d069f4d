"""Adding up counts over the processes of a ``torch.distributed`` group."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from actratio.counting.counts import SiteCounts

_DIMENSIONS = 4
"""Most dimensions of a field that is described to the other processes."""


def all_reduce_counts(counts: SiteCounts, group: Any = None) -> SiteCounts:
    """Return the counts of all processes together; see ``SiteCounts.all_reduce``."""
    declared, values = counts.declared(), counts.values()
    device = counts.active.device
    # A process that saw no tokens has nothing to add, but it must know the shapes that the others have.
    known = [value is not None or (not counts.tokens and not declared[name].of_layer) for name, value in values.items()]
    shapes = [_described(value) for value in values.values()]
    all_known = _reduced(torch.tensor(known, dtype=torch.int64, device=device), dist.ReduceOp.MIN, group)
    largest = _reduced(torch.tensor(shapes, dtype=torch.int64, device=device), dist.ReduceOp.MAX, group)
    own_width = torch.tensor(_described(counts.active), dtype=torch.int64, device=device)
    smallest = _reduced(own_width, dist.ReduceOp.MIN, group)
    if not torch.equal(smallest, largest[list(values).index("active")]):
        raise ValueError("the processes counted activations of different shapes; count the same sites on each")
    any_tokens = bool(_reduced(torch.tensor(counts.tokens, device=device), dist.ReduceOp.MAX, group))
    merged: dict[str, Any] = {}
    for number, (name, value) in enumerate(values.items()):
        dimensions, *sizes = largest[number].tolist()
        if not all_known[number] or dimensions < 0:  # one process doesn't know it, or none does
            merged[name] = None
            continue
        merge = declared[name].merge
        own = torch.full(sizes[:dimensions], merge.neutral, dtype=torch.int64, device=device)
        # As in ``merge``, a process without tokens does not change what the others counted.
        if value is not None and (counts.tokens or declared[name].of_layer or not any_tokens):
            own[...] = value
        total = _reduced(own, getattr(dist.ReduceOp, merge.reduce_op), group)
        merged[name] = int(total) if declared[name].kind is int else total
    return type(counts)(**merged)


def _described(value: Any) -> list[int]:
    """Number of dimensions and sizes; all −1 for what was not counted."""
    if value is None:
        return [-1] * (1 + _DIMENSIONS)
    shape = list(value.shape) if isinstance(value, Tensor) else []
    return [len(shape), *shape, *[0] * (_DIMENSIONS - len(shape))]


def _reduced(tensor: Tensor, operation: Any, group: Any) -> Tensor:
    dist.all_reduce(tensor, operation, group)
    return tensor
