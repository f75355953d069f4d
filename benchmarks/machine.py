"""What a benchmark ran on, and how fast that is."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from actratio.provenance import current_provenance


def matmul_rate(device: torch.device, size: int = 2048) -> float:
    """FLOP/s of one float32 matrix product now: the peak that a run is held against."""
    left, right = torch.rand(size, size, device=device), torch.rand(size, size, device=device)
    out = torch.empty(size, size, device=device)

    def once() -> float:
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once()
    return 2 * size**3 / median(once() for _ in range(5))


def bandwidth(size: int = 400_000_000) -> float:
    """Bytes a second that torch reads from memory now: the sum of an array much larger than the cache."""
    array = torch.ones(size // 4)

    def once() -> float:
        start = time.perf_counter()
        array.sum()
        return time.perf_counter() - start

    once()
    return size / min(once() for _ in range(7))


def show(rows: list[dict[str, Any]], goals: list[dict[str, Any]], width: int) -> None:
    """A benchmark's rows as a table, and whether its goals are met."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    console = Console(width=width)
    console.print(table)
    for goal in goals:
        console.print(f"{'met    ' if goal['met'] else 'NOT met'}  {goal['goal']}: {goal['measured']:.3g}")


def machine(device: torch.device, rate: float) -> dict[str, Any]:
    """For the ``machine`` entry of a benchmark's JSON."""
    return {**current_provenance(), "device": device.type, "matmul_gflops": round(rate / 1e9, 1)}
