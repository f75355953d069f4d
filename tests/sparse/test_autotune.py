"""The speeds of layers of one shape are measured, and kept."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from unittest.mock import Mock

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
        draws = [sparse_randn(3, 40, ratio=0.2)]
        assert all(seconds > 0 for seconds in timer.times(draws, 3, model_bytes=1000.0))
        assert all(speed > 0 for speed in timer.speeds(draws))
        hidden = sparse_randn(3, 40, ratio=0.5)
        dense, *converted = (next(layers)(hidden) for layers in timer._layers())
        assert len(converted) == (1 if kind in ("int8", "int8 thresholds") else 2)  # those always skip
        for output in converted:
            torch.testing.assert_close(output, dense)


def test_speeds_are_medians_over_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disturbed window changes nothing, and windows are added until they agree."""
    timer = small_timer()
    windows: list[int] = []

    def rounds(forms: object, draws: object, count: int, *, cold: bool) -> list[list[float]]:
        windows.append(count)
        noisy = len(windows) == 4
        return [[0.06] * count, [0.02 * (5 if noisy else 1)] * count, [0.06] * count]

    monkeypatch.setattr(timer, "_rounds", rounds)
    assert timer.speeds([torch.zeros(1, 40)]) == [3.0, 1.0]
    assert len(windows) == 1 + autotune._MIN_WINDOWS  # long products are timed with warm caches only


def test_a_converted_layer_that_takes_very_long_is_timed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """It isn't timed with larger batches either. The others are timed as usual."""
    timer = small_timer()
    calls: list[list[str]] = []

    def rounds(forms: list[str], draws: object, count: int, *, cold: bool) -> list[list[float]]:
        calls.append(forms)
        return [[{"dense": 0.02, "sparse": 0.01, "converted": 2.0}[form]] * count for form in forms]

    monkeypatch.setattr(timer, "_rounds", rounds)
    for batch in (1, 1, 2):
        assert timer.speeds([torch.zeros(batch, 40)]) == [2.0, 0.01]
    assert sum("converted" in forms for forms in calls) == 2
    assert len(calls) == 2 + autotune._MIN_WINDOWS + 2 * (1 + autotune._MIN_WINDOWS)
    assert timer.is_steady


def test_a_call_that_is_interrupted_changes_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = small_timer()
    calls: list[int] = []

    def rounds(forms: list[str], draws: object, count: int, *, cold: bool) -> list[list[float]]:
        calls.append(count)
        seconds = {"dense": 0.02, "sparse": 0.01, "converted": 0.02}
        if len(calls) == 1:
            seconds["sparse"] = seconds["converted"] = 0.9
        return [[seconds[form]] * count for form in forms]

    monkeypatch.setattr(timer, "_rounds", rounds)
    assert timer.speeds([torch.zeros(1, 40)]) == [2.0, 1.0]
    assert timer.speeds([torch.zeros(1, 40)]) == [2.0, 1.0]


def test_slow_layers_are_left_out(monkeypatch: pytest.MonkeyPatch, sparse_randn: Callable[..., Tensor]) -> None:
    monkeypatch.setattr(autotune, "_LONG_PROBE", 0.0)
    monkeypatch.setattr(autotune, "_SLOW_SPEED", float("inf"))
    timer = small_timer()
    with torch.no_grad():
        first, second = (timer.speeds([sparse_randn(3, 40, ratio=0.2)]) for _ in range(2))
    assert first[1] == second[1]  # not timed again
    assert first[0] != second[0]


