"""What this thread does with a model beside running it, for code that follows it, counts it, or computes where a ``Flow`` can't see it."""

from __future__ import annotations

import threading
from contextlib import ContextDecorator


class _Mark(threading.local, ContextDecorator):
    """A block or a decorated function that notes, for this thread alone, that it runs. It may run inside itself."""

    depth = 0

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1


following = _Mark()
"""A ``Flow`` is following this thread."""

searching = _Mark()
"""Forward passes of this thread look for sites, so no probe counts them."""

unfollowed = _Mark()
"""What this thread computes, such as what a probe counts, is no step of the model, so no ``Flow`` follows it."""


def is_followed() -> bool:
    """Return whether a ``Flow`` is following this thread."""
    return following.depth > 0


def is_searching() -> bool:
    """Return whether this thread runs a model only to find its sites."""
    return searching.depth > 0
