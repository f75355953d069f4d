"""What products ask the memory for in advance. It changes the time, and no number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from actratio.sparse.int8 import quantize
from actratio.sparse.kernels import cpu_prefetch
from actratio.sparse.kernels.cpu import GROUP, CPULinear, CPUProduct
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


@pytest.mark.parametrize(
    ("start", "whole", "chosen"),
    [(1.0, 1.0, 1024), (1.0, 0.97, 1024), (1.0, 0.9, 8192), (1.0, 1.2, 1024)],
)
def test_whole_rows_are_asked_for_if_that_clearly_gains(
    start: float, whole: float, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, used = 0.0, []

    def product(rows: Tensor, asked: int) -> Callable[[Tensor], object]:
        assert (rows.dtype, tuple(rows.shape)) == (torch.bfloat16, (8192, 4096))

        def call(hidden: Tensor) -> None:
            nonlocal now
            used.append(hidden.nonzero().flatten())
            now += whole if asked == 8192 else start

        return call

    monkeypatch.setattr(cpu_prefetch.time, "perf_counter", lambda: now)
    assert cpu_prefetch.asked_of_rows.__wrapped__(torch.bfloat16, 8192, product) == chosen
    assert sorted(torch.cat(used[:8]).tolist()) == list(range(8192))  # no row twice in a round of draws


def test_short_rows_are_asked_for_as_a_whole() -> None:
    def product(rows: Tensor, asked: int) -> Callable[[Tensor], object]:
        raise AssertionError("nothing is timed")

    assert cpu_prefetch.asked_of_rows.__wrapped__(torch.int8, 4095, product) == 4095


@pytest.mark.parametrize("examples", [1, 2, GROUP])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.int8])
def test_bytes_of_rows_that_are_asked_for_change_no_number(
    examples: int, stored: torch.dtype, sparse_randn: Callable[..., Tensor], randn: Callable[..., Tensor]
) -> None:
    hidden, rows = sparse_randn(examples, 150, ratio=0.4), randn(150, 1300, seed=2)
    weights: Any = Weights(rows)
    if stored == torch.bfloat16:
        hidden, weights = hidden.bfloat16(), Weights(rows.bfloat16())
    elif stored == torch.int8:
        quantized, scales = quantize(rows.t())
        weights = Weights(quantized.t().contiguous(), scales=scales, dtype=torch.float32)
    first, *others = (CPUProduct(weights, asked)(hidden, hidden.numel()) for asked in (64, 1024, 1 << 20))
    assert first is not None
    assert all(other is not None and torch.equal(first, other) for other in others)
    exact = weights.rows.double() * (1 if weights.scales is None else weights.scales.double())
    tolerance = 2e-2 if stored == torch.bfloat16 else 1e-4
    torch.testing.assert_close(first.double(), hidden.double() @ exact, rtol=tolerance, atol=tolerance)


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
