"""Processes that are killed, stopped or run out of space, without importing everything anew for each."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.blank import blank_figure

# A server imports once what takes seconds, and makes each process as a copy of itself.
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.preloaded"])

LONG = 120.0
"""Seconds after which a test fails instead of waiting on."""

MOMENTS = ("before", "halfway", "after")
"""When a process is killed: before a file is moved to its place, with only half of it written, or after it was moved."""


class Command:
    """A function, or ``actratio`` with arguments, in a process of its own and its own process group.

    Args:
        target: what to call, or the arguments of ``actratio``.
        log: a file for what it prints.
        dies_at: the number of a written file, from 0, and the moment at which the process kills itself.
    """

    def __init__(
        self, target: Callable[[], object] | list[object], log: Path, dies_at: tuple[int, str] | None = None
    ) -> None:
        self.log = log
        self.process: BaseProcess = CONTEXT.Process(target=_run, args=(target, log, dies_at))
        self.process.start()

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process and to those that it started, as a terminal does."""
        assert self.process.pid is not None
        wait_until(lambda: os.getpgid(self.process.pid or 0) == self.process.pid or not self.process.is_alive())
        os.killpg(self.process.pid, number)

    def finish(self) -> int:
        """Wait for the end, and return the exit status; negative for a signal."""
        self.process.join(LONG)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"the process did not end:\n{self.output}")
        assert "Traceback" not in self.output, self.output
        return self.process.exitcode


def run_ranks(function: Callable[..., None], *arguments: object) -> None:
    """Call ``function(rank, *arguments)`` in two processes, as ``torch.multiprocessing.spawn`` does, which imports everything anew."""
    from torch.multiprocessing.spawn import start_processes

    start_processes(function, arguments, nprocs=2, start_method="forkserver")


def _run(target: Callable[[], object] | list[object], log: Path, dies_at: tuple[int, str] | None) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(opened, 1)
    os.dup2(opened, 2)
    os.environ["HF_HUB_OFFLINE"] = "1"
    if dies_at is not None:
        _die_at(*dies_at)
    if callable(target):
        target()
        return
    run_actratio(target)


def run_actratio(arguments: list[object]) -> None:
    """Run ``actratio`` with arguments in this process, with empty figures."""
    from actratio import cli
    from actratio.report import static

    static.draw_chart = blank_figure
    sys.argv = ["actratio", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        raise


def _die_at(number: int, moment: str) -> None:
    replace, written = os.replace, 0

    def counted(source: Any, target: Any) -> None:
        nonlocal written
        is_last, written = written == number, written + 1
        if is_last and moment == "halfway":
            os.truncate(source, Path(source).stat().st_size // 2)
        if is_last and moment != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counted  # type: ignore[assignment]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "nothing happened for two minutes"
        time.sleep(0.01)


def is_there(folder: Path, pattern: str, count: int = 1) -> Callable[[], bool]:
    """Return a condition: a folder has so many files of a pattern."""
    return lambda: len(list(folder.glob(pattern))) >= count
