"""What this thread does with a model beside running it, for code that follows it, counts it, or computes where a ``Flow`` can't see it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Here(threading.local):
    depth = 0
    searches = 0
    unfollowed = 0


_here = _Here()


def is_followed() -> bool:
    """Return whether a ``Flow`` is following this thread."""
    return _here.depth > 0


def follow(more: int) -> None:
    """Note that this thread enters (1) or leaves (-1) a ``Flow``."""
    _here.depth += more


def is_searching() -> bool:
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


def is_unfollowed() -> bool:
    """Return whether this thread computes what it counts, such as the outputs of a down projection; that is no step of the model."""
    return _here.unfollowed > 0


@contextmanager
def unfollowed() -> Iterator[None]:
    """Note that what this thread computes isn't a part of the model, so that no ``Flow`` follows it."""
    _here.unfollowed += 1
    try:
        yield
    finally:
        _here.unfollowed -= 1
