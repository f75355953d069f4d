"""Hooks that stay with the model they were registered on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Hook:
    """Base class of hooks of modules.

    A copy of the model shares the hook, which tells by the module that it isn't its own. A saved model has a hook that does
    nothing, so that it can be loaded without the tracker.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        return self

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _nothing, ()


class Unsaved(Hook):
    """A function as a hook; it must tell by itself what isn't its own."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


def _nothing() -> Callable[..., None]:
    return _do_nothing


def _do_nothing(*args: Any) -> None:
    return None
