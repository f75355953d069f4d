"""Whether `sparsify` decides alike in every process: ten fresh processes, with and without what earlier ones measured.

The model is a Llama with ReLU gates and random weights (hidden size 1536, 8 layers), 10% of whose neurons are active. Each process converts it and generates,
dense and sparse in turns. `kept`: the processes share a cache folder, as those of one user do. `empty`: each has an empty one, and measures
the speeds of the layers itself.

    python benchmarks/decisions.py [--processes 10] [--types fp32,bf16,int8] [--json]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from actratio import measure, sparsify
from actratio.sparse import plans
from decode import TYPES, generate, plant, planted
from machine import bandwidth, machine, matmul_rate, show

RATIO, HIDDEN, LAYERS, ROUNDS = 0.1, 1536, 8, 7


def one(name: str) -> dict[str, Any]:
    """Return what one process decides, and how fast its model is then."""
    model = planted(HIDDEN, LAYERS).to(TYPES[name])
    plant(model, RATIO)
    ids = torch.randint(32000, (4, 64), generator=torch.Generator().manual_seed(2))
    measurement = measure(model, [{"input_ids": ids}])
    start = time.perf_counter()
    fast = sparsify(copy.deepcopy(model), measurement, weights="int8" if name == "int8" else None)
    seconds = time.perf_counter() - start
    rates: dict[str, list[float]] = {"dense": [], "sparse": []}
    for number in range(ROUNDS + 1):
        for kind, runner in (("dense", model), ("sparse", fast)):
            rate, _ = generate(runner, ids[:1, :8])
            rates[kind] += [rate] if number else []  # the first round only warms up
    planned = plans(fast)
    return {
        "deciding_s": seconds,
        "sparse_layers": sum(plan.kind != "dense" for plan in planned),
        "crossovers": [[round(ratio, 3) for ratio in plan.crossover.ratios] for plan in planned],
        "dense": median(rates["dense"]),
        "sparse": median(rates["sparse"]),
        "speedup": median(sparse / dense for sparse, dense in zip(rates["sparse"], rates["dense"], strict=True)),
    }


def in_a_process(name: str, cache: Path) -> dict[str, Any]:
    """Return what a fresh process with this cache folder finds."""
    command = [sys.executable, __file__, "--one", name]
    environment = {**os.environ, "ACTRATIO_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def goals_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what was asked, and whether it is met."""
    goals = []
    for name, cache in dict.fromkeys((row["type"], row["cache"]) for row in rows):
        chosen = [row for row in rows if (row["type"], row["cache"]) == (name, cache)]
        decisions = {(row["sparse_layers"], str(row["crossovers"]) if cache == "kept" else "") for row in chosen}
        speedups = [row["speedup"] for row in chosen]
        spread = (max(speedups) - min(speedups)) / median(speedups)
        goals += [
            {"goal": f"{name}, cache {cache}: different decisions", "measured": len(decisions), "met": len(decisions) == 1},
            {"goal": f"{name}, cache {cache}: speed-ups within 5%", "measured": spread, "met": spread <= 0.05},
        ]  # fmt: skip
    return goals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=10)
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--one", choices=list(TYPES), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(one(given.one)))
        return
    rows = []
    for name in given.types.split(","):
        for cache in ("kept", "empty"):
            with tempfile.TemporaryDirectory() as folder:
                for number in range(given.processes):
                    place = Path(folder) / ("all" if cache == "kept" else str(number))
                    rows.append({"type": name, "cache": cache, "process": number + 1, **in_a_process(name, place)})
                    print(rows[-1], file=sys.stderr, flush=True)
    goals = goals_of(rows)
    device = torch.device("cpu")
    described = {**machine(device, matmul_rate(device)), "bandwidth_gbs": round(bandwidth() / 1e9, 1)}
    if given.json:
        print(json.dumps({"machine": described, "rows": rows, "goals": goals}))
        return
    show([{**row, "crossovers": str(row["crossovers"][0])} for row in rows], goals, 180)


if __name__ == "__main__":
    main()
