"""Time products with sparse activations beside dense ones, and beside the limit set by memory bandwidth.

The rows are shapes, types, batch sizes and activation ratios. `plain` is the down projection. `gated` is the up and the down projection of
a gated MLP whose gates are given. Each call uses the weights of the next of many layers, so that no weights are in the caches. Its
activations are new, but in the caches, because in a model the operation before has just written them.

- `ours`: the sparse product.
- `full`: our dense product, which reads all weights.
- `torch`: PyTorch's dense product, as models call it; for int8, its product of int8 weights and bfloat16 activations.
- `packed`: PyTorch's dense product with weights that oneDNN has packed, as `torch.compile` does when it freezes a model; only where oneDNN can pack this type.
- `gather`: select rows in PyTorch, then multiply.
- `used`: the layer that `sparsify` makes of a model whose neurons are active at 10%: it counts the active neurons of each call, and is dense above what
  pays off on this machine. Only `plain`, and not int8, whose layers always use the sparse product.
- `after dense`: a sparse product right after a dense one, which has streamed its weights through the caches. Python's own objects
  are then read from memory too.

Contestants compute several products in a row (the times are medians of a product), and take turns. All rows are measured in several passes,
and each number is the median over them: on shared machines, other work disturbs the timing for seconds at a time. The speed-up over `torch` has two
factors: `layout` is `torch` over `full`, and `zeros` is `full` over `ours`. Ideally, `zeros` is 1 / (neurons that some example needs /
neurons). `over strongest` is the faster of `torch` and `packed` over the fastest of `ours`, `full` and `torch`, among which `sparsify`
chooses; with int8 weights, of `ours` and `full`. The limit is the time that reading the needed bytes takes at the bandwidth that was measured in the same pass.
Ours read weights in large pages, as `sparsify` stores them; `torch` and `packed` read them in the pages that PyTorch gets by default.

    python benchmarks/sparse.py [--shapes 4096x16384] [--batches 1,4] [--json]
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle, product
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from actratio.sparse.autotune import layer_timer, shape_speeds
from actratio.sparse.int8 import quantize
from actratio.sparse.kernels.dispatch import prepare, prepare_dense
from actratio.sparse.kernels.product import Product, Weights
from actratio.sparse.layers import in_large_pages
from actratio.sparse.modules import install_down
from machine import bandwidth, can_pack, machine, matmul_rate, show

SHAPES = ((1024, 4096), (4096, 16384))
RATIOS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
BATCHES = (1, 2, 4, 8, 16)
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}
KINDS = ("plain", "gated")
_BYTES = 600e6  # of weights: too many for the caches and for the table of page addresses
_DRAWS = 16
_RUN = 8  # products of a contestant in a row
_SECONDS = 0.6  # for each row of the table, in each pass
_LONG, _TOO_LONG = 0.02, 1.0
_USUAL = 0.1  # activation ratio for which layers are converted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(f"{d}x{n}" for d, n in SHAPES))
    parser.add_argument("--ratios", default=",".join(str(ratio) for ratio in RATIOS))
    parser.add_argument("--batches", default=",".join(str(batch) for batch in BATCHES))
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    shapes = [tuple(int(size) for size in shape.split("x")) for shape in arguments.shapes.split(",")]
    rates, all_rows = zip(*(_measured(shapes, arguments) for _ in range(arguments.passes)), strict=True)
    rows = [_medians(same) for same in zip(*all_rows, strict=True)]
    goals = goals_of(rows)
    description = {
        **machine(torch.device("cpu"), matmul_rate(torch.device("cpu"))),
        "bandwidth_gbs": round(median(rates) / 1e9, 1),
    }
    if arguments.json:
        print(json.dumps({"machine": description, "rows": rows, "goals": goals}))
        return
    show(rows, goals, 180)


def _measured(shapes: Sequence[Sequence[int]], arguments: Any) -> tuple[float, list[dict[str, Any]]]:
    """Return the bandwidth and the rows of one pass."""
    rate, rows = bandwidth(), []
    batches = [int(text) for text in arguments.batches.split(",")]
    ratios = [float(text) for text in arguments.ratios.split(",")]
    for (features, width), name, kind in product(shapes, arguments.types.split(","), arguments.kinds.split(",")):
        layers = Layers(features, width, name, kind)
        for batch, ratio in product(batches, ratios):
            row = {"kind": kind, "features": features, "width": width, "type": name, "batch": batch, "ratio": ratio}
            rows.append({**row, **layers.race(batch, ratio, arguments.rounds, rate)})
            print(rows[-1], file=sys.stderr, flush=True)
        del layers
        gc.collect()  # its contestants refer to it
    return rate, rows


def _medians(same: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of a row over the passes. The median time and the median ratio may come from different passes."""
    middle: dict[str, Any] = {}
    for name, value in same[0].items():
        numbers = [row[name] for row in same if isinstance(row[name], float)]
        middle[name] = median(numbers) if numbers else value
    return middle


