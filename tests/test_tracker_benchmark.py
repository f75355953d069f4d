"""What ``benchmarks/tracker.py`` computes from the times that it takes."""

from __future__ import annotations

import math
from types import ModuleType

import pytest

from .conftest import ROOT


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import tracker

    return tracker


def test_the_cost_of_a_reading_is_spread_over_the_steps_between(benchmark: ModuleType) -> None:
    assert benchmark.amortised([1.5, 2.0], [1.0, 1.01], 50) == pytest.approx([0.5 / 50, (1 + 49 * 0.01) / 50])
    assert benchmark.amortised([1.5], [9.0], 1) == [0.5]


def test_log_spaced_readings_are_counted_over_a_training(benchmark: ModuleType) -> None:
    assert benchmark.share_of_readings("log") == 38 / benchmark.LOG_STEPS


def test_the_interval_of_the_median_holds_its_level(benchmark: ModuleType) -> None:
    # As in tables of the sign test: 2nd to 9th of 10 values, 97.9%; the 3rd to 8th would be 89.1%.
    assert benchmark.median_interval(range(10)) == (1, 8)
    assert benchmark.median_interval(range(6)) == (0, 5)
    assert all(math.isnan(bound) for bound in benchmark.median_interval(range(5)))


def test_goals_are_those_of_our_own_steps(benchmark: ModuleType) -> None:
    row = {"model": "MLP", "mode": "compiled", "contestant": "ours", "graph_breaks": 0, "recompilations": 1}
    rows = [{**row, "every": "1", "overhead": 0.02}, {**row, "every": "50", "overhead": 0.02}]
    rows.append({**row, "contestant": "hook", "every": "any", "overhead": 0.5})
    memory = [{"contestant": "ours", "steps": 10_000, "mlp_early_mb": 100.0, "mlp_late_mb": 101.0}]
    met = {goal["goal"]: goal["met"] for goal in benchmark.goals_of(rows, memory)}
    assert met == {
        "MLP, compiled, every=1: under 3% of a step": True,
        "MLP, compiled: no graph breaks because of the tracker": True,
        "MLP, compiled: no recompilations because of the tracker": False,
        "MLP, compiled, every=50: under 1% of a step": False,
        "memory is flat: at most 2% more after 10,000 steps than after 1,000": True,
    }
