"""Doing something before a model's first call, when its inputs are known and its hooks not yet looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import nn


def before_first_call(model: nn.Module, action: Callable[[tuple[Any, ...], Mapping[str, Any]], None]) -> ExitStack:
    """Call ``action``, with the arguments, before the model's first call from now on; again before the next if it raises.

    ``nn.Module`` looks up the hooks of a call when the call begins, so a hook that registers others comes too late.
    """
    compiled = model._compiled_call_impl  # what model.compile() set, or what another tracker waits with
    other = model.__dict__.get("compile")  # of another tracker that waits

    def restore() -> None:
        if model.__dict__.get("_compiled_call_impl") is first_call:
            object.__setattr__(model, "_compiled_call_impl", compiled)
        if model.__dict__.get("compile") is intercepted:
            del model.__dict__["compile"]
            if other is not None and getattr(other, "is_waiting", True):
                object.__setattr__(model, "compile", other)

    def stop_waiting() -> None:
        if intercepted.is_waiting:
            intercepted.is_waiting = False
            restore()

    def first_call(*args: Any, **kwargs: Any) -> Any:
        if intercepted.is_waiting:
            object.__setattr__(model, "_compiled_call_impl", None)  # the action may call the model
            try:
                action(args, kwargs)
            finally:
                object.__setattr__(model, "_compiled_call_impl", first_call)
            intercepted.is_waiting = False
        restore()
        return model(*args, **kwargs)

    def compile_in_place(*args: Any, **kwargs: Any) -> None:
        nonlocal compiled
        restore()
        model.compile(*args, **kwargs)
        compiled = model._compiled_call_impl
        if intercepted.is_waiting:
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
    """A model's method ``compile`` for now; a copied or saved model has that of its class.

    Attributes:
        is_waiting: whether the first call is still to come.
    """

    def __init__(self, model: nn.Module, action: Callable[..., None]) -> None:
        self._model, self._action = model, action
        self.is_waiting = True

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self._action(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return partial, (type(self._model).compile, self._model)
