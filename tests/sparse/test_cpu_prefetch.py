"""How far ahead the dense product asks the memory for weights. It changes the time, and no number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from actratio.sparse.int8 import quantize
from actratio.sparse.kernels import cpu_prefetch
from actratio.sparse.kernels.cpu import CPULinear
from actratio.sparse.kernels.product import Weights


@pytest.mark.parametrize(
    ("plain", "ahead", "chosen"),
    [(1.0, 1.0, 0), (1.0, 0.97, 0), (1.0, 0.9, 2048), (1.0, 1.2, 0)],  # a gain of 3% may be noise
)
def test_distance_that_clearly_gains_is_chosen(
    plain: float, ahead: float, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def product(weight: Tensor, distance: int) -> Callable[[], object]:
        assert (weight.dtype, weight.nbytes, weight.t().is_contiguous()) == (torch.int8, 1 << 26, True)

        def call() -> None:
            nonlocal now
            now += ahead if distance else plain

        return call

    monkeypatch.setattr(cpu_prefetch.time, "perf_counter", lambda: now)
    assert cpu_prefetch.read_ahead.__wrapped__(torch.int8, product) == chosen


@pytest.mark.parametrize("shape", [(64, 200), (70, 3), (2, 65), (4096, 130)])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.int8])
def test_distance_changes_no_number(shape: tuple[int, int], stored: torch.dtype, randn: Callable[..., Tensor]) -> None:
    inputs, outputs = shape
    x, weight = randn(1, inputs), randn(outputs, inputs, seed=2)
    weights: Any = Weights(weight.t())
    if stored == torch.bfloat16:
        x, weights = x.bfloat16(), Weights(weight.bfloat16().t())
    elif stored == torch.int8:
        quantized, scales = quantize(weight)
        weights = Weights(quantized.t(), scales=scales, dtype=torch.float32)
    plain, ahead = CPULinear(weights, 0)(x, 0), CPULinear(weights, 2048)(x, 0)
    assert torch.equal(plain, ahead)
    rows = weights.rows.float() * (1 if weights.scales is None else weights.scales)
    torch.testing.assert_close(
        plain.float(), x.float() @ rows, rtol=2e-2 if stored == torch.bfloat16 else 1e-4, atol=1e-3
    )
