"""Which module of a model is running, from hooks on all modules."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from actratio.sites import functions


@dataclass(frozen=True)
class RunningModule:
    """A module that is running.

    Attributes:
        path: of the module, or, if it isn't part of the model, of the module around it.
        is_part: whether it is part of the model; one that only a list or a global variable holds is not, and has no name.
        atomic: whether it is an activation function, a normalisation or a quantised linear map, or runs inside one; its steps are
            not followed.
    """

    path: str
    module: nn.Module
    atomic: bool
    is_part: bool = True


class RunningModules:
    """The stack of modules that are running in this thread, the innermost one last.

    Args:
        on_atomic: called with an atomic module, its input and its output, when it has run.

    Attributes:
        ran: paths of the modules whose hooks were called. Lists of modules are never called, and some models call
            the ``forward`` of a module without its hooks.
    """

    def __init__(self, model: nn.Module, on_atomic: Callable[[RunningModule, Tensor, Tensor], None]) -> None:
        self._names = {id(module): name for name, module in model.named_modules()}
        self._on_atomic = on_atomic
        self._thread = threading.get_ident()
        self._stack: list[RunningModule] = []
        self.ran: set[str] = set()

    @property
    def innermost(self) -> RunningModule | None:
        """The module whose ``forward`` is running."""
        return self._stack[-1] if self._stack else None

    @property
    def owner(self) -> str:
        """Path of the module whose ``forward`` is running."""
        return self._stack[-1].path if self._stack else ""

    @property
    def atomic(self) -> bool:
        """Whether the module that is running is not followed."""
        return bool(self._stack) and self._stack[-1].atomic

    @contextmanager
    def hooks(self, inside: nn.Module | None) -> Iterator[None]:
        """Register hooks on all modules, and remove them when the block ends.

        Args:
            inside: a module that is running already.
        """
        if inside is not None:
            self._stack.append(RunningModule(self._names[id(inside)], inside, atomic=False))
        enter = nn.modules.module.register_module_forward_pre_hook(self._enter)
        leave = nn.modules.module.register_module_forward_hook(self._leave, always_call=True)
        try:
            yield
        finally:
            enter.remove()
            leave.remove()
            self._stack.clear()

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if threading.get_ident() != self._thread:  # hooks on all modules are called in other threads too
            return
        path = self._names.get(id(module), self.owner)
        self.ran.add(path)
        atomic = self.atomic or any(
            kind(module) for kind in (functions.is_activation, functions.is_norm, functions.is_opaque_linear)
        )
        self._stack.append(RunningModule(path, module, atomic, id(module) in self._names))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() != self._thread or not self._stack:
            return
        left = self._stack.pop()
        if left.atomic and not self.atomic and args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            self._on_atomic(left, args[0], output)
