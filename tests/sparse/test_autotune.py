"""The crossover between dense and sparse layers is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actratio.sparse.autotune import LayerTimer, autotune_crossover
from actratio.sparse.crossover import NEVER


class Timed:
    """A timer whose results are given, instead of timed."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, faster: Callable[[int, float], bool], slower: Callable[[float], bool]) -> None:
        self.faster, self.slower, self.sparse = faster, slower, [nn.Module()]
        vars(self.sparse[0])["_crossover"] = None

    def is_faster(self, draws: list[Tensor]) -> bool:
        return self.faster(len(draws[0]), float((torch.stack(draws) != 0).float().mean()))

    def is_slower(self, draws: list[Tensor]) -> bool:
        crossover: Any = vars(self.sparse[0])["_crossover"]
        return self.slower(crossover.max_active(len(draws[0]), 1000) / (1000 * len(draws[0])))


def crossover_of(
    faster: Callable[[int, float], bool], slower: Callable[[float], bool], ratio: float = 1.0
) -> tuple[float, ...]:
    timer: Any = Timed(faster, slower)
    return autotune_crossover(timer, 1000, ratio).ratios


def test_crossover_is_the_largest_ratio_that_is_faster() -> None:
    assert crossover_of(lambda _, ratio: ratio < 0.3, lambda _: False) == (0.25,) * 6
    assert crossover_of(lambda *_: True, lambda _: True) == (1.0,) * 6  # the fallback is never used
    assert crossover_of(lambda batch, ratio: ratio < 0.7 / batch, lambda _: False) == (0.5, 0.25, 0.1, 0.03, 0.03, 0.0)


def test_crossover_is_never_if_the_dense_fallback_is_slower() -> None:
    # Finding the active neurons costs too much, so larger batches are always dense.
    assert (
        crossover_of(lambda batch, ratio: batch == 1 or ratio < 0.3, lambda max_active: max_active > 0)
        == (1.0,) + (0.0,) * 5
    )
    # At the measured ratio, the fallback is never used.
    assert crossover_of(lambda _, ratio: ratio < 0.3, lambda _: True, 0.2) == (0.25,) * 6
    # The fallback of a converted layer costs too much, so the layer is not converted.
    assert crossover_of(lambda batch, ratio: batch == 1, lambda _: True) == NEVER.ratios


@pytest.mark.parametrize("kind", ["down", "gated", "thresholds"])
def test_layer_timer_times_dense_and_sparse_layers(kind: str, sparse_randn: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    up = nn.Linear(6, 40) if kind == "gated" else None
    timer = LayerTimer(nn.Linear(40, 6), up, kind == "thresholds", 2)
    with torch.no_grad():
        dense, fast = timer.times([sparse_randn(3, 40, ratio=0.2)], 3, cold=True)
        assert dense > 0
        assert fast > 0
        hidden = sparse_randn(3, 40, ratio=0.5)
        torch.testing.assert_close(next(timer._sparse)(hidden), next(timer._dense)(hidden))
