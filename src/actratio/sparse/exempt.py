"""Which weights stay as they are when the others become int8."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from torch import nn

from actratio.sites.linear import is_linear
from actratio.sites.mlps import MLP

_READ_WEIGHTS = nn.TransformerEncoderLayer, nn.MultiheadAttention
"""Modules of torch's that multiply by the weights of their linear layers without calling these layers."""


def bypassed_layers(model: nn.Module) -> set[nn.Module]:
    """Return the linear layers whose weights torch may multiply by without calling the layers."""
    owners = [module for module in model.modules() if isinstance(module, _READ_WEIGHTS)]
    return {child for owner in owners for child in owner.children() if is_linear(child)}


def exempt_layers(model: nn.Module) -> set[nn.Module]:
    """Return the linear layers that can't have int8 weights.

    These are layers whose weights other code of torch's reads, and layers that share one weight with each other: each would round it in its
    own way. A weight that is shared with embeddings only can become int8.
    """
    holders: dict[int, list[nn.Module]] = defaultdict(list)
    exempt = bypassed_layers(model)
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None and not isinstance(module, nn.Embedding):
                holders[id(parameter)].append(module)
    for modules in holders.values():
        if len(modules) > 1:
            exempt.update(module for module in modules if is_linear(module))
    return exempt


def rounded_mlps(mlps: Sequence[MLP], exempt: Collection[nn.Module]) -> set[MLP]:
    """Return the MLPs whose sparse products get int8 weights.

    Args:
        exempt: as ``exempt_layers`` returns them.
    """
    return {mlp for mlp in mlps if mlp.stacked is None and not any(layer in exempt for layer in mlp.skipped)}
