"""Two commands in one folder, and a clock that jumps."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from tests.faults.processes import Command, is_there, wait_until
from tests.faults.toy import run_toy, toy_command, toy_table
from tests.scale.shards import counts

REFUSED = 2


def test_a_second_study_in_the_folder_is_refused(toy_expected: pd.DataFrame, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = Command(partial(toy_command, folder, 0.1), tmp_path / "first.log")
    wait_until(is_there(folder, "checkpoints/*.safetensors"))
    first.send(signal.SIGSTOP)  # else it may end before the second has begun
    try:
        second = Command(partial(toy_command, folder), tmp_path / "second.log")
        assert second.finish() == REFUSED
        assert "is in use by another process; wait for it" in second.output
    finally:
        first.send(signal.SIGCONT)
    assert first.finish() == 0
    pd.testing.assert_frame_equal(toy_table(folder), toy_expected)


def test_studies_that_start_together(toy_expected: pd.DataFrame, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    together = [Command(partial(toy_command, folder), tmp_path / f"{number}.log") for number in range(4)]
    statuses = [command.finish() for command in together]
    assert 0 in statuses
    assert set(statuses) <= {0, REFUSED}
    pd.testing.assert_frame_equal(toy_table(folder), toy_expected)


def test_a_second_measurement_and_a_merge_in_the_folder(
    measuring: Callable[[Path], list[object]], expected: Any, tmp_path: Path
) -> None:
    """The second is refused, also with --force; merging shows what is there, and disturbs nothing."""
    out = tmp_path / "out"
    first = Command(measuring(out), tmp_path / "first.log")
    wait_until(is_there(out, "shards/0.safetensors"))
    first.send(signal.SIGSTOP)
    try:
        for more in ([], ["--force"]):
            second = Command([*measuring(out), *more], tmp_path / f"second{len(more)}.log")
            assert second.finish() == REFUSED
            assert "is in use by another process" in second.output
        merging = Command(["merge", out], tmp_path / "merge.log")
        assert merging.finish() == 1
        assert "Covered: " in merging.output
    finally:
        first.send(signal.SIGCONT)
    assert first.finish() == 0
    assert counts(out) == expected


def test_parts_that_start_together(measuring: Callable[[Path], list[object]], expected: Any, tmp_path: Path) -> None:
    """All of them want to make the manifest."""
    out = tmp_path / "out"
    parts = [Command([*measuring(out), "--shards", f"{part}/3"], tmp_path / f"{part}.log") for part in (1, 2, 3)]
    assert [part.finish() for part in parts] == [0, 0, 0]
    assert Command(["merge", out], tmp_path / "merge.log").finish() == 0
    assert counts(out) == expected


def with_wrong_clock(target: Callable[[], object]) -> None:
    """Call ``target`` with a clock that jumps by years, back and forth."""
    draw = random.Random(0)
    time.time = lambda: draw.uniform(0, 4e9)
    target()


def test_a_clock_that_jumps(toy_expected: pd.DataFrame, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = partial(with_wrong_clock, partial(run_toy, folder))
    assert Command(run, tmp_path / "log", dies_at=(9, "after")).finish() == -signal.SIGKILL
    assert Command(run, tmp_path / "log").finish() == 0
    pd.testing.assert_frame_equal(toy_table(folder), toy_expected)


def measure_with_wrong_clock(arguments: list[object]) -> None:
    import sys

    from actratio import cli

    sys.argv = ["actratio", *map(str, arguments)]
    with_wrong_clock(cli.main)


def test_a_clock_that_jumps_while_measuring(
    measuring: Callable[[Path], list[object]], expected: Any, tmp_path: Path
) -> None:
    run = partial(measure_with_wrong_clock, measuring(tmp_path / "out"))
    assert Command(run, tmp_path / "log", dies_at=(4, "after")).finish() == -signal.SIGKILL
    assert Command(run, tmp_path / "log").finish() == 0
    assert counts(tmp_path / "out") == expected
