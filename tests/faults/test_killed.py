"""A process that is killed at any file that it writes: the next run ends with the same table."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.faults.processes import MOMENTS, Command
from tests.faults.toy import run_toy, toy_table
from tests.scale.shards import counts

KILLED = -9
SOME = [pytest.param("before", marks=pytest.mark.slow), "halfway", pytest.param("after", marks=pytest.mark.slow)]


@pytest.mark.parametrize("moment", SOME)
def test_a_study_killed_at_every_file_it_writes(toy_expected: pd.DataFrame, tmp_path: Path, moment: str) -> None:
    """It is killed at its first file; the next run in another folder at its second, and so on to the last."""
    killed = 0
    while True:
        run = partial(run_toy, tmp_path / f"run-{killed}")
        status = Command(run, tmp_path / "log", dies_at=(killed, moment)).finish()
        if status == 0:
            break
        assert status == KILLED
        assert Command(run, tmp_path / "log").finish() == 0
        pd.testing.assert_frame_equal(toy_table(tmp_path / f"run-{killed}"), toy_expected)
        assert not list((tmp_path / f"run-{killed}").rglob(".*.*.*"))  # nothing half-written is left
        killed += 1
    assert killed > 20  # settings, checkpoints, units, times and tables


def test_a_study_killed_again_and_again_in_one_folder(toy_expected: pd.DataFrame, tmp_path: Path) -> None:
    """Each run gets a little further, and the last one finishes."""
    run = partial(run_toy, tmp_path / "run")
    killed = 0
    while Command(run, tmp_path / "log", dies_at=(2, MOMENTS[killed % 3])).finish() == KILLED:
        killed += 1
    assert killed >= 5
    pd.testing.assert_frame_equal(toy_table(tmp_path / "run"), toy_expected)


def measure_killed(
    measuring: Callable[[Path], list[object]], expected: Any, folder: Path, dies_at: tuple[int, str]
) -> bool:
    """Kill a measurement and run it again; return whether it was killed."""
    out = folder / f"{dies_at[0]}-{dies_at[1]}"
    status = Command(measuring(out), folder / "log", dies_at=dies_at).finish()
    assert status in (0, KILLED)
    if status == KILLED:
        assert Command(measuring(out), folder / "log").finish() == 0
    assert counts(out) == expected
    return status == KILLED


def test_a_measurement_killed_at_some_of_the_files_it_writes(
    measuring: Callable[[Path], list[object]], expected: Any, tmp_path: Path
) -> None:
    """A shard, and the files of the result. The slow test takes every file."""
    for dies_at in ((6, "halfway"), (13, "before")):
        assert measure_killed(measuring, expected, tmp_path, dies_at)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_measurement_killed_at_every_file_it_writes(
    measuring: Callable[[Path], list[object]], expected: Any, tmp_path: Path, moment: str
) -> None:
    killed = 0
    while measure_killed(measuring, expected, tmp_path, (killed, moment)):
        killed += 1
    assert killed > 13


def test_a_measurement_of_one_text_killed_at_random_moments(
    measuring: Callable[[Path], list[object]], tmp_path: Path
) -> None:
    """Without shards, the counts so far are in a file that is saved every 30 seconds; here, after every batch."""
    model_and_data = measuring(tmp_path / "out")
    model = model_and_data[1]
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"the king and {number} foxes" for number in range(200)), encoding="utf-8")
    command = ["measure", model, "--text", text, "--length", 8, "--batch-size", 2, "--out"]
    assert Command([*command, tmp_path / "expected"], tmp_path / "log").finish() == 0
    draw = random.Random(0)
    out = tmp_path / "killed"
    statuses = [
        Command([*command, out], tmp_path / "log", dies_at=(draw.randrange(2), moment)).finish() for moment in MOMENTS
    ]
    assert KILLED in statuses
    assert Command([*command, out], tmp_path / "log").finish() == 0
    assert counts(out) == counts(tmp_path / "expected")
