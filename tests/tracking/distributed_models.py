"""Models, batches and wrappers of the trainings in ``distributed_run``."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

ROWS, FEATURES = 8, 12
LENGTHS = (2, 6, 3, 5)
"""Tokens of the four sequences of a batch with padding. The first of two processes has the first and the third."""
UNLABELLED_STEP = 3
"""The step in which no token of the first process has a label."""


class Block(nn.Module):
    """An MLP with a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.down(self.act(self.up(x)))
        return x + hidden


class Functional(nn.Module):
    """An MLP whose activation is a function, so that it can't be counted in a module's hook."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(FEATURES, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(nn.functional.relu(self.up(x)))
        return out


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Block(32), Block(16), nn.Linear(FEATURES, 4)).double()


def functional() -> nn.Module:
    torch.manual_seed(0)
    return Functional().double()


def language_model(kind: str, **options: Any) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = transformers.AutoConfig.for_model(
        kind, hidden_act="relu", vocab_size=64, num_hidden_layers=2, pad_token_id=0, **size, **options
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    if kind == "mixtral":
        model.set_experts_implementation("eager")  # the grouped product of all experts has no float64
    trained: nn.Module = model.double().train()
    return trained


def batch(number: int) -> Tensor:
    return torch.randn(ROWS, FEATURES, generator=torch.Generator().manual_seed(number)).double()


def token_batch(step: int, rows: int) -> Tensor:
    return torch.randint(1, 64, (rows, max(LENGTHS)), generator=torch.Generator().manual_seed(step))


def padded_batch(step: int) -> dict[str, Tensor]:
    """Return token ids, their mask, and labels: −100 for padding and for the first token of each sequence."""
    ids = token_batch(step, len(LENGTHS))
    mask = torch.arange(ids.shape[1]) < torch.tensor(LENGTHS)[:, None]
    labels = ids.where(mask, -100)
    labels[:, 0] = -100
    if step == UNLABELLED_STEP:
        labels[::2] = -100
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def ddp(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def fsdp2(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for child in model.children():
        if isinstance(child, Block):
            fully_shard(child, mesh=mesh)
    sharded: Any = fully_shard(model, mesh=mesh)
    return sharded


def fsdp1(model: nn.Module, *, use_orig_params: bool = True) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    return FullyShardedDataParallel(
        model,
        auto_wrap_policy=ModuleWrapPolicy({Block}),
        device_id=torch.device("cpu"),  # otherwise FSDP1 says that it needs a GPU
        use_orig_params=use_orig_params,
    )


def compiled(model: nn.Module) -> nn.Module:
    result: Any = torch.compile(model, backend="aot_eager")
    return result


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="aot_eager")
    return model
