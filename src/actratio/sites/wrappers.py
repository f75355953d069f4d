"""The user's own model inside wrappers for compilation and for data-parallel training."""

from __future__ import annotations

from torch import nn


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
