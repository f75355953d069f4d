"""A disk that is full: one sentence, no file that is half-written, and the same table once there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.faults.processes import Command
from tests.faults.toy import toy_command, toy_table
from tests.scale.shards import counts

FULL = "the disk is full; make room and run the same command again: it continues where it stopped"


class Disk:
    """A small disk in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, kilobytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", self.path], check=True, capture_output=True)

    def half_written(self) -> list[Path]:
        return [path for path in self.path.rglob(".*") if path.is_file() and not path.name.endswith("lock")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount a disk of 16 kB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", path], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a disk can't be mounted here ({mounted.stderr.strip()}); run this test as root")
    yield Disk(path)
    subprocess.run(["umount", "-l", path], check=True)


def until_it_fits(start: Callable[[], Command], disk: Disk, sizes: list[int]) -> int:
    """Run a command again and again on a growing disk; return how often the disk was full."""
    for number, size in enumerate(sizes):
        disk.resize(size)
        command = start()
        if command.finish() == 0:
            return number
        assert command.output.splitlines()[-1] == f"failed: {FULL}", command.output
        assert "Error" not in command.output
        assert not disk.half_written()
        command.log.unlink()
    raise AssertionError("the disk was always too small")


def test_a_study_goes_on_when_there_is_room(disk: Disk, toy_expected: pd.DataFrame, tmp_path: Path) -> None:
    folder = disk.path / "run"
    start = partial(Command, partial(toy_command, folder), tmp_path / "log")
    assert until_it_fits(start, disk, [4, 12, 20, 28, 36, 44, 52, 8_000]) >= 4
    pd.testing.assert_frame_equal(toy_table(folder), toy_expected)


def test_a_measurement_goes_on_when_there_is_room(
    disk: Disk, measuring: Callable[[Path], list[object]], expected: Any, tmp_path: Path
) -> None:
    out = disk.path / "out"
    start = partial(Command, measuring(out), tmp_path / "log")
    assert until_it_fits(start, disk, [4, 16, 40, 120, 8_000]) >= 3
    assert counts(out) == expected
