"""One process of a data-parallel training; see ``test_distributed``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from actratio.tracking import Tracker

STEPS = 3


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))


def batch(step: int) -> Tensor:
    return torch.randn(8, 12, generator=torch.Generator().manual_seed(step))


def wrapped(kind: str, inner: nn.Module) -> nn.Module:
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(inner)
    if kind == "fsdp2":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        sharded: Any = fully_shard(inner, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
        return sharded
    return inner


def run(rank: int, world: int, kind: str, store: str, out: str) -> None:
    """Train a few steps on this process's part of each batch, and write the table."""
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", store=dist.FileStore(store, world), rank=rank, world_size=world)
    trained = wrapped(kind, model())
    # The weights stay as they are, because a sum over processes may round otherwise.
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.0)
    with Tracker(trained, 1, dead_limit=None, name="model") as tracker:
        for step in range(STEPS):
            trained(batch(step)[rank::world]).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    tracker.to_frame().to_csv(Path(out) / f"{kind}-{rank}.csv", index=False)
    if world > 1:
        dist.destroy_process_group()
