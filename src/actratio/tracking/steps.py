"""When an optimizer that holds a model's parameters has taken a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, WeakMethod, WeakSet, finalize, ref

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook


def on_optimizer_step(model: nn.Module, action: Callable[[Optimizer], None]) -> Callable[[], object]:
    """Call ``action``, with the optimizer, after every step of an optimizer that holds a parameter of the model.

    Args:
        action: a method, whose object the model must keep.

    Returns:
        A function that ends it.
    """
    holders: WeakSet[Optimizer] = WeakSet()
    others: WeakKeyDictionary[Optimizer, int] = (
        WeakKeyDictionary()
    )  # and the number of their parameters when they were asked
    # PyTorch keeps this hook for good, so it must not keep the model; the model keeps the owner of the action.
    owner, known = WeakMethod(action), ref(model)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def stepped(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        model, action = known(), owner()
        if model is None or action is None:
            return
        # Wrappers such as FSDP may replace the model's parameters before the optimizer is made, so they are read now.
        # An optimizer that holds none is asked again when parameters have been added to it.
        if optimizer not in holders:
            parameters = [item for group in optimizer.param_groups for item in group["params"]]
            if others.get(optimizer) == len(parameters):
                return
            own = {id(parameter) for parameter in model.parameters()}
            if not any(id(item) in own for item in parameters):
                others[optimizer] = len(parameters)
                return
            holders.add(optimizer)
        action(optimizer)

    handle = register_optimizer_step_post_hook(stepped)
    return finalize(model, handle.remove)
