"""What tracking a training run costs: steps that nothing watches, with ours, and with other ways to watch a model.

A model of GPT-2 small's shape with random weights, 2 × 64 tokens, and an MLP 784-1024-1024-10, batch 128, are trained
with AdamW on the CPU, in eager mode and compiled. In each round every contestant takes a step in which it reads and a
step between two readings. Before and after these steps, a step runs that nothing watches, and the ratio to the mean of
the two is taken. Work that readings put off until several are done together is timed too, and added to the step with a
reading. The overhead of a schedule is the mean of the two ratios by their share of the steps, less one: for every = 50,
(reading + 49 · between) / 50 − 1. Compared are medians over the rounds, with 95% intervals of the median. Steps that
nothing watches are compared with each other as well, which shows the noise.

Memory is a process's own, in a process for each contestant: its resident memory after 1,000 and 10,000 steps of the
MLP, and its peak after three steps of GPT-2.

    python benchmarks/tracker.py [--rounds 6] [--mlp-rounds 150] [--steps 10000] [--json]
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._dynamo.utils import counters

from actratio.tracking.schedule import to_schedule
from machine import machine, matmul_rate
from watchers import HOOK, NORMS, OURS, TASKS, WATCHERS, Task, Training, Watcher, make, mlp, nothing

SCHEDULES: tuple[int | str, ...] = (1, 10, 50, "log")
LOG_STEPS = 10_000
"""Length of the training for which the cost of log-spaced readings is given."""
ALONE = "nothing"
NOISE = "nothing, against itself"
WARM_UP = 1

Step = Callable[[Tensor, Tensor], None]


def share_of_readings(every: int | str) -> float:
    """Return the share of steps in which a reading is taken, for log-spaced readings among the first ``LOG_STEPS``."""
    if isinstance(every, int):
        return 1 / every
    is_read = to_schedule(every)
    return sum(is_read(step) for step in range(1, LOG_STEPS + 1)) / LOG_STEPS


def amortised(reading: Sequence[float], between: Sequence[float], every: int | str) -> list[float]:
    """Return, for each round, the mean overhead of a step.

    Args:
        reading, between: for each round, the time of a step with and without a reading, as a ratio to one that nothing
            watches.
    """
    share = share_of_readings(every)
    return [share * a + (1 - share) * b - 1 for a, b in zip(reading, between, strict=True)]


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the interval of order statistics that contains the median with at least this probability.

    NaN if there are too few values.
    """
    ordered, count = sorted(values), len(values)
    tail, rank = 0.0, 0  # ``rank`` values are left out on either side
    while rank < count // 2:
        tail += math.comb(count, rank) / 2**count
        if tail > (1 - level) / 2:
            break
        rank += 1
    return (math.nan, math.nan) if rank == 0 else (ordered[rank - 1], ordered[count - rank])


@dataclass
class Slot:
    """A contestant's kind of step, and what was seen of it.

    Attributes:
        seconds, ratios: for each round, its time and the ratio to that of the steps around it that nothing watches.
        breaks: graph breaks.
        graphs: graphs compiled after its first step.
    """

    run: Step
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    breaks: int = 0
    graphs: int = 0
    runs: int = 0

    def timed(self, x: Tensor, y: Tensor) -> float:
        """Run a step, watch the compiler, and return the seconds."""
        breaks, graphs = sum(counters["graph_break"].values()), counters["stats"]["unique_graphs"]
        start = time.perf_counter()
        self.run(x, y)
        elapsed = time.perf_counter() - start
        self.breaks += sum(counters["graph_break"].values()) - breaks
        if self.runs:
            self.graphs += counters["stats"]["unique_graphs"] - graphs
        self.runs += 1
        return elapsed


