"""The speeds of layers of one shape are measured, and kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from actratio.sparse import autotune
from actratio.sparse.autotune import LayerTimer, layer_timer, linear_timer, shape_speeds
from actratio.sparse.crossover import BATCHES, RATIOS


def small_timer(kind: str = "down") -> LayerTimer:
    torch.manual_seed(0)
    up = nn.Linear(6, 40) if "gated" in kind else None
    return layer_timer(nn.Linear(40, 6), up, thresholds="thresholds" in kind, layers=2, int8="int8" in kind)


@pytest.mark.parametrize("kind", ["down", "gated", "thresholds", "int8", "int8 gated", "int8 thresholds"])
def test_layer_timer_times_dense_and_sparse_layers(kind: str, sparse_randn: Callable[..., Tensor]) -> None:
    timer = small_timer(kind)
    with torch.no_grad():
        assert all(seconds > 0 for seconds in timer.times([sparse_randn(3, 40, ratio=0.2)], 3))
        assert all(speed > 0 for speed in timer.speeds([sparse_randn(3, 40, ratio=0.2)]))
        hidden = sparse_randn(3, 40, ratio=0.5)
        dense, sparse, converted = (next(layers)(hidden) for layers in timer._layers.values())
        torch.testing.assert_close(sparse, dense)
        torch.testing.assert_close(converted, dense)


def test_speeds_are_medians_over_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disturbed window changes nothing, and windows are added until they agree."""
    timer = small_timer()
    windows: list[int] = []

    def rounds(draws: object, count: int, *, cold: bool) -> list[list[float]]:
        windows.append(count)
        noisy = len(windows) == 4
        return [[6.0] * count, [2.0 * (5 if noisy else 1)] * count, [6.0] * count]

    monkeypatch.setattr(timer, "_rounds", rounds)
    assert timer.speeds([torch.zeros(1, 40)]) == [3.0, 1.0]
    assert len(windows) == 1 + autotune._MIN_WINDOWS  # long products are timed with warm caches only


def test_the_worse_of_warm_and_cold_caches_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = small_timer()

    def rounds(draws: object, count: int, *, cold: bool) -> list[list[float]]:
        return [[1e-4] * count, [1e-4 if cold else 5e-5] * count, [1e-4] * count]

    monkeypatch.setattr(timer, "_rounds", rounds)
    assert timer.speeds([torch.zeros(1, 40)]) == [1.0, 1.0]


def test_speeds_are_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("ACTRATIO_CACHE", str(tmp_path))
    seen: list[tuple[int, float]] = []

    def speeds(self: LayerTimer, draws: list[Tensor]) -> list[float]:
        seen.append((len(draws[0]), float((torch.stack(draws) != 0).float().mean())))
        return [2.0 / len(draws[0]), 1.0]

    monkeypatch.setattr(LayerTimer, "speeds", speeds)
    found = shape_speeds(small_timer())
    assert found.sparse == tuple((2.0 / batch,) * len(RATIOS) for batch in BATCHES)
    assert found.dense == (1.0,) * len(BATCHES)
    assert [batch for batch, _ in seen] == [batch for batch in BATCHES for _ in RATIOS]
    assert all(abs(ratio - wanted) < 0.2 for (_, ratio), wanted in zip(seen, RATIOS * len(BATCHES), strict=True))
    assert shape_speeds(small_timer()) == found
    assert len(seen) == len(BATCHES) * len(RATIOS)
    shape_speeds(small_timer("thresholds"))  # another key
    assert len(seen) == 2 * len(BATCHES) * len(RATIOS)


def test_a_product_that_reads_everything_is_timed_once_for_each_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = linear_timer(nn.Linear(40, 6), 2)
    with torch.no_grad():
        x = torch.randn(3, 40)
        torch_output, fast = (next(layers)(x) for layers in timer._layers.values())
        torch.testing.assert_close(fast, torch_output)
    monkeypatch.setattr(autotune, "cached_speeds", lambda key: None)
    monkeypatch.setattr(autotune, "keep_speeds", lambda key, speeds: None)
    monkeypatch.setattr(timer, "speeds", lambda draws: [3.0 if len(draws[0]) < 8 else 1.01])
    found = shape_speeds(timer)
    assert found.sparse[0] == (3.0,) * len(RATIOS)
    assert found.dense == (1.0,) * len(BATCHES)
    assert found.always_faster().ratios == tuple(float(batch < 8) for batch in BATCHES)


def test_products_are_prepared_before_they_are_timed_and_run_among_their_own_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []

    class Counted(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            calls.append(self.name)
            return x

    forms = {name: (lambda name=name: Counted(name)) for name in ("a", "b")}
    timer = LayerTimer(forms, [nn.Linear(4, 4)], 4, (1.0,), 3)
    clock = iter(range(1000))
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: float(next(clock)))
    assert timer.times([torch.zeros(1, 4)], 2, run=2) == [1.0, 1.0]
    assert "".join(calls) == "aaabbb" + 2 * "aabb"
    calls.clear()
    timer.times([torch.zeros(1, 4)], 2)
    assert "".join(calls) == "aaabbb" + 2 * "ab"
