"""How long this process waits for CPUs, and the share of the neurons that aren't zero."""

from __future__ import annotations

import hashlib
import math
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from actratio.sparse import contention
from actratio.sparse.contention import CPUWait, waited_in_words


def _spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_process_that_shares_a_cpu_waits() -> None:
    """Two processes on one CPU wait for half of the time, roughly; a process that sleeps doesn't wait."""
    own = os.sched_getaffinity(0)
    child = os.fork()
    os.sched_setaffinity(0, {min(own)})
    if not child:
        _spin(30)
        os._exit(0)
    try:
        wait = CPUWait()
        with wait:
            _spin(1)
        assert wait.share() > 0.2
    finally:
        os.sched_setaffinity(0, own)
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_share_over_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two blocks in which threads run, one in which none does, and one in which a thread ends."""
    times = iter([(10, 5), (40, 15), (90, 99), (100, 99), (100, 99), (100, 99), (110, 99), (9, 7)])
    monkeypatch.setattr(contention, "_nanoseconds", lambda: next(times))
    wait = CPUWait()
    assert math.isnan(wait.share())
    for _ in range(4):
        with wait:
            pass
    assert wait.share() == 10 / 50


def test_threads_are_added_up() -> None:
    """This thread sleeps while another one runs, without Python's lock."""
    before, stopped = contention._nanoseconds()[0], threading.Event()

    def work() -> None:
        while not stopped.is_set():
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10_000)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        end = time.perf_counter() + 30
        while contention._nanoseconds()[0] - before < 0.2e9 and time.perf_counter() < end:
            time.sleep(0.05)
        assert contention._nanoseconds()[0] - before >= 0.2e9
    finally:
        stopped.set()
        thread.join()


def test_machine_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "Path", lambda _: Path("/no/such/folder"))
    wait = CPUWait()
    with wait:
        _spin(0.01)
    assert math.isnan(wait.share())


def test_words() -> None:
    assert waited_in_words(0.334).startswith("this process waited for a CPU for 33% of the time, because")
