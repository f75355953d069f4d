"""Settings of ``torch.compile`` that belong to the process, for as long as somebody needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch


class _Shared:
    """A setting that overlapping blocks share: the first sets it, and the last to end restores what was there."""

    def __init__(self, setting: Callable[[], AbstractContextManager[Any]]) -> None:
        self._setting = setting
        self._blocks = 0
        self._entered: AbstractContextManager[Any] | None = None

    @contextmanager
    def block(self) -> Iterator[None]:
        if not self._blocks:
            self._entered = self._setting()
            self._entered.__enter__()
        self._blocks += 1
        try:
            yield
        finally:
            self._blocks -= 1
            if not self._blocks and self._entered is not None:
                self._entered.__exit__(None, None, None)


@contextmanager
def _checked_hooks() -> Iterator[None]:
    # Not config.patch: each patch leaves a context variable behind for good.
    config: Any = torch._dynamo.config
    before = config.skip_nnmodule_hook_guards
    config.skip_nnmodule_hook_guards = False
    try:
        yield
    finally:
        config.skip_nnmodule_hook_guards = before


_eager = _Shared(lambda: torch.compiler.set_stance("force_eager"))
_guards = _Shared(_checked_hooks)


def force_eager() -> AbstractContextManager[None]:
    """Run compiled code as the Python that it was compiled from, whose modules and functions can be hooked."""
    return _eager.block()


def guard_hooks() -> AbstractContextManager[None]:
    """Let compiled code check that a module has no hooks if it was compiled without.

    Otherwise, a model with hooks runs the code that was compiled for another model of the same class without hooks.
    """
    return _guards.block()
