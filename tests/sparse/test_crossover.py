"""What follows from measured speeds: the crossover, and whether to convert."""

from __future__ import annotations

import math

import pytest

from actratio.sparse.crossover import BATCHES, RATIOS, ShapeSpeeds

N = len(BATCHES)


def speeds(*sparse: float, dense: float = 1.0) -> ShapeSpeeds:
    return ShapeSpeeds((sparse,) * N, (dense,) * N)


def test_the_crossover_is_where_sparse_and_dense_take_the_same_time() -> None:
    assert speeds(5, 4, 3, 2, 1.5).crossover(math.nan).ratios == (1.0,) * N
    assert speeds(0.9, 0.8, 0.7, 0.6, 0.5).crossover(math.nan).ratios == (0.0,) * N
    # Seconds of 1/2 and 1/0.5 at ratios of 0.25 and 0.5: they are 1 a third of the way.
    assert speeds(8, 4, 2, 0.5, 0.25).crossover(math.nan).ratios == pytest.approx((0.25 + 0.25 / 3,) * N)
    # What counts is the dense product of the converted layer.
    assert speeds(0.9, 0.8, 0.7, 0.6, 0.5, dense=0.4).crossover(math.nan).ratios == (1.0,) * N


def test_nobody_looks_for_zeros_in_vain() -> None:
    found = speeds(8, 4, 2, 0.5, 0.25)
    assert found.crossover(0.3).ratios == found.crossover(math.nan).ratios
    assert found.crossover(0.4).ratios == (0.0,) * N


@pytest.mark.parametrize(("ratio", "gain"), [(0.01, 8), (0.03, 8), (0.1, 4), (0.25, 2), (0.5, 1), (1.0, 0.5)])
def test_gains_are_interpolated_in_seconds(ratio: float, gain: float) -> None:
    assert speeds(8, 4, 2, 1, 0.5, dense=0.1).gains(ratio) == pytest.approx((gain,) * N)
    assert speeds(8, 4, 2, 1, 0.5, dense=0.1).gains(0.375)[0] == pytest.approx(1 / 0.75)
    assert speeds(8, 4, 2, 1, 0.5, dense=0.9).gains(1.0)[0] == 0.9


def test_losing_with_large_batches_does_not_forbid_a_single_sequence() -> None:
    fast, slow = (4.0,) * len(RATIOS), (0.5,) * len(RATIOS)
    at_batch_1 = ShapeSpeeds((fast, *[slow] * (N - 1)), (1.0, *[0.6] * (N - 1)))
    assert at_batch_1.pays_off(0.1)
    assert at_batch_1.crossover(0.1).ratios == (1.0, *[0.0] * (N - 1))
    at_batch_64 = ShapeSpeeds((*[slow] * (N - 1), fast), (*[1.0] * (N - 1), 0.6))
    assert at_batch_64.pays_off(0.1)  # slower for no batch size
    assert not ShapeSpeeds((*[slow] * (N - 1), fast), (0.9,) * N).pays_off(0.1)
    assert not speeds(*[1.05] * len(RATIOS)).pays_off(0.1)  # hardly faster
    assert not speeds(8, 4, 2, 1, 0.5).pays_off(math.nan)  # at half of the neurons
