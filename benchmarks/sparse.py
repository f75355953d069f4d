"""Time products with sparse activations: the kernel, dense torch, a gather in torch, and the limit set by memory bandwidth.

The rows are shapes, types, batch sizes and activation ratios. `plain` is the down projection. `gated` is the up and the down projection of
a gated MLP whose gates are given. Each call uses the weights of the next of many layers, so that no weights are in the cache, and new
activations.

Each contestant computes several products in a row (`ours`, `dense`, `gather`: median time of a product), and contestants take turns.
`after dense` is a sparse product right after a dense one, which has streamed its weights through the caches. Python's own objects
are then read from memory too.

The ideal speed-up over dense torch is the ratio of the bytes: 1 / (neurons that some example needs / neurons). The limit is the time that
reading those bytes takes at the bandwidth that was measured in the same run.

    python benchmarks/sparse.py [--shapes 4096x16384] [--batches 1,4] [--json]
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

from actratio.sparse.kernels.dispatch import prepare
from actratio.sparse.kernels.product import Weights
from actratio.sparse.layers import neuron_major
from machine import bandwidth, machine, matmul_rate, show

SHAPES = ((1024, 4096), (4096, 11008), (4096, 16384))
RATIOS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
BATCHES = (1, 2, 4, 8, 16)
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
KINDS = ("plain", "gated")
_BYTES = 600e6  # of weights: too many for the caches and for the table of page addresses
_DRAWS = 16
_RUN = 8  # products of a contestant in a row
_SECONDS = 2.0  # for each row of the table
_LONG, _TOO_LONG = 0.02, 1.0


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
    shapes = [tuple(int(size) for size in shape.split("x")) for shape in arguments.shapes.split(",")]
    rate = bandwidth()
    rows = []
    for (features, width), name, kind in product(shapes, arguments.types.split(","), arguments.kinds.split(",")):
        layers = Layers(features, width, TYPES[name], kind)
        for batch in (int(text) for text in arguments.batches.split(",")):
            for ratio in (float(text) for text in arguments.ratios.split(",")):
                rows.append({"kind": kind, "features": features, "width": width, "type": name, "batch": batch, "ratio": ratio,
                             **layers.race(batch, ratio, arguments.rounds, rate)})  # fmt: skip
                print(rows[-1], file=sys.stderr, flush=True)
    goals = goals_of(rows)
    description = {
        **machine(torch.device("cpu"), matmul_rate(torch.device("cpu"))),
        "bandwidth_gbs": round(rate / 1e9, 1),
    }
    if arguments.json:
        print(json.dumps({"machine": description, "rows": rows, "goals": goals}))
        return
    show(rows, goals, 180)


class Layers:
    """Layers of one shape and type, which are used in turn."""

    def __init__(self, features: int, width: int, dtype: torch.dtype, kind: str) -> None:
        self.width, self.features, self.dtype, self.kind = width, features, dtype, kind
        size = features * width * dtype.itemsize * (2 if kind == "gated" else 1)
        self.count = max(2, int(_BYTES / size))
        weight = torch.randn(width, features).to(dtype)
        self.rows = [neuron_major(weight.t().contiguous().t()) for _ in range(self.count)]
        self.ups = [weight.clone() for _ in range(self.count)] if kind == "gated" else []
        self.products = [
            prepare(Weights(rows, up=self.ups[place] if self.ups else None)) for place, rows in enumerate(self.rows)
        ]
        self.dense = [rows.t().contiguous() for rows in self.rows]
        self.turn = cycle(range(self.count))
        self.too_long: list[tuple[int, float]] = []

    def race(self, batch: int, ratio: float, rounds: int, rate: float) -> dict[str, float | None]:
        """Return the median times in microseconds, and the ratios between them."""
        draws = [
            (torch.randn(batch, self.width) * (torch.rand(batch, self.width) < ratio)).to(self.dtype)
            for _ in range(_DRAWS)
        ]
        needed = sum(int((h != 0).any(0).sum()) for h in draws) / (_DRAWS * self.width)
        x = torch.randn(batch, self.features).to(self.dtype)
        draw = cycle(draws)
        contestants = {"ours": self._ours, "dense": self._dense, "gather": self._gather}
        times: dict[str, list[float]] = {name: [] for name in (*contestants, "after")}

        def once(name: str) -> float:
            h, place = next(draw), next(self.turn)
            start = time.perf_counter()
            contestants[name](h, x, place)
            return time.perf_counter() - start

        def turn(name: str) -> list[float]:
            """Time several products in a row; only one if it is so long that Python's overhead doesn't matter."""
            seconds = [once(name)]
            while len(seconds) < _RUN and seconds[-1] < _LONG:
                seconds.append(once(name))
            return seconds

        with torch.no_grad():
            if any(batch >= b and ratio >= r for b, r in self.too_long):
                del contestants["gather"]
            for name in list(contestants):
                seconds = once(name)  # warms up
                if name == "gather" and seconds > _TOO_LONG:  # not again for larger batches or ratios
                    self.too_long.append((batch, ratio))
                    times[name].append(seconds)
                    del contestants[name]
            began = time.perf_counter()
            for _ in range(rounds):
                for name in contestants:
                    times[name] += turn(name)
                for _ in range(_RUN if times["dense"][-1] < _LONG else 1):
                    once("dense")
                    times["after"].append(once("ours"))
                if time.perf_counter() - began > _SECONDS:
                    break
        middle = {name: median(seconds) * 1e6 if seconds else None for name, seconds in times.items()}
        matrices = 2 if self.kind == "gated" else 1
        limit = needed * self.width * self.features * self.dtype.itemsize * matrices / rate * 1e6
        ours, after, dense, gather = (middle[name] for name in ("ours", "after", "dense", "gather"))
        assert ours is not None
        assert after is not None
        assert dense is not None
        return {
            "needed": needed,
            "ours": ours,
            "after_dense": after,
            "dense": dense,
            "gather": gather,
            "limit": limit,
            "speedup": dense / ours,
            "of_ideal": dense / ours * needed,
            "of_ideal_after_dense": dense / after * needed,
            "of_limit": limit / ours,
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
        """Copy the rows that some example needs, and multiply by them."""
        index = h.any(0).nonzero().flatten()
        needed = h[:, index]
        if self.kind == "gated":
            needed = needed * F.linear(x, self.ups[place][index])
        return needed @ self.rows[place][index]


def goals_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the goals that concern these rows, and whether they are met."""

    def goal(text: str, chosen: Callable[[dict[str, Any]], bool], value: str, least: float) -> list[dict[str, Any]]:
        values = [row[value] for row in rows if chosen(row)]
        return [{"goal": text, "measured": min(values), "met": min(values) >= least}] if values else []

    def first(row: dict[str, Any]) -> bool:
        return bool(row["batch"] == 1 and 0.05 <= row["ratio"] <= 0.2)

    goals = []
    for kind, name in product(KINDS, TYPES):
        for size in sorted({row["features"] for row in rows}):
            for column, how in (("of_ideal", ""), ("of_ideal_after_dense", " right after a dense product")):
                goals += goal(
                    f"batch 1, {kind}, {name}, {size} features, 5 to 20 %: at least 85 % of the ideal speed-up over dense torch{how}",
                    lambda row, kind=kind, name=name, size=size: (  # type: ignore[misc]
                        first(row) and (row["kind"], row["type"], row["features"]) == (kind, name, size)
                    ),
                    column,
                    0.85,
                )
    return [
        *goals,
        *goal("batch 1, 100 %: at most 3 % slower than dense torch", lambda row: row["batch"] == 1 and row["ratio"] == 1, "speedup", 0.97),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
