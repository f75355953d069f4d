"""Doing something before a model's first call, when its inputs are known and its hooks not yet looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import nn


def before_first_call(model: nn.Module, action: Callable[[tuple[Any, ...], Mapping[str, Any]], None]) -> ExitStack:
    """Call ``action`` once, with the arguments, before the model's first call from now on.

    ``nn.Module`` looks up the hooks of a call when the call begins, so a hook that registers others comes too late.
    """
    compiled = model._compiled_call_impl  # what model.compile() set, or what another tracker waits with
    is_waiting = True

    def restore() -> None:
        if model.__dict__.get("_compiled_call_impl") is first_call:
            object.__setattr__(model, "_compiled_call_impl", compiled)
        if model.__dict__.get("compile") is intercepted:
            del model.__dict__["compile"]

    def stop_waiting() -> None:
        nonlocal is_waiting
        if is_waiting:
            is_waiting = False
            restore()

    def first_call(*args: Any, **kwargs: Any) -> Any:
        nonlocal is_waiting
        was_waiting, is_waiting = is_waiting, False
        object.__setattr__(model, "_compiled_call_impl", None)  # another tracker may wait for this call too
        try:
            if was_waiting:
                action(args, kwargs)
        finally:
            object.__setattr__(model, "_compiled_call_impl", first_call)
            restore()
        return model(*args, **kwargs)

    def compile_in_place(*args: Any, **kwargs: Any) -> None:
        nonlocal compiled
        restore()
        model.compile(*args, **kwargs)
        compiled = model._compiled_call_impl
        intercept()

    def intercept() -> None:
        object.__setattr__(model, "_compiled_call_impl", first_call)
        object.__setattr__(model, "compile", intercepted)

    intercepted = _Compile(model, compile_in_place)
    intercept()
    stack = ExitStack()
    stack.callback(stop_waiting)
    return stack


class _Compile:
    """A model's method ``compile`` for now; a copied or saved model has that of its class."""

    def __init__(self, model: nn.Module, action: Callable[..., None]) -> None:
        self._model, self._action = model, action

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self._action(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return partial, (type(self._model).compile, self._model)
