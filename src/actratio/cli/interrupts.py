"""What signals do to a command."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C, what schedulers send before they kill, and a terminal that is closed."""


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Stop the command at the first signal, as after Ctrl-C, and end the process at once at the second.

    Both leave complete files only, because each is moved to its place when it is complete. Signals that are ignored, as with ``nohup``,
    stay ignored.
    """
    was_stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal was_stopped
        if was_stopped:
            # Not by print, which fails if the signal came while something is printed.
            os.write(2, b"stopped at once; no file is half-written; run the same command again\n")
            os._exit(1)
        was_stopped = True
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which alone can handle signals
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: it wasn't set from Python
                signal.signal(number, handler)
