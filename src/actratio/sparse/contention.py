"""Whether other programs take the CPUs away while something is timed."""

from __future__ import annotations

import math
from pathlib import Path

BUSY = 0.05
"""If a process waits for CPUs for a larger share of its time, don't trust its timings. On an idle machine, the share is below 0.01."""


class CPUWait:
    """How long the threads of this process waited for a CPU in the blocks of ``with`` that it was used for.

    They wait if other programs run, or if there are more threads than CPUs. Only Linux tells, and not what other virtual machines take.

    >>> wait = CPUWait()
    >>> with wait:
    ...     ran = sum(range(100_000))
    >>> 0 <= wait.share() <= 1 or math.isnan(wait.share())
    True
    """

    def __init__(self) -> None:
        self._ran = self._waited = 0
        self._began: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> CPUWait:
        self._began = _nanoseconds()
        return self

    def __exit__(self, *_: object) -> None:
        for thread, (ran, waited) in _nanoseconds().items():  # the times of threads that have ended are gone
            ran_before, waited_before = self._began.get(thread, (0, 0))
            self._ran, self._waited = self._ran + ran - ran_before, self._waited + waited - waited_before

    def share(self) -> float:
        """Return the share of the time in which the threads could have run that they waited; NaN if it isn't known."""
        return self._waited / (self._ran + self._waited) if self._ran else math.nan


def waited_in_words(share: float) -> str:
    """Return that a machine was busy, as a part of a sentence."""
    return f"this process waited for a CPU for {share:.0%} of the time, because other programs ran or it has more threads than there are CPUs"


def _nanoseconds() -> dict[str, tuple[int, int]]:
    """Return for how long each present thread of this process has run, and for how long it could have but had no CPU."""
    times = {}
    for file in Path("/proc/self/task").glob("*/schedstat"):
        try:
            ran, waited, *_ = file.read_text().split()
        except OSError:  # the thread has ended
            continue
        times[file.parent.name] = int(ran), int(waited)
    return times
