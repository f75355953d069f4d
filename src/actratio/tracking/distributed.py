"""Adding up the counts of the processes of a data-parallel training."""

from __future__ import annotations

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor


def add_over_processes(counts: Tensor) -> NDArray[np.int64]:
    """Return the counts of all processes together, by one all-reduce; one process's own if it is alone.

    Args:
        counts: of this process, int64, of the same shape in each process.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        if dist.get_backend() == "nccl":
            counts = counts.cuda()
        dist.all_reduce(counts)
    numbers: NDArray[np.int64] = counts.cpu().numpy()
    return numbers
