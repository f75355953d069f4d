"""Which models can be tracked."""

from __future__ import annotations

import torch
from torch import nn

from actratio.errors import TrackerError
from actratio.sites.wrappers import has_flat_weights, unwrapped


def checked_model(model: nn.Module) -> nn.Module:
    """Return the user's own model, without ``torch.compile`` and ``DistributedDataParallel`` around it.

    Raises:
        TrackerError: it is no module, the model is a ``DataParallel`` or a ``ScriptModule``, or ``FullyShardedDataParallel``
            holds its weights.
    """
    if not isinstance(model, nn.Module):
        raise TrackerError(f"the model is of type {type(model).__name__}; give the nn.Module that is trained")
    model = unwrapped(model)
    if isinstance(model, nn.DataParallel):
        raise TrackerError(
            "DataParallel copies the model in each pass, so it can't be tracked; use DistributedDataParallel"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise TrackerError(
            "a ScriptModule takes no hooks, so it can't be tracked; track the model that it was made from"
        )
    if has_flat_weights(model):
        raise TrackerError(
            "FullyShardedDataParallel holds the model's weights, so its sites can't be found; start the tracker before you wrap "
            "the model, with inputs, or use fully_shard"
        )
    return model
