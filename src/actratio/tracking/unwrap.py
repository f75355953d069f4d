"""The model inside wrappers for compilation and for data-parallel training."""

from __future__ import annotations

import torch
from torch import nn

from actratio.errors import TrackerError


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the user's own model, without ``torch.compile`` and ``DistributedDataParallel`` around it.

    Raises:
        TrackerError: it is no module, the model is a ``DataParallel`` or a ``ScriptModule``, or ``FullyShardedDataParallel``
            holds its weights.
    """
    if not isinstance(model, nn.Module):
        raise TrackerError(f"the model is of type {type(model).__name__}; give the nn.Module that is trained")
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.DataParallel):
            raise TrackerError(
                "DataParallel copies the model in each pass, so it can't be tracked; use DistributedDataParallel"
            )
        if inner is None and type(model).__name__ == "DistributedDataParallel":
            inner = model.module
        if not isinstance(inner, nn.Module):
            break
        model = inner
    if isinstance(model, torch.jit.ScriptModule):
        raise TrackerError(
            "a ScriptModule takes no hooks, so it can't be tracked; track the model that it was made from"
        )
    # FSDP1 marks the parameters that it holds; the modules inside of its wrapper don't know it.
    if any(getattr(parameter, "_fsdp_flattened", False) for parameter in model.parameters()):
        raise TrackerError(
            "FullyShardedDataParallel holds the model's weights, so its sites can't be found; start the tracker before you wrap "
            "the model, with inputs, or use fully_shard"
        )
    return model
