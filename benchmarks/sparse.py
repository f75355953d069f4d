"""Products with sparse activations: ours, dense torch, the naive gather in torch, and the limit of the memory.

For each shape, type, batch and activation ratio: `plain` is the down projection alone, `gated` the up and the down projection of a
gated MLP whose gates are given. Weights are several layers' in turn, larger than the cache; activations are drawn anew, so that
successive calls read other rows. In each round every contestant runs once, in turn; medians.

The ideal speed-up over dense torch is that of the bytes: 1 / (neurons needed by some example / neurons). The limit is the time that
those bytes take at the bandwidth measured in the same run.

    python benchmarks/sparse.py [--quick] [--shapes 4096x16384] [--batches 1,4] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from itertools import cycle, product
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from actratio.sparse import products
from actratio.sparse.modules import neuron_major
from machine import bandwidth, machine, matmul_rate, show

SHAPES = ((1024, 4096), (4096, 11008), (4096, 16384))
RATIOS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
BATCHES = (1, 2, 4, 8, 16)
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
KINDS = ("plain", "gated")
_BYTES = 200e6  # of weights, so that none is in the cache when its turn comes
_DRAWS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(f"{d}x{n}" for d, n in SHAPES))
    parser.add_argument("--ratios", default=",".join(str(ratio) for ratio in RATIOS))
    parser.add_argument("--batches", default=",".join(str(batch) for batch in BATCHES))
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    shapes = [tuple(int(size) for size in each.split("x")) for each in arguments.shapes.split(",")]
    rate = bandwidth()
    rows = []
    for (features, width), name, kind in product(shapes, arguments.types.split(","), arguments.kinds.split(",")):
        layers = Layers(features, width, TYPES[name], kind)
        for batch in (int(each) for each in arguments.batches.split(",")):
            for ratio in (float(each) for each in arguments.ratios.split(",")):
                rows.append({"kind": kind, "features": features, "width": width, "type": name, "batch": batch, "ratio": ratio,
                             **layers.race(batch, ratio, arguments.rounds, rate)})  # fmt: skip
                print(rows[-1], file=sys.stderr, flush=True)
    goals = goals_of(rows)
    made = {**machine(torch.device("cpu"), matmul_rate(torch.device("cpu"))), "bandwidth_gbs": round(rate / 1e9, 1)}
    if arguments.json:
        print(json.dumps({"machine": made, "rows": rows, "goals": goals}))
        return
    show(rows, goals, 180)


class Layers:
    """Layers of one shape and type, one after another."""

    def __init__(self, features: int, width: int, dtype: torch.dtype, kind: str) -> None:
        self.width, self.features, self.dtype, self.kind = width, features, dtype, kind
        size = features * width * dtype.itemsize * (2 if kind == "gated" else 1)
        self.count = max(2, int(_BYTES / size))
        some = torch.randn(width, features).to(dtype)
        self.rows = [neuron_major(some.t().contiguous().t()) for _ in range(self.count)]
        self.ups = [some.clone() for _ in range(self.count)] if kind == "gated" else []
        self.products = [
            products.prepare(rows, up=self.ups[place] if self.ups else None) for place, rows in enumerate(self.rows)
        ]
        self.dense = [rows.t().contiguous() for rows in self.rows]

    def race(self, batch: int, ratio: float, rounds: int, rate: float) -> dict[str, float]:
        """Times in microseconds, and what they say."""
        draws = [
            (torch.randn(batch, self.width) * (torch.rand(batch, self.width) < ratio)).to(self.dtype)
            for _ in range(_DRAWS)
        ]
        needed = sum(int((h != 0).any(0).sum()) for h in draws) / (_DRAWS * self.width)
        contestants = {"ours": self._ours, "dense": self._dense, "gather": self._gather}
        times: dict[str, list[float]] = {name: [] for name in contestants}
        layer, draw = cycle(range(self.count)), cycle(draws)
        x = torch.randn(batch, self.features).to(self.dtype)
        with torch.no_grad():
            spent = time.perf_counter()
            for number in range(rounds + 1):
                for name, run in contestants.items():
                    h, place = next(draw), next(layer)
                    start = time.perf_counter()
                    run(h, x, place)
                    if number:  # the first round only warms up
                        times[name].append(time.perf_counter() - start)
                if number >= 3 and time.perf_counter() - spent > 3:
                    break
        middle = {name: median(each) * 1e6 for name, each in times.items()}
        matrices = 2 if self.kind == "gated" else 1
        limit = needed * self.width * self.features * self.dtype.itemsize * matrices / rate * 1e6
        return {
            "needed": needed,
            **middle,
            "limit": limit,
            "speedup": middle["dense"] / middle["ours"],
            "of_ideal": middle["dense"] / middle["ours"] * needed,
            "of_limit": limit / middle["ours"],
        }

    def _ours(self, h: Tensor, x: Tensor, place: int) -> Tensor:
        product = self.products[place]
        assert product is not None
        out = product(h, h.numel(), x if self.kind == "gated" else None)
        assert out is not None
        return out

    def _dense(self, h: Tensor, x: Tensor, place: int) -> Tensor:
        if self.kind == "gated":
            h = h * F.linear(x, self.ups[place])
        return F.linear(h, self.dense[place])

    def _gather(self, h: Tensor, x: Tensor, place: int) -> Tensor:
        """What one writes first: the rows that some example needs, copied and multiplied."""
        index = h.any(0).nonzero().flatten()
        some = h[:, index]
        if self.kind == "gated":
            some = some * F.linear(x, self.ups[place][index])
        return some @ self.rows[place][index]


def goals_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What this is held to, over the rows that were run."""

    def goal(text: str, chosen: Callable[[dict[str, Any]], bool], value: str, least: float) -> list[dict[str, Any]]:
        values = [row[value] for row in rows if chosen(row)]
        return [{"goal": text, "measured": min(values), "met": min(values) >= least}] if values else []

    return [
        *(
            found
            for kind, name in product(KINDS, TYPES)
            for found in goal(
                f"batch 1, {kind}, {name}, 5 to 20 %: at least 85 % of the ideal speed-up over dense torch in every shape",
                lambda row, kind=kind, name=name: (  # type: ignore[misc]
                    row["batch"] == 1 and row["kind"] == kind and row["type"] == name and 0.05 <= row["ratio"] <= 0.2
                ),
                "of_ideal",
                0.85,
            )
        ),
        *goal("batch 1, 100 %: at most 3 % slower than dense torch", lambda row: row["batch"] == 1 and row["ratio"] == 1, "speedup", 0.97),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