def compare(task: Task, name: str, compiled: bool, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each contestant and schedule."""
    mode = "compiled" if compiled else "eager"
    with ExitStack() as stack:
        training = Training(task, compiled=compiled)
        watchers: dict[str, Watcher] = {}
        contestants: dict[str, list[Slot]] = {}
        for which in WATCHERS:
            try:
                watcher = make(which, training, stack)
                slots = [Slot(run) for run in (watcher.between, watcher.reading) if run is not None]
                for slot in slots:
                    slot.timed(*task.batch())  # compiles
            except Exception as error:
                if which == OURS:
                    raise
                # Another library may not work with this model.
                print(f"{name}, {mode}, {which} left out: {type(error).__name__}: {error}", file=sys.stderr)
                continue
            watchers[which], contestants[which] = watcher, slots
        alone = Slot(nothing(training))
        run_rounds(task, alone, list(contestants.values()), rounds)
        later = watchers[OURS].later
        assert later is not None
        deferred = {OURS: later()}
        check_readings(task, watchers[OURS], *contestants[OURS])
    rows = []
    for which, slots in {**contestants, NOISE: [alone]}.items():
        about = {"model": name, "mode": mode, "contestant": which, "alone_seconds": median(alone.seconds)}
        has_log = which not in watchers or watchers[which].has_log_schedule
        free = which in watchers and watchers[which].is_free_between
        new = rows_of(about, slots, deferred.get(which, 0.0), has_log=has_log, is_free_between=free, compiled=compiled)
        if compiled:  # a model may have breaks of its own
            own = alone.breaks * (watchers[which].models if which in watchers else 1)
            new = [{**row, "graph_breaks": row["graph_breaks"] - own} for row in new]
        rows += new
    return rows


def check_readings(task: Task, ours: Watcher, between: Slot, reading: Slot) -> None:
    """Let readings come and go in code that was compiled without one, and check that all were taken."""
    assert ours.switch is not None
    assert ours.readings is not None
    ours.switch()
    for _ in range(6):
        between.timed(*task.batch())
    taken = ours.readings()
    if taken[0] != reading.runs or taken[1] < 2:
        raise SystemExit(f"the trackers took {taken[0]} readings in {reading.runs} steps, and {taken[1]} in the last 6")


def run_rounds(task: Task, alone: Slot, contestants: Sequence[Sequence[Slot]], rounds: int) -> None:
    """Fill the slots' times and ratios: each contestant's steps run between two steps of ``alone``.

    The order of the contestants is reversed in every other round. Each keeps the order of its own steps, because W&B
    counts them.
    """
    for number in range(WARM_UP + rounds):
        x, y = task.batch()
        before = [alone.timed(x, y)]
        for slots in contestants if number % 2 == 0 else reversed(contestants):
            elapsed = [slot.timed(x, y) for slot in slots]
            before.append(alone.timed(x, y))
            if number >= WARM_UP:
                for slot, seconds in zip(slots, elapsed, strict=True):
                    slot.seconds.append(seconds)
                    slot.ratios.append(2 * seconds / (before[-2] + before[-1]))
        if number >= WARM_UP:
            alone.seconds += before[1:-1]
            alone.ratios += [
                2 * now / (last + after) for last, now, after in zip(before, before[1:], before[2:], strict=False)
            ]


def rows_of(
    about: Mapping[str, Any],
    slots: Sequence[Slot],
    deferred: float,
    *,
    has_log: bool,
    is_free_between: bool,
    compiled: bool,
) -> list[dict[str, Any]]:
    """Return a row for each schedule of a contestant, or one for all if each of its steps is alike.

    Args:
        about: columns that all rows have.
        slots: the step between readings and the one with a reading, or the only kind of step.
        deferred: seconds of a reading's work that is done later, which are added to the step with the reading.
    """
    reading, between = slots[-1], slots[0] if len(slots) > 1 else None
    rows, more = [], deferred / about["alone_seconds"]
    read = [ratio + more for ratio in reading.ratios]
    for every in SCHEDULES if between is not None or is_free_between else ("any",):
        if every == "log" and not has_log:
            continue
        if every == "any":
            overheads = [ratio - 1 for ratio in read]
        else:
            overheads = amortised(read, between.ratios if between else [1.0] * len(read), every)
        low, high = median_interval(overheads)
        rows.append(
            {
                **about,
                "every": str(every),
                "reading_seconds": median(reading.seconds) + deferred,
                "deferred_seconds": deferred,
                "between_seconds": None if between is None else median(between.seconds),
                "overhead": median(overheads),
                "low": low,
                "high": high,
                "graph_breaks": sum(slot.breaks for slot in slots) if compiled else None,
                "recompilations": sum(slot.graphs for slot in slots) if compiled else None,
            }
        )
    return rows


def resident(name: str, steps: Sequence[int]) -> list[float]:
    """Return the resident memory of this process in MB after some steps of the MLP, batch 16, with a reading at each."""
    import psutil

    torch.set_num_threads(1)
    task, process, found = mlp(16), psutil.Process(), []
    with ExitStack() as stack:
        step = _single(name, task, stack)
        for number in range(1, max(steps) + 1):
            step(*task.batch())
            if number in steps:
                gc.collect()
                found.append(process.memory_info().rss / 2**20)
    return found


def peak(name: str, steps: int) -> float:
    """Return the peak memory of this process in MB after some steps of GPT-2, with a reading at each.

    It is the kernel's high-water mark of the process itself; ``getrusage`` starts with the parent's.
    """
    torch.set_num_threads(1)
    task = TASKS["GPT-2 small"]()
    with ExitStack() as stack:
        step = _single(name, task, stack)
        for _ in range(steps):
            step(*task.batch())
        status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def _single(name: str, task: Task, stack: ExitStack) -> Step:
    training = Training(task, compiled=False)
    return nothing(training) if name == ALONE else make(name, training, stack).reading


def memory(steps: int) -> list[dict[str, Any]]:
    """Return a row for each contestant: resident memory of the MLP's training, and peak of GPT-2's.

    For all contestants, the C library returns freed blocks at once. Otherwise free blocks of the heap are included, which
    differ from process to process.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "1000000"
    early, names = steps // 10, (ALONE, OURS, HOOK, NORMS)
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=1) as pool:  # nothing is timed here
        both = {name: pool.apply_async(resident, (name, (early, steps))) for name in (ALONE, OURS)}
        peaks = {name: pool.apply_async(peak, (name, 3)) for name in names}
        rows = []
        for name in names:
            row: dict[str, Any] = {"contestant": name, "steps": steps, "gpt2_peak_mb": peaks[name].get()}
            row |= dict(
                zip(("mlp_early_mb", "mlp_late_mb"), both[name].get() if name in both else (None, None), strict=True)
            )
            rows.append(row)
    return rows


