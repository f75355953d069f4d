"""Whether a forward pass is being followed, for code that would otherwise compute where it cannot be seen."""

from __future__ import annotations

import threading


class _Here(threading.local):
    depth = 0


_here = _Here()


def is_followed() -> bool:
    """Whether this thread runs below a ``Flow``."""
    return _here.depth > 0


def follow(more: int) -> None:
    """Say that this thread enters (1) or leaves (-1) one."""
    _here.depth += more
