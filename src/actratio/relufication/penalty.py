"""The L1 penalty on what enters the down projections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from actratio.sites.mlps import MLP
from actratio.sparse.masking import hidden_hooks


@contextmanager
def hidden_outputs(mlps: Sequence[MLP]) -> Iterator[dict[str, Tensor]]:
    """Keep what enters each MLP's down projection in the latest forward pass, (…, width) by site's name."""
    kept: dict[str, Tensor] = {}

    def keep(mlp: MLP, hidden: Tensor) -> None:
        kept[mlp.site.name] = hidden

    with hidden_hooks(mlps, keep):
        yield kept


def typical_sizes(hidden: Mapping[str, Tensor]) -> dict[str, float]:
    """Return for each MLP the median over tokens of the mean ``|h|``, and 1 where that is 0.

    The median, because a model's first token often has outputs that are hundreds of times larger than those of other tokens.
    """
    sizes = {name: float(values.detach().float().abs().mean(-1).median()) for name, values in hidden.items()}
    return {name: size or 1.0 for name, size in sizes.items()}


def hidden_l1(hidden: Mapping[str, Tensor], sizes: Mapping[str, float]) -> Tensor:
    """Return the mean over MLPs of the mean ``|h|``, in units of its size when the training began.

    With these units, one strength of the penalty means the same in every layer and every model.
    """
    return torch.stack([values.float().abs().mean() / sizes[name] for name, values in hidden.items()]).mean()
