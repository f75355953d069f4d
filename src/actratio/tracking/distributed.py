"""Adding up the counts of the processes of a data-parallel training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from actratio.sites import Site
from actratio.tracking.counters import Counts


def add_over_processes(counts: Counts, sites: Sequence[Site]) -> Counts:
    """Return the counts of all processes together, on the CPU, by one all-reduce; one process's own if it is alone.

    Args:
        counts: of this process; sites that are missing counted nothing.
        sites: all sites, the same in each process.
    """
    parts = []
    device = next((tokens.device for _, tokens, _ in counts.values()), torch.device("cpu"))
    for site in sites:
        nothing = torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64)
        calls, tokens, active = counts.get(site.name, (*nothing, torch.zeros(site.width, dtype=torch.int64)))
        parts += [calls.reshape(1).to(device), tokens.reshape(1).to(device), active.to(device)]
    together = torch.cat(parts)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        if dist.get_backend() == "nccl":
            together = together.cuda()
        dist.all_reduce(together)
    together = together.cpu()
    merged: Counts = {}
    for site in sites:
        own, together = together[: 2 + site.width], together[2 + site.width :]
        merged[site.name] = own[0], own[1], own[2:]
    return merged
