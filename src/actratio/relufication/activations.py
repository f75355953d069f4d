"""Put another activation function into a model's MLPs, so that transformers loads the result."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from actratio.errors import SiteError
from actratio.sites.mlps import MLP
from actratio.sparse.removal import configurations

KEEP = "keep"
"""In place of a function's name: the model keeps its own."""
FUNCTIONS = ("relu", "relu2", KEEP)
"""ReLU, max(x, 0); its square; or the model's own function."""

_SETTINGS = ("hidden_act", "hidden_activation", "activation_function", "activation", "hidden_act_fn", "ffn_act_fn")
"""Names of the activation function in configurations of transformers."""


def check_function(function: str) -> None:
    """Check the name of an activation function.

    Raises:
        SiteError: it is none of ``FUNCTIONS``.
    """
    if function not in FUNCTIONS:
        raise SiteError(f"the activation function {function!r} is not supported; write relu, relu2 or keep")


def swap_activations(model: nn.Module, mlps: Sequence[MLP], function: str) -> None:
    """Replace the activation functions of MLPs, and name the new one in the model's configuration.

    If transformers wouldn't build the same model from the new configuration, nothing is changed.

    Args:
        model: from transformers.
        mlps: as ``resolve`` returns them.
        function: one of ``FUNCTIONS``.

    Raises:
        SiteError: an MLP's function isn't a module, or the configuration can't say which function the MLPs have.
    """
    check_function(function)
    if function == KEEP:
        return
    from transformers.activations import ACT2FN

    modules = dict(model.named_modules())
    paths = list(dict.fromkeys(_path(mlp) for mlp in mlps))
    old = {path: modules[path] for path in paths}
    config, changed = model.config, copy.deepcopy(model.config)
    for part in configurations(changed):
        for name in _SETTINGS:
            if isinstance(getattr(part, name, None), str):
                setattr(part, name, function)
    for path in paths:
        _replace(model, path, ACT2FN[function])
    model.config = changed
    if _kinds(model) != _kinds_of_new(model):
        for path, module in old.items():
            _replace(model, path, module)
        model.config = config
        raise SiteError(
            f"the configuration of {type(model).__name__} can't say that its MLPs have {function}, so transformers would not load the "
            "result; nothing was changed"
        )
    for module in model.modules():  # modules of transformers keep the configuration that they were made from
        if getattr(module, "config", None) is config:
            module.config = changed


def _path(mlp: MLP) -> str:
    if mlp.site.module is None:
        raise SiteError(
            f"the activation function of {mlp.site.name} ({mlp.site.function}) is not a module, so it can't be replaced; use a model "
            "whose MLPs take their function from the configuration"
        )
    return mlp.site.module


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _kinds(model: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules(remove_duplicate=False)}


def _kinds_of_new(model: Any) -> dict[str, type] | None:
    """Return the modules' classes in a model that is built from the configuration; ``None`` if none can be built."""
    try:
        with torch.device("meta"):
            return _kinds(type(model)(copy.deepcopy(model.config)))
    except Exception:  # a model that can't be built from its configuration alone can raise anything
        return None
