"""Ctrl-C once and twice, SIGTERM and a closed terminal: a sentence, complete files, and the same table afterwards."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from actratio.cli.interrupts import SIGNALS
from actratio.studies.folder import RunFolder
from tests.faults.processes import Command, is_there, wait_until
from tests.faults.toy import run_toy, toy_command, toy_table
from tests.scale.shards import counts


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_study_stops_with_a_sentence(toy_expected: pd.DataFrame, tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "run"
    command = Command(partial(toy_command, folder, 0.05), tmp_path / "log")
    wait_until(is_there(folder, "neurons/*.safetensors"))
    command.send(number)
    assert command.finish() == 128 + number
    assert "stopped: " in command.output
    assert "of 4 sums finished and kept in" in command.output
    assert Command(partial(run_toy, folder), tmp_path / "again.log").finish() == 0
    pd.testing.assert_frame_equal(toy_table(folder), toy_expected)


@pytest.mark.parametrize("number", [signal.SIGINT], ids=lambda number: number.name)
def test_a_measurement_stops_with_a_sentence(
    measuring: Callable[[Path], list[object]], tmp_path: Path, number: signal.Signals
) -> None:
    assert Command([*measuring(tmp_path / "whole"), "--batch-size", 1], tmp_path / "whole.log").finish() == 0
    command = Command([*measuring(tmp_path / "out"), "--batch-size", 1], tmp_path / "log")
    wait_until(is_there(tmp_path / "out", "shards/*.safetensors"))
    command.send(number)
    assert command.finish() == 128 + number
    assert "stopped; no file is half-written; run the same command again" in command.output
    assert Command([*measuring(tmp_path / "out"), "--batch-size", 1], tmp_path / "again.log").finish() == 0
    assert counts(tmp_path / "out") == counts(tmp_path / "whole")


def test_the_second_interrupt_ends_at_once(toy_expected: pd.DataFrame, tmp_path: Path) -> None:
    """The first one is slow to stop, because stopping waits for something."""
    folder = tmp_path / "run"
    command = Command(partial(slow_to_stop, folder), tmp_path / "log")
    wait_until(is_there(folder, "neurons/*.safetensors"))
    command.send(signal.SIGINT)
    wait_until(lambda: "stopping" in command.output)
    command.send(signal.SIGINT)
    assert command.finish() == 130
    assert "stopped at once; no file is half-written; run the same command again" in command.output
    assert Command(partial(run_toy, folder), tmp_path / "again.log").finish() == 0
    pd.testing.assert_frame_equal(toy_table(folder), toy_expected)


def slow_to_stop(folder: Path) -> None:
    """Run the toy study in a folder whose lock takes long to release."""
    working = RunFolder.working

    @contextmanager
    def slow(self: RunFolder) -> Iterator[None]:
        with working(self):
            try:
                yield
            finally:
                print("stopping", flush=True)
                time.sleep(1000)

    RunFolder.working = slow  # type: ignore[method-assign]
    toy_command(folder, 0.05)


def test_a_signal_that_is_ignored_stays_ignored(toy_expected: pd.DataFrame, tmp_path: Path) -> None:
    """So does nohup."""
    folder = tmp_path / "run"
    command = Command(partial(without_hang_up, folder), tmp_path / "log")
    wait_until(is_there(folder, "neurons/*.safetensors"))
    command.send(signal.SIGHUP)
    assert command.finish() == 0
    pd.testing.assert_frame_equal(toy_table(folder), toy_expected)


def without_hang_up(folder: Path) -> None:
    """Run the toy study while the closing of the terminal is ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    toy_command(folder, 0.05)
