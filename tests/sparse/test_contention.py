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
    """In the first block, both threads run and one waits; in the second one, thread 2 ends and thread 3 starts; in the third one, nothing happens."""
    times = iter(
        [
            {"1": (10, 5), "2": (7, 7)}, {"1": (30, 15), "2": (17, 7)},
            {"1": (90, 99), "2": (500, 500)}, {"1": (100, 99), "3": (5, 5)},
            {"1": (100, 99)}, {"1": (100, 99)},
        ]
    )  # fmt: skip
    monkeypatch.setattr(contention, "_nanoseconds", lambda: next(times))
    wait = CPUWait()
    assert math.isnan(wait.share())
    for _ in range(3):
        with wait as same:
            assert same is wait
    assert wait.share() == (10 + 5) / (10 + 5 + 20 + 10 + 10 + 5)


def test_threads_are_added_up() -> None:
    """This thread sleeps while another one runs, without Python's lock."""

    def ran() -> int:
        return sum(thread_ran for thread_ran, _ in contention._nanoseconds().values())

    before, stopped = ran(), threading.Event()

    def work() -> None:
        while not stopped.is_set():
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10_000)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        end = time.perf_counter() + 30
        while ran() - before < 0.2e9 and time.perf_counter() < end:
            time.sleep(0.05)
        assert ran() - before >= 0.2e9
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
