"""Whether other programs take the CPUs away while something is timed."""

from __future__ import annotations

import math
from pathlib import Path

BUSY = 0.05
"""Share of its time for which a process waits for CPUs, above which timings aren't to be trusted; on an idle machine it is below 0.01."""


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
        self._began = (0, 0)

    def __enter__(self) -> None:
        self._began = _nanoseconds()

    def __exit__(self, *_: object) -> None:
        ran, waited = (now - before for now, before in zip(_nanoseconds(), self._began, strict=True))
        if ran > 0 and waited >= 0:  # else a thread has ended, whose times are gone
            self._ran, self._waited = self._ran + ran, self._waited + waited

    def share(self) -> float:
        """Return the share of the time in which the threads could have run that they waited; NaN if it isn't known."""
        return self._waited / (self._ran + self._waited) if self._ran else math.nan


def waited_in_words(share: float) -> str:
    """Return that a machine was busy, as a part of a sentence."""
    return f"this process waited for a CPU for {share:.0%} of the time, because other programs ran or it has more threads than there are CPUs"


def _nanoseconds() -> tuple[int, int]:
    """Return for how long the present threads of this process have run, and for how long they could have but had no CPU."""
    ran = waited = 0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        try:
            fields = file.read_text().split()
        except OSError:  # the thread has ended
            continue
        ran, waited = ran + int(fields[0]), waited + int(fields[1])
    return ran, waited
