"""Following the data inside some modules of a model, each time that these modules run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from threading import Lock
from typing import Any

import torch
from torch import nn

from actratio.hooks import Unsaved
from actratio.sites.flow import Flow
from actratio.sites.followed import is_searching
from actratio.sites.values import Use, Value


class ScopeFollower:
    """Call ``on_use`` for every product with a down projection inside some modules.

    Args:
        on_unused: called, when such a module has run, with every activation that entered no product.
        is_counting: whether to follow a scope that is about to run.
    """

    def __init__(
        self,
        model: nn.Module,
        on_use: Callable[[Use], None],
        on_unused: Callable[[Value], None],
        is_counting: Callable[[], bool],
    ) -> None:
        self._model = model
        self._on_use, self._on_unused = on_use, on_unused
        self._is_counting = is_counting
        self._running: ExitStack | None = None

    def register(self, scopes: Sequence[nn.Module], stack: ExitStack) -> None:
        """Register the hooks, once for any number of forward passes; ``stack`` removes them."""
        if not scopes:
            return
        stack.enter_context(_slow_path)
        flow = Flow(
            self._model, self._on_use, self._on_unused
        )  # one for all scopes, because scopes don't run inside each other
        stack.callback(self.stop)
        for scope in scopes:
            self._register(scope, flow, stack)

    def _register(self, scope: nn.Module, flow: Flow, stack: ExitStack) -> None:
        started: list[bool] = []

        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            if is_searching():  # maybe in another thread
                return
            # A module with two names may run inside another scope, whose run is followed already.
            started.append(self._is_counting() and self._running is None)
            if started[-1]:
                self._running = ExitStack()
                # Hooks on all modules of the process, so they last only as long as the scope runs.
                self._running.enter_context(flow.modules(scope))
                self._running.enter_context(flow)

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not is_searching() and started and started.pop():
                started.clear()
                flow.tell_unused()  # here, because a scope that was interrupted is stopped without this hook
                self.stop()

        stack.callback(started.clear)
        stack.callback(scope.register_forward_pre_hook(Unsaved(enter)).remove)
        stack.callback(scope.register_forward_hook(Unsaved(leave), always_call=True).remove)

    def stop(self) -> None:
        """Stop following the scope that runs, if there is one."""
        running, self._running = self._running, None
        if running is not None:
            running.close()


class _SlowPath:
    """Turn off torch's fast path of attention in at least one block, which may end in another order than they began.

    For this path, an encoder packs padded sequences into a nested tensor, and a layer that is followed doesn't take the path.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._blocks = 0
        self._was_fast = True

    def __enter__(self) -> None:
        with self._lock:
            if not self._blocks:
                self._was_fast = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
            self._blocks += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                torch.backends.mha.set_fastpath_enabled(self._was_fast)


_slow_path = _SlowPath()


def outermost(scopes: Iterable[str]) -> list[str]:
    """Return the scopes that lie in no other scope, from the root of the model down."""
    outer_scopes: list[str] = []
    for scope in sorted(set(scopes), key=lambda path: path.count(".") if path else -1):
        if not any(not outer or scope == outer or scope.startswith(f"{outer}.") for outer in outer_scopes):
            outer_scopes.append(scope)
    return outer_scopes
