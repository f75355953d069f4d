"""Ray's processes killed one by one: the driver, a worker, the node."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from actratio.files import read_table
from tests.faults.processes import Command, is_there, wait_until
from tests.scale.shards import counts

pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = pytest.mark.slow

RAY = ["--executor", "ray", "--workers", 2]
VICTIMS = ("driver", "worker", "node")


def parts_of_ray(command: Command) -> list[psutil.Process]:
    """Return the processes that a command started, and theirs."""
    try:
        return psutil.Process(command.process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill(command: Command, victim: str) -> None:
    """Kill one of the processes."""
    if victim == "driver":
        os.kill(command.process.pid or 0, signal.SIGKILL)
        return
    names = {"worker": "ray::_Worker", "node": "raylet"}
    (found, *_) = (part for part in parts_of_ray(command) if part.name().startswith(names[victim]))
    found.kill()


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_measurement(measuring: Callable[[Path], list[object]], expected: Any, tmp_path: Path, victim: str) -> None:
    out = tmp_path / "out"
    command = Command([*measuring(out), *RAY], tmp_path / "log")
    wait_until(is_there(out, "shards/*.safetensors"))
    started = parts_of_ray(command)
    kill(command, victim)
    status = command.finish()
    assert status == 0 or victim != "worker"  # whose shard another worker measures
    if status != 0:
        assert Command([*measuring(out), *RAY], tmp_path / "again.log").finish() == 0
    assert counts(out) == expected
    wait_until(lambda: not any(part.is_running() and part.status() != psutil.STATUS_ZOMBIE for part in started))


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_study(real_data: Path, tmp_path: Path, victim: str) -> None:
    arguments = ["study", "mlp", "--quick", "--data-dir", real_data, "--out"]
    assert Command([*arguments, tmp_path / "expected"], tmp_path / "expected.log").finish() == 0
    out = tmp_path / "out"
    command = Command([*arguments, out, *RAY], tmp_path / "log")
    wait_until(is_there(out, "neurons/*.safetensors"))
    kill(command, victim)
    if command.finish() != 0:
        assert Command([*arguments, out, *RAY], tmp_path / "again.log").finish() == 0
    found, expected = (read_table(folder / "results.parquet")[0] for folder in (out, tmp_path / "expected"))
    assert found.equals(expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stopped_measurement_leaves_no_process_behind(
    measuring: Callable[[Path], list[object]], tmp_path: Path, number: signal.Signals
) -> None:
    command = Command([*measuring(tmp_path / "out"), *RAY], tmp_path / "log")
    wait_until(is_there(tmp_path / "out", "shards/*.safetensors"))
    started = parts_of_ray(command)
    assert started
    command.send(number)
    assert command.finish() == 128 + number
    assert "stopped; no file is half-written" in command.output
    wait_until(lambda: not any(part.is_running() and part.status() != psutil.STATUS_ZOMBIE for part in started))
