"""What kind of forward pass this thread is in, for code that would compute where a ``Flow`` can't see it, or count what isn't the user's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Here(threading.local):
    depth = 0
    searches = 0


_here = _Here()


def is_followed() -> bool:
    """Return whether a ``Flow`` is following this thread."""
    return _here.depth > 0


def follow(more: int) -> None:
    """Note that this thread enters (1) or leaves (-1) a ``Flow``."""
    _here.depth += more


def is_searched() -> bool:
    """Return whether this thread runs a model only to find its sites."""
    return _here.searches > 0


@contextmanager
def searching() -> Iterator[None]:
    """Note that forward passes of this thread look for sites, so that no probe counts them."""
    _here.searches += 1
    try:
        yield
    finally:
        _here.searches -= 1
