"""What signals do to a command: it stops, and its exit status is 128 and the signal's number, as in shells."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C, what schedulers send before they kill, and a terminal that is closed."""


@dataclass
class Stopping:
    """The signal that came while a command ran.

    Attributes:
        number: of the signal; ``None`` if none came.
    """

    number: int | None = None

    @property
    def status(self) -> int | None:
        """The exit status of a command that the signal stopped: 130 for SIGINT, 143 for SIGTERM; ``None`` if none came."""
        return None if self.number is None else _status(self.number)


def _status(number: int) -> int:
    return 128 + number


@contextmanager
def stopping_on_signals() -> Iterator[Stopping]:
    """Stop the command at the first signal, as after Ctrl-C, and end the process at once at the second.

    Both leave complete files only, because each is moved to its place when it is complete. Signals that are ignored, as with ``nohup``,
    stay ignored.
    """
    stopping = Stopping()

    def stop(number: int, frame: FrameType | None) -> None:
        if stopping.number is not None:
            # Not by print, which fails if the signal came while something is printed.
            os.write(2, b"stopped at once; no file is half-written; run the same command again\n")
            os._exit(_status(number))
        stopping.number = number
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which alone can handle signals
        yield stopping
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: it wasn't set from Python
                signal.signal(number, handler)
