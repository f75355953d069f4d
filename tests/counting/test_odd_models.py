"""Odd inputs and modules: counted exactly, or one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from actratio import ActratioError, measure

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


class Plain(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.function = nn.Linear(4, 6), nn.Linear(6, 2), function

    def forward(self, x: Tensor) -> Any:
        return self.down(self.function(self.up(x)))


@pytest.mark.parametrize(
    "function",
    [
        lambda z: torch.max(z, torch.zeros(())),
        lambda z: torch.max(z, other=torch.zeros(())),
        lambda z: F.threshold(z, 0.1, 0.0),
        nn.Threshold(0.1, 0.0),
    ],
)
def test_relu_and_thresholds_in_other_spellings_are_counted(function: Callable[[Tensor], Tensor]) -> None:
    model = Plain(function)
    row = next(iter(measure(model, [X])))
    assert torch.equal(row.counts.active, (function(model.up(X)) > 0).sum(0))


@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4), (0, 3, 4)])
def test_a_batch_without_tokens_counts_nothing(shape: tuple[int, ...]) -> None:
    model = Plain(F.relu)
    empty, some = torch.zeros(shape), X.expand(2, 5, 4) if len(shape) == 3 else X
    assert [row.counts.tokens for row in measure(model, [empty])] == [0]
    assert "0 tokens" in repr(measure(model, [empty]))
    alone = next(iter(measure(model, [some])))
    assert torch.equal(next(iter(measure(model, [empty, some, empty]))).counts.active, alone.counts.active)


def test_a_model_that_returns_nothing_is_refused_by_name() -> None:
    class Silent(Plain):
        def forward(self, x: Tensor) -> None:
            super().forward(x)

    with pytest.raises(ActratioError, match="Silent's forward pass returned nothing"):
        measure(Silent(F.relu), [X])


def test_other_weights_in_a_functional_call_are_counted_exactly_or_refused_by_name() -> None:
    class Called(nn.Module):
        def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.part = Plain(function)

        def forward(self, x: Tensor) -> Any:
            return torch.func.functional_call(self.part, {k: -v for k, v in self.part.named_parameters()}, (x,))

    with pytest.raises(ActratioError, match="part was not called in a forward pass"):
        measure(Called(F.relu), [X])
    model = Called(nn.ReLU())
    row = next(iter(measure(model, [X])))
    assert torch.equal(row.counts.active, (-model.part.up(X) > 0).sum(0))


def test_complex_numbers_and_vmap_are_one_sentence() -> None:
    parts = nn.Linear(4, 6, dtype=torch.complex64), nn.Tanh(), nn.Linear(6, 2, dtype=torch.complex64)
    with pytest.raises(ActratioError, match="failed in the forward pass of a batch"):
        measure(nn.Sequential(*parts), [X.to(torch.complex64)])

    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Plain(F.relu)

        def forward(self, x: Tensor) -> Any:
            return torch.vmap(self.part)(x)

    with pytest.raises(ActratioError, match="failed in the forward pass of a batch"):
        measure(Mapped(), [X])
