"""What stays flat over a long time: memory, hooks, and the time for each unit of a study.

Three parts, each in its own process:

- **stream**: ``measure`` reads a stream for an hour. The stream repeats the same batches, of many shapes and with padding, so the
  counts of the whole must be those of one round, merged with themselves as often as there were rounds.
- **attach**: 10,000 times, a ``Probe`` and a ``Tracker`` are attached to a model, count a pass or a step, and are removed.
- **units**: a study of 10,000 units. The table is written again as units finish, which must not take longer for each unit the
  more there are.

    python benchmarks/soak.py [--minutes 60] [--attachments 10000] [--units 10000] [--json]
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import actratio
from actratio import Measurement, Probe, Tracker, find_sites, measure
from actratio.report.findings import Findings
from actratio.studies import Study
from actratio.studies.base import Arrays, Checkpoint, Unit
from actratio.studies.runner import Runner
from machine import machine, matmul_rate, show

ROUND = 40
"""Batches of one round of the stream."""
WARM_UP = 0.1
"""Share of the time, or of the attachments, that memory may take to settle."""
MOST_GROWTH = 0.02
"""Memory may grow by this share after the warm-up."""
MOST_SLOWDOWN = 1.5
"""A unit among 10,000 may take so many times as long as one among 1,000."""


def resident() -> float:
    """Return the resident memory of this process in megabytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def one_round() -> list[dict[str, Tensor]]:
    """Return batches of many shapes, with padding."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for number in range(ROUND):
        shape = 1 + number % 5, 3 + 7 * number % 61
        mask = torch.ones(shape, dtype=torch.long)
        mask[0, : shape[1] // 3] = 0
        batches.append({"input_ids": torch.randint(0, 500, shape, generator=generator), "attention_mask": mask})
    return batches


def gpt2() -> nn.Module:
    """Return a small GPT-2 with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=500, n_positions=128, n_embd=64, n_layer=4, n_head=4)).eval()


