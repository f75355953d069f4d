"""The machine that a benchmark runs on: its speed and its description."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from actratio.provenance import current_provenance


def matmul_rate(device: torch.device, size: int = 2048) -> float:
    """Measure the FLOP/s of a float32 matrix product, the upper limit for the benchmarks."""
    left, right = torch.rand(size, size, device=device), torch.rand(size, size, device=device)
    out = torch.empty(size, size, device=device)

    def timed_run() -> float:
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    timed_run()
    return 2 * size**3 / median(timed_run() for _ in range(5))


def bandwidth(size: int = 400_000_000) -> float:
    """Measure the memory bandwidth in bytes per second, with the sum of an array that is much larger than the cache."""
    array = torch.ones(size // 4)

    def timed_run() -> float:
        start = time.perf_counter()
        array.sum()
        return time.perf_counter() - start

    timed_run()
    return size / min(timed_run() for _ in range(7))


def show(rows: list[dict[str, Any]], goals: list[dict[str, Any]], width: int) -> None:
    """Print the rows of a benchmark as a table, and whether its goals are met."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*columns)
    for row in rows:
        values = (row.get(name, "") for name in columns)
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in values))
    console = Console(width=width)
    console.print(table)
    for goal in goals:
        console.print(f"{'met    ' if goal['met'] else 'NOT met'}  {goal['goal']}: {goal['measured']:.3g}")


def machine(device: torch.device, rate: float) -> dict[str, Any]:
    """Describe the machine, for the ``machine`` entry of a benchmark's JSON. ``rate`` is in FLOP/s."""
    return {**current_provenance(), "device": device.type, "matmul_gflops": round(rate / 1e9, 1)}


def can_pack(dtype: torch.dtype) -> bool:
    """Return whether oneDNN can pack weights of this type here. It packs bfloat16 only on CPUs with AVX-512 or AVX-NE-CONVERT."""
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.zeros(16, 16, dtype=dtype), None)
    except RuntimeError:
        return False
    return True
