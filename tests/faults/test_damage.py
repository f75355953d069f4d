"""Every file of a finished run, cut short or with one changed bit: computed again, or refused with a sentence, but never believed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.faults.processes import Command
from tests.faults.toy import run_toy, toy_command, toy_table
from tests.scale.shards import counts

REFUSED = 2


def cut(path: Path) -> None:
    """Keep the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {"cut": cut, "flipped": flip}


def files_of(folder: Path) -> list[Path]:
    """Return the files of a folder, without locks."""
    return [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_study(toy_expected: pd.DataFrame, tmp_path: Path, damage: str) -> None:
    whole = tmp_path / "whole"
    assert Command(partial(run_toy, whole), tmp_path / "log").finish() == 0
    files = files_of(whole)
    assert len(files) == 7  # settings, times, table, and four units
    for number, file in enumerate(files):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        DAMAGES[damage](folder / file)
        command = Command(partial(toy_command, folder), tmp_path / f"{number}.log")
        if command.finish() == REFUSED:
            assert file.name == "settings.json"
            assert f"{file} is damaged" in command.output
        else:
            pd.testing.assert_frame_equal(toy_table(folder), toy_expected)


@pytest.mark.parametrize("damage", [pytest.param("cut", marks=pytest.mark.slow), "flipped"])
def test_a_measurement_in_shards(
    measuring: Callable[[Path], list[object]], expected: Any, tmp_path: Path, damage: str
) -> None:
    whole = tmp_path / "whole"
    assert Command(measuring(whole), tmp_path / "log").finish() == 0
    files = [file for file in files_of(whole) if file.suffix in (".json", ".safetensors")]
    assert len(files) == 14  # ten shards, the manifest, the settings, and the two files of the whole
    for number, file in enumerate(files[:2] + files[-3:]):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        DAMAGES[damage](folder / file)
        command = Command(measuring(folder), tmp_path / f"{number}.log")
        if command.finish() == REFUSED:
            assert file.name in ("manifest.json", "settings.json")
            assert command.output.startswith("error:")
            assert str(folder / file) in command.output or "other settings" in command.output
        else:
            assert counts(folder) == expected