def stream(minutes: float) -> dict[str, Any]:
    """Measure a stream for so many minutes, and look at the memory."""
    model, batches = gpt2(), one_round()
    samples: list[tuple[float, float]] = []
    rounds = 0
    start = time.monotonic()

    def endless() -> Iterator[dict[str, Tensor]]:
        nonlocal rounds
        while time.monotonic() - start < 60 * minutes:
            yield from batches
            rounds += 1
            if not samples or time.monotonic() - start - samples[-1][0] > min(5.0, minutes):
                samples.append((time.monotonic() - start, resident()))

    criteria = ["positive", "above(0.1)"]
    with tempfile.TemporaryDirectory() as folder:
        whole = measure(model, endless(), criteria=criteria, partial=Path(folder) / "partial")
    seconds = time.monotonic() - start
    settled = [megabytes for moment, megabytes in samples if moment > WARM_UP * seconds]
    tenth = max(1, len(settled) // 10)
    expected = repeated(measure(model, batches, criteria=criteria), rounds)
    return {
        "part": "stream",
        "minutes": seconds / 60,
        "batches": rounds * ROUND,
        "tokens": max(row.counts.tokens for row in whole),
        "early_mb": median(settled[:tenth]),
        "late_mb": median(settled[-tenth:]),
        "same_counts": same_counts(whole, expected),
        "samples": [
            [round(moment), round(megabytes, 1)] for moment, megabytes in samples[:: max(1, len(samples) // 60)]
        ],
    }


def repeated(measurement: Measurement, times: int) -> Measurement:
    """Return a measurement merged with itself, so that it is counted this many times."""
    together, power = None, measurement
    while times:
        if times % 2:
            together = power if together is None else together.merge(power)
        power, times = power.merge(power), times // 2
    assert together is not None
    return together


def same_counts(left: Measurement, right: Measurement) -> bool:
    """Return whether all integers of two measurements are the same."""
    for mine, other in zip(left, right, strict=True):
        arrays, others = mine.counts.to_arrays(), other.counts.to_arrays()
        if arrays.keys() != others.keys() or any(not np.array_equal(arrays[name], others[name]) for name in arrays):
            return False
    return True


def attach(times: int) -> dict[str, Any]:
    """Attach probes and trackers to a model, and remove them again."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = torch.randn(8, 16)
    sites = find_sites(model, x)
    before = hooks_of(model, optimizer)
    early: tuple[float, int] = (0.0, 0)
    for number in range(times):
        with Probe(model, sites), torch.no_grad():
            model(x)
        with Tracker(model, every=1) as tracker:
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert tracker.steps == 1
        if number == int(WARM_UP * times):
            gc.collect()
            early = resident(), len(gc.get_objects())
    gc.collect()
    return {
        "part": "attach",
        "attachments": 2 * times,
        "early_mb": early[0],
        "late_mb": resident(),
        "early_objects": early[1],
        "late_objects": len(gc.get_objects()),
        "hooks_left": hooks_of(model, optimizer) - before,
    }


def hooks_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Count the hooks on a model and on its optimizer."""
    owners: list[Any] = [optimizer, *model.modules()]
    return sum(
        len(value)
        for owner in owners
        for name, value in vars(owner).items()
        if "hooks" in name and hasattr(value, "__len__")
    )


@dataclass(frozen=True)
class ManyUnits(Study):
    """A study that has nothing to do, so that what is timed is the runner."""

    name: ClassVar[str] = "many"
    summary: ClassVar[str] = "A study of many units."
    unit_noun: ClassVar[str] = "unit"
    columns: ClassVar[tuple[str, ...]] = ("unit", "layer", "active")

    count: int = 10

    def settings(self) -> dict[str, Any]:
        return {"study": self.name, "count": self.count}

    def units(self) -> list[Unit]:
        return [Unit(f"unit-{number}", 1.0, {"number": number}) for number in range(self.count)]

    def run(self, unit: Unit, checkpoint: Checkpoint) -> Arrays:
        return {"active": torch.arange(4) + unit.parameters["number"]}

    def frame(self, unit: Unit, arrays: Arrays) -> pd.DataFrame:
        return pd.DataFrame({"unit": unit.name, "layer": range(4), "active": arrays["active"].numpy()})

    def quick(self) -> ManyUnits:
        return self

    def folder_name(self) -> str:
        return "many"

    def announce(self) -> list[str]:
        return []

    @staticmethod
    def analyse(frame: pd.DataFrame, settings: Any, published: Any) -> Findings:
        return Findings("Many", "Many units.", ["There are many."])


def units(count: int) -> list[dict[str, Any]]:
    """Run a study with a tenth of the units and with all of them, from nothing and once more when all are finished."""
    rows = []
    for number in (count // 10, count):
        with tempfile.TemporaryDirectory() as folder:
            seconds, again = timed_run(ManyUnits(number), Path(folder)), timed_run(ManyUnits(number), Path(folder))
            assert len(Runner(ManyUnits(number), Path(folder)).frame()) == 4 * number
        rows.append(
            {
                "part": "units",
                "units": number,
                "ms_per_unit": seconds / number * 1e3,
                "again_ms_per_unit": again / number * 1e3,
            }
        )
    return rows


def timed_run(study: Study, folder: Path) -> float:
    """Return the seconds that it takes to run a study in a folder, or what isn't finished of it."""
    start = time.perf_counter()
    Runner(study, folder).execute()
    return time.perf_counter() - start


def goals_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what was asked of the parts that ran, and whether it is met."""
    goals = []
    for row in rows:
        if "late_mb" in row:
            growth = row["late_mb"] / row["early_mb"] - 1
            goals.append(
                _goal(
                    f"{row['part']}: memory grows by less than {MOST_GROWTH:.0%} after the warm-up",
                    growth,
                    growth < MOST_GROWTH,
                )
            )
        if row["part"] == "stream":
            wrong = float(not row["same_counts"])
            goals.append(
                _goal(
                    "stream: the counts are those of one round, as often as there were rounds (wrong tables)",
                    wrong,
                    not wrong,
                )
            )
        if row["part"] == "attach":
            goals.append(
                _goal("attach: hooks left on the model and its optimizer", row["hooks_left"], row["hooks_left"] == 0)
            )
            more = row["late_objects"] - row["early_objects"]
            goals.append(_goal("attach: more Python objects than after the warm-up, at most 100", more, more <= 100))
    few, many = ([row for row in rows if row["part"] == "units"] or [None, None])[:2]
    if few is not None and many is not None:
        for column, what in (("ms_per_unit", "from nothing"), ("again_ms_per_unit", "when all are finished")):
            ratio = many[column] / few[column]
            goals.append(
                _goal(
                    f"units, {what}: a unit of {many['units']:,} takes at most {MOST_SLOWDOWN} times as long as one of {few['units']:,}",
                    ratio,
                    ratio <= MOST_SLOWDOWN,
                )
            )
    return goals


def _goal(goal: str, measured: float, met: bool) -> dict[str, Any]:
    return {"goal": goal, "measured": float(measured), "met": bool(met)}


def _answer(run: Callable[[Any], Any], argument: Any, queue: Any) -> None:
    torch.set_num_threads(1)
    queue.put(run(argument))


def in_own_process(run: Callable[[Any], Any], argument: Any) -> list[dict[str, Any]]:
    """Run a part in a new process, and return its rows."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_answer, args=(run, argument, queue))
    child.start()
    while queue.empty():
        child.join(1)
        if child.exitcode:
            raise SystemExit(f"the part {run.__name__} failed with exit status {child.exitcode}")
    rows = queue.get()
    child.join()
    return rows if isinstance(rows, list) else [rows]


def main() -> None:
    """Run the parts, and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="of the stream; 0 leaves it out")
    parser.add_argument("--attachments", type=int, default=10_000, help="of a probe and a tracker; 0 leaves them out")
    parser.add_argument("--units", type=int, default=10_000, help="of the study; 0 leaves it out")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for run, amount in ((attach, given.attachments), (units, given.units), (stream, given.minutes)):
        if amount:
            rows += in_own_process(run, amount)
            print(f"{run.__name__} is done", file=sys.stderr)
    goals = goals_of(rows)
    device = torch.device("cpu")
    if given.json:
        print(json.dumps({"machine": machine(device, matmul_rate(device)), "rows": rows, "goals": goals}, indent=2))
        return
    for row in rows:
        show([{name: value for name, value in row.items() if name != "samples"}], [], 120)
    show([{"actratio": actratio.__version__}], goals, 120)


if __name__ == "__main__":
    main()
