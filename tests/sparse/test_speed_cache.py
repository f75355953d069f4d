"""Measured speeds are kept in the user's cache folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from actratio.sparse.crossover import BATCHES, RATIOS, ShapeSpeeds
from actratio.sparse.speed_cache import cache_folder, cached_speeds, keep_speeds, machine_key

SPEEDS = ShapeSpeeds((tuple(2.0 / (place + 1) for place in range(len(RATIOS))),) * len(BATCHES), (1.0,) * len(BATCHES))
KEY: dict[str, Any] = {"shape": [3, 4], "threads": 2}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACTRATIO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "speeds"


def test_speeds_come_back_exactly(folder: Path) -> None:
    assert cached_speeds(KEY) is None
    keep_speeds(KEY, SPEEDS)
    assert cached_speeds(KEY) == SPEEDS
    assert cached_speeds({**KEY, "threads": 1}) is None
    assert [path.parent for path in folder.iterdir()] == [cache_folder()]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(dense=[1.0]),
        lambda content: content.update(dense=["1"] * len(BATCHES)),
        lambda content: content.update(dense=[0.0] * len(BATCHES)),
        lambda content: content["sparse"].pop(),
        lambda content: content.pop("sparse"),
        lambda content: content["key"].update(threads=3),
    ],
)
def test_damaged_files_are_measured_again(folder: Path, change: Any) -> None:
    keep_speeds(KEY, SPEEDS)
    (file,) = folder.iterdir()
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    assert cached_speeds(KEY) is None
    file.write_text("[" * 10)
    assert cached_speeds(KEY) is None
    keep_speeds(KEY, SPEEDS)
    assert cached_speeds(KEY) == SPEEDS


def test_a_folder_that_cannot_be_written_to_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ACTRATIO_CACHE", str(tmp_path / "file"))
    keep_speeds(KEY, SPEEDS)
    assert cached_speeds(KEY) is None


def test_what_speeds_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    key = machine_key(torch.device("cpu"))
    assert json.loads(json.dumps(key)) == key
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert machine_key(torch.device("cpu")) != key
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr("actratio.sparse.speed_cache.version", lambda package: "0")
    assert machine_key(torch.device("cpu")) != key
