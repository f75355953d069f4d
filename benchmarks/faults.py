"""What is lost when a command is killed: a study and a measurement, killed with SIGKILL at random moments.

Each time, the command starts in a new folder and is killed, with all its processes, after a random time that is shorter than an undisturbed
run takes. Then the same command runs again, and the table that it ends with is compared with the undisturbed run's: every number must be
the same. The random moments are drawn with ``--seed``.

    python benchmarks/faults.py [--kills 20] [--seed 0] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import actratio
from actratio.files import read_table
from machine import machine, matmul_rate, show
from scale import write_corpus, write_model

LATEST = 1.1
"""Moments are drawn up to this share of the time of an undisturbed run."""


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start ``actratio`` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "actratio", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def finish(arguments: list[str]) -> float:
    """Run ``actratio`` to its end, and return the seconds that it took."""
    begun = time.monotonic()
    process = start(arguments)
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"actratio {' '.join(arguments)} failed:\n{said.decode()}")
    return time.monotonic() - begun


def study_table(folder: Path) -> Any:
    """Return the table of a study, as text with all digits, in which missing values are alike."""
    return read_table(folder / "results.parquet")[0].to_csv(index=False, float_format="%.17g")


def measured_counts(folder: Path) -> Any:
    """Return all integers of a measurement."""
    return [{name: value.tolist() for name, value in row.counts.to_arrays().items()} for row in actratio.load(folder)]


def kill_and_resume(
    name: str, arguments: list[str], result: Callable[[Path], Any], kills: int, draw: random.Random, folder: Path
) -> list[dict[str, Any]]:
    """Kill a command so many times, each in a folder of its own, and finish it."""
    whole = finish([*arguments, "--out", str(folder / f"{name}-expected")])
    expected = result(folder / f"{name}-expected")
    rows = []
    for number in range(kills):
        out = folder / f"{name}-{number}"
        moment = draw.uniform(0.0, LATEST * whole)
        process = start([*arguments, "--out", str(out)])
        time.sleep(moment)
        was_running = process.poll() is None
        if was_running:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        there = sum(path.is_file() for path in out.rglob("*")) if out.exists() else 0
        seconds = finish([*arguments, "--out", str(out)])
        rows.append(
            {
                "command": name,
                "killed_after_s": round(moment, 2),
                "was_running": was_running,
                "files_there": there,
                "resumed_s": round(seconds, 2),
                "identical": result(out) == expected,
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def main() -> None:
    """Kill both commands, and print what was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measuring = [
            "measure",
            str(write_model(folder)),
            "--data",
            str(write_corpus(folder, 200)),
            "--shard-rows",
            "10",
        ]
        rows = kill_and_resume("study", ["study", "mlp", "--quick"], study_table, given.kills, draw, folder)
        rows += kill_and_resume("measurement", measuring, measured_counts, given.kills, draw, folder)
    lost = sum(not row["identical"] for row in rows)
    goals = [{"goal": "tables that differ from the undisturbed run's", "measured": float(lost), "met": lost == 0}]
    if given.json:
        device = torch.device("cpu")
        print(json.dumps({"machine": machine(device, matmul_rate(device)), "rows": rows, "goals": goals}, indent=2))
        return
    show(rows, goals, 120)


if __name__ == "__main__":
    main()
