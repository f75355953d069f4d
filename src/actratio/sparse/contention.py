"""Whether other programs take the CPUs away while something is timed."""

from __future__ import annotations

import math
from pathlib import Path

BUSY = 0.05
"""Share of its time for which a process waits for CPUs, above which timings aren't to be trusted; on an idle machine it is below 0.01."""


class CPUWait:
    """How long the threads of this process have waited for a CPU since it was made.

    They wait if other programs run, or if there are more threads than CPUs. Only Linux tells.
    """

    def __init__(self) -> None:
        self._ran, self._waited = _nanoseconds()

    def share(self) -> float:
        """Return the share of the time in which the threads could have run that they waited; NaN if it isn't known."""
        ran, waited = (now - before for now, before in zip(_nanoseconds(), (self._ran, self._waited), strict=True))
        if ran <= 0 or waited < 0:  # it doesn't run on Linux, or a thread has ended
            return math.nan
        return waited / (ran + waited)


def waited_in_words(share: float) -> str:
    """Return that a machine was busy, as a part of a sentence."""
    return f"for {share:.0%} of the time, this process waited for a CPU, because other programs ran or it has more threads than there are CPUs"


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
