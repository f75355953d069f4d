"""Small models with plain and gated MLPs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from actratio import measure
from actratio.sparse import sparsify
from actratio.sparse.crossover import ALWAYS


class Plain(nn.Module):
    def __init__(self, act: nn.Module | None = None, width: int = 96) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(16, width), act or nn.ReLU(), nn.Linear(width, 16)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.act(self.up(x)))
        return out


class Gated(nn.Module):
    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.gate, self.up, self.act = nn.Linear(16, width), nn.Linear(16, width), nn.ReLU()
        self.down = nn.Linear(width, 16)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.act(self.gate(x)) * self.up(x))
        return out


class Residual(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def dense_model(kind: Callable[[], nn.Module]) -> nn.Module:
    """Make two of these MLPs with residual connections. The weights are the same every time."""
    torch.manual_seed(0)
    return Residual(kind(), kind()).eval()


X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
KINDS: list[Callable[[], nn.Module]] = [Plain, Gated, lambda: Plain(nn.ReLU6())]


def sparse_model(model: nn.Module, **options: Any) -> nn.Module:
    """Make a model sparse for every batch size, or with these options of ``sparsify``."""
    return sparsify(model, measure(model, [X], criteria=["nonzero"]), **{"crossover": ALWAYS, **options})
