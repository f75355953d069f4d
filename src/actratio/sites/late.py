"""Parts of a model that run for the first time after its sites were found."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from itertools import accumulate
from types import TracebackType
from typing import Any

from torch import nn

from actratio.hooks import Unsaved
from actratio.sites import functions
from actratio.sites.site import Site

_MOST_NAMED = 5


class UncountedWarning(UserWarning):
    """Parts of the model ran that had not run when its sites were found, so their activations are not counted.

    Args:
        paths: of these modules.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)
        more = len(self.paths) - _MOST_NAMED
        listed = ", ".join(self.paths[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        super().__init__(
            f"{listed} ran for the first time after the sites were found, so activations in them are not counted; put a batch in "
            "which they run first"
        )


def asleep(model: nn.Module, ran: Collection[str], sites: Iterable[Site]) -> list[str]:
    """Return the paths of activations and linear maps that didn't run, and belong to no site, as the experts that no token reached do."""
    known = {
        path for site in sites for path in (site.owner, site.module, _module_of(site.up), _module_of(site.down)) if path
    }
    return [
        path
        for path, module in model.named_modules()
        if path not in ran
        and (functions.is_activation(module) or any(weight.ndim > 1 for weight in module.parameters(recurse=False)))
        and known.isdisjoint(accumulate(path.split("."), "{}.{}".format))  # the path and those of the modules around it
    ]


def _module_of(weight: str | None) -> str:
    return (weight or "").rpartition(".")[0]


class LateParts:
    """Warns by name, at the end of the block, of modules that ran in it. Modules that don't run cost nothing.

    Args:
        paths: of the modules, as ``asleep`` returns them.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        self._model, self._paths = model, paths
        self._ran: dict[str, None] = {}
        self._stack = ExitStack()

    def __enter__(self) -> LateParts:
        modules = dict(self._model.named_modules())
        for path in self._paths:
            self._watch(path, modules[path])
        return self

    def _watch(self, path: str, module: nn.Module) -> None:
        def ran(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._ran[path] = None

        self._stack.callback(module.register_forward_pre_hook(Unsaved(ran)).remove)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if kind is not None or not self._ran:
            return
        warnings.warn(UncountedWarning(list(self._ran)), stacklevel=3)