def test_layers_that_all_take_long_are_timed_twice_for_each_input(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = small_timer()
    rounds = Mock(return_value=[[0.6], [0.3], [1.2]])
    warm_up = Mock()
    monkeypatch.setattr(timer, "_rounds", rounds)
    monkeypatch.setattr(timer, "_warm_up", warm_up)
    for batch in (1, 1, 2):
        assert timer.speeds([torch.zeros(batch, 40)]) == [2.0, 0.5]
    assert rounds.call_count == 6
    assert warm_up.call_count == 2  # once for each batch size


def test_the_worse_of_warm_and_cold_caches_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = small_timer()

    def rounds(forms: object, draws: object, count: int, *, cold: bool) -> list[list[float]]:
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


def test_weights_that_are_timed_in_turn_are_more_than_the_caches_hold() -> None:
    layer = nn.Linear(2048, 4096, bias=False)  # 34 MB in float32
    assert linear_timer(layer, 100).count == 5
    assert linear_timer(layer, 100, int8=True).count == 23
    assert linear_timer(layer, 4, int8=True).count == 4


def test_a_product_that_reads_everything_is_timed_once_for_each_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = linear_timer(nn.Linear(40, 6), 2)
    with torch.no_grad():
        x = torch.randn(3, 40)
        torch_output, fast = (next(layers)(x) for layers in timer._layers())
        torch.testing.assert_close(fast, torch_output)
    monkeypatch.setattr(autotune, "cached_speeds", lambda key: None)
    monkeypatch.setattr(autotune, "keep_speeds", lambda key, speeds: None)
    monkeypatch.setattr(timer, "speeds", lambda draws: [3.0 if len(draws[0]) < 8 else 1.01])
    found = shape_speeds(timer)
    assert found.sparse[0] == (3.0,) * len(RATIOS)
    assert found.dense == (1.0,) * len(BATCHES)
    assert found.always_faster().ratios == tuple(float(batch < 8) for batch in BATCHES)


@pytest.mark.parametrize(
    ("kind", "unskipped", "takes_over_at"), [("down", 2.0, 0.25), ("int8 gated", 0.5, 1.0), ("int8", 0.0, 1.0)]
)
def test_layers_that_never_stop_skipping_are_as_fast_as_that(
    kind: str, unskipped: float, takes_over_at: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With int8 weights, a down projection always skips. So the speed for few active neurons says nothing about many."""
    monkeypatch.setattr(autotune, "cached_speeds", lambda key: None)
    monkeypatch.setattr(autotune, "keep_speeds", lambda key, speeds: None)
    timer = small_timer(kind)
    sparse, converted = {0.03: 4.0, 0.1: 3.0, 0.25: 2.0, 0.5: 1.0, 1.0: 0.5}, {0.25: 2.0, 1.0: 0.5}

    def speeds(draws: list[Tensor]) -> list[float]:
        share = float((torch.stack(draws) != 0).float().mean())
        ratio = min(RATIOS, key=lambda ratio: abs(ratio - share))
        return [sparse[ratio], converted.get(ratio, 2.0)][: len(timer.forms) - 1]

    monkeypatch.setattr(timer, "speeds", speeds)
    found = shape_speeds(timer)
    assert found.dense[-1] == unskipped
    assert found.crossover(0.1).ratios[-1] == takes_over_at
    assert found.pays_off(0.1)
    assert found.pays_off(0.9) == (kind == "down")


@pytest.mark.parametrize(("seconds", "is_kept"), [((0.1, 0.11), True), ((0.1, 0.01), False)])
def test_speeds_of_a_busy_machine_are_not_kept(
    seconds: tuple[float, float], is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every second window, the sparse layer takes another time."""
    kept: list[object] = []
    monkeypatch.setattr(autotune, "cached_speeds", lambda key: None)
    monkeypatch.setattr(autotune, "keep_speeds", lambda key, speeds: kept.append(speeds))
    windows = cycle(seconds)
    timer = small_timer()
    monkeypatch.setattr(timer, "_rounds", lambda *_, **kinds: [[0.1], [next(windows)], [0.1]])
    with torch.no_grad():
        shape_speeds(timer)
    assert len(kept) == is_kept


def test_layers_are_timed_as_a_pass_of_the_model_leaves_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 1,072 bytes has three layers of 24 bytes. Between two calls of a layer it reads all others, and 1,000 other bytes."""
    calls: list[str] = []

    class Counted(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name, self.weight = name, nn.Parameter(torch.zeros(6))

        def forward(self, x: Tensor) -> Tensor:
            calls.append(self.name)
            return x

    class Others:
        def __getitem__(self, numbers: slice) -> Tensor:
            calls.append(f"+{4 * numbers.stop} ")
            return torch.zeros(1)

    monkeypatch.setattr(autotune, "_FORGOTTEN", 4000)
    monkeypatch.setattr(autotune, "_RUN", 2)
    clock = iter(range(1000))
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: float(next(clock)))

    def timed(layers: int, model_bytes: float, *, own: str = "") -> str:
        made = iter("abcdefghij")
        timer = LayerTimer(dict.fromkeys(("x", "y"), lambda: Counted(next(made))), [nn.Linear(4, 4)], 4, (1.0,), layers)
        timer.__dict__["_other_weights"] = Others()
        calls.clear()
        given = [Counted(name) for name in own]
        assert timer.times([torch.zeros(1, 4)], 1, model_bytes=model_bytes, dense=given) == [1.0, 1.0]
        return "".join(calls)

    every = "abcdef"  # each prepares its product first
    assert timed(3, 1072) == every + "abc+1000 abc" + "def+1000 def"
    assert timed(3, 9000) == every + "+4000 abc" + "+4000 def"  # no cache remembers more
    assert timed(3, 10) == every + "abc+0 abc" + "def+0 def"
    assert timed(1, 1024) == "ab" + "a+1000 a" + "b+1000 b"
    # Dense layers of the model, of which there may be more than are timed, take the place of new ones.
    assert timed(3, 1072, own="XYZU") == "XYZabc" + "XYZ+1000 XYZ" + "abc+1000 abc"