class Layers:
    """Layers of one shape and type, which are used in turn.

    The down projection multiplies ``h``, (batch, width); in a gated MLP, the up projection multiplies ``x``, (batch, features), before.
    """

    def __init__(self, features: int, width: int, name: str, kind: str) -> None:
        self.width, self.features, self.name, self.kind = width, features, name, kind
        self.dtype, self.is_gated = TYPES[name], kind == "gated"
        self.item_size = 1 if name == "int8" else self.dtype.itemsize
        self.count = max(2, int(_BYTES / (features * width * self.item_size * (2 if self.is_gated else 1))))
        self.matrices = [Matrices(features, width, name, self.is_gated) for _ in range(self.count)]
        self.turn = cycle(self.matrices)
        self.too_long: list[tuple[int, float]] = []
        self.contestants: dict[str, Callable[[Matrices, Tensor, Tensor], Tensor]] = {
            "ours": self._ours, "full": self._full, "torch": self._torch,
            **({} if name == "int8" else {"gather": self._gather}),
            **({"packed": self._packed} if name != "int8" and can_pack(self.dtype) else {}),
            **({"used": self._used} if name != "int8" and not self.is_gated else {}),
        }  # fmt: skip
        if "used" in self.contestants:
            self._install()

    def _install(self) -> None:
        """Convert the layers that are used as ``sparsify`` does it, with what was measured of their shape."""
        # Of weights stored by outputs, as models have them.
        layer = nn.Linear(self.width, self.features, bias=False, dtype=self.dtype)
        speeds = shape_speeds(layer_timer(layer, layers=self.count))
        for matrices in self.matrices:
            install_down(matrices.used, None, speeds.crossover(_USUAL))
            matrices.used(torch.zeros(1, self.width, dtype=self.dtype))  # the first call prepares the product

    def race(self, batch: int, ratio: float, rounds: int, rate: float) -> dict[str, float | None]:
        """Return the median times in microseconds, and the ratios between them."""
        draws = [
            (torch.randn(batch, self.width) * (torch.rand(batch, self.width) < ratio)).to(self.dtype)
            for _ in range(_DRAWS)
        ]
        needed = sum(int((h != 0).any(0).sum()) for h in draws) / (_DRAWS * self.width)
        x = torch.randn(batch, self.features).to(self.dtype)
        draw, contestants = cycle(draws), dict(self.contestants)
        times: dict[str, list[float]] = {
            name: [] for name in ("ours", "full", "torch", "packed", "used", "gather", "after")
        }

        def once(name: str) -> float:
            h, matrices = next(draw).clone(), next(self.turn)  # the copy is in the caches
            start = time.perf_counter()
            contestants[name](matrices, h, x)
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
                for _ in range(_RUN if times["torch"][-1] < _LONG else 1):
                    once("torch")
                    times["after"].append(once("ours"))
                if time.perf_counter() - began > _SECONDS:
                    break
        middle = {name: median(seconds) * 1e6 for name, seconds in times.items() if seconds}
        bytes_needed = needed * self.width * self.features * self.item_size * (2 if self.is_gated else 1)
        limit = bytes_needed / rate * 1e6
        ours, full, base = middle["ours"], middle["full"], middle["torch"]
        strongest = min(base, middle.get("packed", base))
        return {
            "needed": needed,
            "ours": ours,
            "after_dense": middle["after"],
            "full": full,
            "torch": base,
            "packed": middle.get("packed"),
            "used": middle.get("used"),
            "gather": middle.get("gather"),
            "limit": limit,
            "layout": base / full,
            "zeros": full / ours,
            "speedup": base / ours,
            "speedup_used": base / middle["used"] if "used" in middle else None,
            "over_strongest": strongest / min(ours, full, math.inf if self.name == "int8" else base),
            "of_ideal": full / ours * needed,
            "of_limit": limit / ours,
        }

    def _ours(self, matrices: Matrices, h: Tensor, x: Tensor) -> Tensor:
        out = matrices.sparse(h, h.numel(), x if self.is_gated else None)
        assert out is not None
        return out

    def _full(self, matrices: Matrices, h: Tensor, x: Tensor) -> Tensor:
        if matrices.full_up is not None:
            h = h * matrices.full_up(x, 0)
        out = matrices.full_down(h, 0)
        assert out is not None
        return out

    def _torch(self, matrices: Matrices, h: Tensor, x: Tensor) -> Tensor:
        if self.name == "int8":
            h = h.bfloat16()
            if self.is_gated:
                h = h * torch._weight_int8pack_mm(x.bfloat16(), matrices.up, matrices.up_scales)
            return torch._weight_int8pack_mm(h, matrices.down, matrices.down_scales)
        if self.is_gated:
            h = h * F.linear(x, matrices.up)
        return F.linear(h, matrices.down)

    def _packed(self, matrices: Matrices, h: Tensor, x: Tensor) -> Tensor:
        multiply = torch.ops.mkldnn._linear_pointwise
        if self.is_gated:
            h = h * multiply(x, matrices.packed_up, None, "none", [], "")
        out: Tensor = multiply(h, matrices.packed_down, None, "none", [], "")
        return out

    def _used(self, matrices: Matrices, h: Tensor, x: Tensor) -> Tensor:
        out: Tensor = matrices.used(h)
        return out

    def _gather(self, matrices: Matrices, h: Tensor, x: Tensor) -> Tensor:
        """Copy the rows that some example needs, and multiply by them."""
        index = h.any(0).nonzero().flatten()
        needed = h[:, index]
        if self.is_gated:
            needed = needed * F.linear(x, matrices.up[index])
        return needed @ matrices.rows[index]


