"""Samplers that repeat examples so that all processes of a data-parallel training get equally many."""

from __future__ import annotations

import warnings
from typing import Any

from torch.utils.data.distributed import DistributedSampler


def repeated_examples(loader: Any) -> int:
    """Return how many examples the loader's sampler repeats in an epoch, over all processes."""
    shards: Any = getattr(loader, "batch_sampler", None)
    if type(shards).__name__ == "BatchSamplerShard":  # of Accelerate
        together = shards.batch_size * (1 if shards.split_batches else shards.num_processes)
        return -len(loader.dataset) % together if shards.even_batches and not shards.drop_last else 0
    samplers = [getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None)]
    sampler = next((item for item in samplers if isinstance(item, DistributedSampler)), None)
    if sampler is None or sampler.drop_last:
        return 0
    return int(sampler.total_size - len(sampler.dataset))  # type: ignore[arg-type]


def warn_of_repeats(loader: Any) -> None:
    """Warn if the loader's sampler repeats examples, which a tracker counts each time that the model reads them."""
    repeated = repeated_examples(loader)
    if repeated:
        warnings.warn(
            f"the sampler repeats {repeated} examples in each epoch so that all processes get equally many; they are counted "
            "each time; pass drop_last=True to the sampler to leave them out",
            UserWarning,
            stacklevel=2,
        )
