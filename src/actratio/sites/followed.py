"""Whether a forward pass is being followed, for code that would otherwise compute where a ``Flow`` can't see it."""

from __future__ import annotations

import threading


class _Here(threading.local):
    depth = 0


_here = _Here()


def is_followed() -> bool:
    """Return whether a ``Flow`` is following this thread."""
    return _here.depth > 0


def follow(more: int) -> None:
    """Note that this thread enters (1) or leaves (-1) a ``Flow``."""
    _here.depth += more