def goals_of(rows: Sequence[Mapping[str, Any]], grown: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what was aimed at, what was measured, and whether the goal is met."""
    goals = []
    for row in rows:
        limit = {"1": 0.03, "50": 0.01}.get(row["every"])
        if row["contestant"] != OURS or limit is None:
            continue
        place = f"{row['model']}, {row['mode']}"
        text = f"{place}, every={row['every']}: under {limit:.0%} of a step"
        goals.append({"goal": text, "measured": row["overhead"], "met": row["overhead"] < limit})
        if row["every"] == "1" and row["graph_breaks"] is not None:
            for what in ("graph_breaks", "recompilations"):
                text = f"{place}: no {what.replace('_', ' ')} because of the tracker"
                goals.append({"goal": text, "measured": row[what], "met": row[what] == 0})
    for row in grown:
        if row["contestant"] == OURS:
            growth = row["mlp_late_mb"] / row["mlp_early_mb"] - 1
            text = f"memory is flat: at most 2% more after {row['steps']:,} steps than after {row['steps'] // 10:,}"
            goals.append({"goal": text, "measured": growth, "met": growth <= 0.02})
    return goals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="rounds of GPT-2 in each mode (default: 6)")
    parser.add_argument("--mlp-rounds", type=int, default=150, help="rounds of the MLP in each mode (default: 150)")
    parser.add_argument(
        "--steps", type=int, default=10_000, help="steps of the memory's measurement; 0 for none (default: 10000)"
    )
    parser.add_argument("--models", default=",".join(TASKS), help="which of them to train, separated by commas")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    start = time.perf_counter()
    load = os.getloadavg()[0]
    rate, rows = matmul_rate(torch.device("cpu")), []
    for name in arguments.models.split(","):
        rounds = arguments.mlp_rounds if name == "MLP" else arguments.rounds
        for compiled in (False, True):
            rows += compare(TASKS[name](), name, compiled, rounds)
            gc.collect()
            print(f"{name}, {compiled=}: {time.perf_counter() - start:.0f} s so far", file=sys.stderr)
    grown = memory(arguments.steps) if arguments.steps else []
    goals = goals_of(rows, grown)
    about = {**machine(torch.device("cpu"), rate), "load_at_start": round(load, 2)}
    if arguments.json:
        print(json.dumps({"machine": about, "rows": rows, "memory": grown, "goals": goals}))
        return
    console = Console(width=150)
    table = Table("model", "mode", "contestant", "every", "overhead", "95% interval", "graph breaks", "recompilations")
    for row in rows:
        interval = f"{row['low']:+.1%} … {row['high']:+.1%}"
        compiler = ["" if row[key] is None else str(row[key]) for key in ("graph_breaks", "recompilations")]
        names = [row[key] for key in ("model", "mode", "contestant", "every")]
        table.add_row(*names, f"{row['overhead']:+.2%}", interval, *compiler)
    console.print(table)
    table = Table("contestant", "steps", "GPT-2, peak MB", "MLP, MB after a tenth", "MLP, MB after all")
    for row in grown:
        table.add_row(
            *(
                "" if value is None else f"{value:,.0f}" if isinstance(value, float) else str(value)
                for value in row.values()
            )
        )
    console.print(table)
    for goal in goals:
        console.print(f"{'met    ' if goal['met'] else 'NOT met'}  {goal['goal']}: {goal['measured']:.3g}")


if __name__ == "__main__":
    main()
