"""The user's own model inside wrappers for compilation and for data-parallel training."""

from __future__ import annotations

import torch
from torch import nn

from actratio.errors import SiteError


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside of ``torch.compile`` and ``DistributedDataParallel``."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ == "DistributedDataParallel":
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def has_flat_weights(model: nn.Module) -> bool:
    """Return whether ``FullyShardedDataParallel`` (FSDP1) holds the weights of the model, or of a model around it."""
    # It marks the parameters; the modules inside of its wrapper don't know it.
    return any(getattr(parameter, "_fsdp_flattened", False) for parameter in model.parameters())


def check_can_be_followed(model: nn.Module) -> None:
    """Check that a model runs as Python, with weights in its modules.

    Raises:
        SiteError: a part of it doesn't.
    """
    scripted = next((name for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)), None)
    if scripted is not None:
        raise SiteError(
            f"{scripted or 'the model'} is a ScriptModule, which can't be followed; give the model that it was made from"
        )
    if has_flat_weights(model):
        raise SiteError(
            "FullyShardedDataParallel holds the model's weights, so its sites can't be found; use fully_shard (FSDP2), or measure "
            "the model before it is wrapped"
        )
