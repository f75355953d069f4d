"""What signals do to a command, whatever it is doing."""

from __future__ import annotations

import subprocess
import sys

PRINTING = """
import os, signal, sys
from actratio.cli.interrupts import stopping_on_signals

class Printing:  # an error stream that is in the middle of a line
    def write(self, text):
        raise RuntimeError("reentrant call")

    flush = write

sys.stderr = Printing()
with stopping_on_signals():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        pass
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os._exit(7)
"""


def test_the_second_signal_while_something_is_printed() -> None:
    done = subprocess.run([sys.executable, "-c", PRINTING], capture_output=True, text=True)
    assert done.returncode == 143
    assert done.stderr == "stopped at once; no file is half-written; run the same command again\n"