class Matrices:
    """The weights of one layer in every form. Each form has memory of its own, so that none is in the cache for another's sake."""

    def __init__(self, features: int, width: int, name: str, is_gated: bool) -> None:
        dtype = TYPES[name]
        weight = torch.randn(width, features).to(dtype)
        up = weight.clone() if is_gated else None
        if name == "int8":
            self._make_int8(weight, up)
            return
        self.rows = in_large_pages(weight.t().contiguous().t())
        self.down, self.up = weight.t().contiguous(), up
        if can_pack(dtype):
            reorder = torch.ops.mkldnn._reorder_linear_weight
            self.packed_down, self.packed_up = reorder(self.down, None), None if up is None else reorder(up, None)
        own_up = None if up is None else in_large_pages(up)
        self.sparse = _prepared(prepare, Weights(self.rows, up=own_up))
        self.full_down = _prepared(prepare_dense, Weights(in_large_pages(self.down).t()))
        self.full_up = None if own_up is None else _prepared(prepare_dense, Weights(own_up.t()))
        self.used = nn.Linear(width, features, bias=False, dtype=dtype)
        self.used.weight = nn.Parameter(self.rows.t(), requires_grad=False)

    def _make_int8(self, weight: Tensor, up: Tensor | None) -> None:
        down, down_scales = quantize(weight.t())
        self.up, up_scales = (None, None) if up is None else quantize(up)
        own_up = None if self.up is None else in_large_pages(self.up)
        self.down, self.down_scales = down, down_scales.bfloat16()
        self.up_scales = None if up_scales is None else up_scales.bfloat16()
        weights = Weights(in_large_pages(down.t()), scales=down_scales, dtype=torch.float32)
        self.sparse = _prepared(prepare, weights._replace(up=own_up, up_scales=up_scales))
        dense = Weights(in_large_pages(down).t(), scales=down_scales, dtype=torch.float32)
        self.full_down, self.full_up = _prepared(prepare_dense, dense), None
        if own_up is not None:
            self.full_up = _prepared(prepare_dense, Weights(own_up.t(), scales=up_scales, dtype=torch.float32))


def _prepared(how: Callable[[Weights], Product | None], weights: Weights) -> Product:
    product = how(weights)
    assert product is not None
    return product


def goals_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the goals that concern these rows, and whether they are met."""

    def goal(text: str, chosen: Callable[[dict[str, Any]], bool], value: str, least: float) -> list[dict[str, Any]]:
        values = [row[value] for row in rows if chosen(row)]
        return [{"goal": text, "measured": min(values), "met": min(values) >= least}] if values else []

    def first(row: dict[str, Any]) -> bool:
        return bool(row["batch"] == 1 and 0.05 <= row["ratio"] <= 0.2)

    goals = []
    for name, kind in product(TYPES, KINDS):
        for size, least in ((1024, 0.7), (4096, 0.85)):
            goals += goal(
                f"batch 1, {kind}, {name}, {size} features, 5 to 20% active: at least {least:.0%} of the ideal speed-up over our own dense product",
                lambda row, kind=kind, name=name, size=size: (  # type: ignore[misc]
                    first(row) and (row["kind"], row["type"], row["features"]) == (kind, name, size)
                ),
                "of_ideal",
                least,
            )
    for name in TYPES:
        goals += goal(
            f"{name}, batch 1 to 16: at most 3% slower than PyTorch's strongest dense product",
            lambda row, name=name: row["type"] == name,  # type: ignore[misc]
            "over_strongest",
            0.97,
        )

    def all_active(row: dict[str, Any], value: str) -> bool:
        return row["batch"] == 1 and row["ratio"] == 1 and row[value] is not None

    return [
        *goals,
        *goal("batch 1, all neurons active: a down projection as `sparsify` makes it, in fp32 and bf16, is at most 1% slower than PyTorch", lambda row: all_active(row, "speedup_used"), "speedup_used", 0.99),
        *goal("batch 1, all neurons active: our sparse product itself is at most 1% slower than PyTorch", lambda row: all_active(row, "speedup"), "speedup", 0.99),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
