"""Models that other libraries wrap, in two processes, have the counts of the model alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import actratio
from actratio.errors import SiteError
from tests.faults.processes import run_ranks
from tests.scale.shards import counts

BATCHES = [
    {"input_ids": torch.randint(0, 200, (2, 16), generator=torch.Generator().manual_seed(number))}
    for number in range(4)
]


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=200, hidden_size=32, intermediate_size=88, num_hidden_layers=2, num_attention_heads=4
    )
    return LlamaForCausalLM(config).eval()


def fully_sharded(model: Any) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    wrapped: nn.Module = fully_shard(model, mesh=mesh)
    return wrapped


def flat(model: Any) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)


WRAPPERS = {"fully_shard": fully_sharded, "data parallel": nn.parallel.DistributedDataParallel}


def measure_share(rank: int, folder: Path) -> None:
    """Measure every other batch in this process, with each wrapper; the first process merges."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    try:
        for name, wrap in WRAPPERS.items():
            measurement = actratio.measure(wrap(llama()), BATCHES[rank::2], name=name)
            measurement.save(folder / f"{name}-{rank}")
            dist.barrier()
            if rank == 0:
                whole = actratio.load(folder / f"{name}-0") | actratio.load(folder / f"{name}-1")
                whole.save(folder / name)
        with pytest.raises(SiteError, match=r"FullyShardedDataParallel holds the model's weights.*use fully_shard"):
            actratio.measure(flat(llama()), BATCHES[:1])
    finally:
        dist.destroy_process_group()


def test_wrapped_models_have_the_counts_of_the_model_alone(tmp_path: Path) -> None:
    expected = actratio.measure(llama(), BATCHES)
    expected.save(tmp_path / "expected")
    run_ranks(measure_share, tmp_path)
    for name in WRAPPERS:
        found, alone = counts(tmp_path / name), counts(tmp_path / "expected")
        for row in (*found, *alone):  # isn't known if each process has a part of the weights
            row.pop("useful", None)
            row.pop("useful_tokens", None)
        assert found == alone
        assert [row.site.name for row in actratio.load(tmp_path / name)] == [row.site.name for row in expected]
