"""Whether `sparsify` decides alike in every process: ten fresh processes, with and without what earlier ones measured.

The model is a Llama with ReLU gates and random weights (hidden size 1536, 8 layers), 10% of whose neurons are active. The processes convert it one
after the other, with `dense=True` or int8 weights. `kept`: they share a cache folder, as those of one user do. `empty`: each has an empty one, and
measures the speeds of the layers itself. `dense`: they leave the model as it is, so only the machine makes them differ. Then all of them, and one more
with the dense model, decode in turns, round by round, because a shared machine is faster in one minute than in the next. A turn is 16 decoding steps,
and its speed is that of the median step. Memory must hold all models.

- `speed`: steps per second over the median of all processes in the same round; the median over the rounds.
- `speedup`: the same over the dense model in the same round; for int8, over float32.

    python benchmarks/decisions.py [--processes 10] [--types fp32,bf16,int8] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any

import torch

from actratio import measure, sparsify
from actratio.sparse import plans
from actratio.sparse.int8 import Int8Linear
from actratio.sparse.linears import FastLinear
from actratio.sparse.timing import ForwardPasses
from decode import TYPES, plant, planted
from machine import bandwidth, machine, matmul_rate, show

RATIO, HIDDEN, LAYERS = 0.1, 1536, 8
ROUNDS, STEPS = 25, 16


def run_one(name: str, *, dense: bool) -> None:
    """Print what this process decides. Then decode, and print steps per second, for every line that is read."""
    model = planted(HIDDEN, LAYERS).to(TYPES[name])
    plant(model, RATIO)
    ids = torch.randint(32000, (4, 64), generator=torch.Generator().manual_seed(2))
    decided: dict[str, Any] = {}
    if not dense:
        measurement = measure(model, [{"input_ids": ids}])
        start = time.perf_counter()
        sparsify(model, measurement, dense=name != "int8", weights="int8" if name == "int8" else None)
        seconds = time.perf_counter() - start
        planned = plans(model)
        decided = {
            "deciding_s": seconds,
            "sparse_layers": sum(plan.kind != "dense" for plan in planned),
            "other_layers": sum(isinstance(module, FastLinear | Int8Linear) for module in model.modules()),
            "crossovers": [[round(ratio, 3) for ratio in plan.crossover.ratios] for plan in planned],
        }
    passes = ForwardPasses(model, 1)
    passes.seconds()
    print(json.dumps(decided), flush=True)
    for _ in sys.stdin:
        print(1 / median(passes.seconds() for _ in range(STEPS)), flush=True)


class Process:
    """A fresh process, which has converted its model when this returns.

    Args:
        name: type of the weights.
        cache: its cache folder.
        dense: whether the model stays as it is.
    """

    def __init__(self, name: str, cache: Path, *, dense: bool = False) -> None:
        command = [sys.executable, __file__, "--one", name, *(["--dense"] if dense else [])]
        environment = {**os.environ, "ACTRATIO_CACHE": str(cache)}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        self.decided: dict[str, Any] = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a process ended with status {self._process.wait()}")
        return json.loads(line)

    def rate(self) -> float:
        """Return the steps per second of a turn."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it ended, and there is no answer
            print(file=self._process.stdin, flush=True)
        return float(self._answer())

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def together(name: str, group: str, count: int) -> list[dict[str, Any]]:
    """Return what a number of processes decide, and how fast their models are, in turns."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        processes = []
        for number in range(count):
            own_cache = Path(folder) / ("all" if group == "kept" else str(number))
            processes.append(Process(name, own_cache, dense=group == "dense"))
            stack.callback(processes[-1].end)
            print(name, group, number + 1, processes[-1].decided, file=sys.stderr, flush=True)
        dense = Process(name, Path(folder) / "dense", dense=True)
        stack.callback(dense.end)
        everyone = [dense, *processes]
        rates: list[list[float]] = [[] for _ in everyone]
        for number in range(ROUNDS + 1):
            turns = list(zip(rates, everyone, strict=True))
            for own, process in turns if number % 2 else turns[::-1]:
                rate = process.rate()
                own += [rate] if number else []  # the first round only warms up
    middle = [median(rates_of_round) for rates_of_round in zip(*rates[1:], strict=True)]
    return [
        {
            "type": name,
            "group": group,
            "process": number + 1,
            **process.decided,
            "steps_per_s": median(own),
            "speed": median(rate / all_rates for rate, all_rates in zip(own, middle, strict=True)),
            "speedup": median(rate / dense_rate for rate, dense_rate in zip(own, rates[0], strict=True)),
        }
        for number, (process, own) in enumerate(zip(processes, rates[1:], strict=True))
    ]


def goals_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what was asked of the processes that decide, and whether it is met."""
    goals = []
    for name, group in dict.fromkeys((row["type"], row["group"]) for row in rows if row["group"] != "dense"):
        chosen = [row for row in rows if (row["type"], row["group"]) == (name, group)]
        decisions = {
            (row["sparse_layers"], row["other_layers"], str(row["crossovers"]) if group == "kept" else "")
            for row in chosen
        }
        speeds = [row["speed"] for row in chosen]
        spread = max(speeds) - min(speeds)
        goals += [
            {"goal": f"{name}, cache {group}: different decisions", "measured": len(decisions), "met": len(decisions) == 1},
            {"goal": f"{name}, cache {group}: speeds within 5%", "measured": spread, "met": spread <= 0.05},
        ]  # fmt: skip
    return goals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=10)
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--one", choices=list(TYPES), help=argparse.SUPPRESS)
    parser.add_argument("--dense", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    if given.one is not None:
        run_one(given.one, dense=given.dense)
        return
    if given.processes < 2:
        parser.error(f"--processes {given.processes}: a process can only be compared with another one; give at least 2")
    rows = []
    for name in given.types.split(","):
        for group in ("kept", "empty", "dense"):
            rows += together(name, group, given.processes)
    goals = goals_of(rows)
    device = torch.device("cpu")
    described = {**machine(device, matmul_rate(device)), "bandwidth_gbs": round(bandwidth() / 1e9, 1)}
    if given.json:
        print(json.dumps({"machine": described, "rows": rows, "goals": goals}))
        return
    show([{**row, "crossovers": str(row.get("crossovers", [""])[0])} for row in rows], goals, 180)


if __name__ == "__main__":
    main()
