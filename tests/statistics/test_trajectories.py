from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actratio.statistics.trajectories import at_loss, log_spaced


@given(st.integers(1, 10**6), st.integers(2, 60))
def test_steps_rise_from_zero_to_the_last(last: int, points: int) -> None:
    steps = log_spaced(last, points)
    assert steps[0] == 0
    assert steps[-1] == last
    assert steps == sorted(set(steps))
    assert len(steps) <= points + 1


def test_steps_are_evenly_spaced_on_a_log_axis() -> None:
    assert log_spaced(1000, 5) == [0, 1, 10, 100, 1000]


def test_interpolation_at_the_first_crossing() -> None:
    losses, values = [3.0, 2.0, 1.0, 1.5, 0.5], [0.0, 10.0, 20.0, 30.0, 40.0]
    assert at_loss(losses, values, 1.25) == pytest.approx(17.5)  # not the second crossing, after the loss rose again
    assert at_loss(losses, values, 5.0) == 0.0
    assert at_loss(losses, values, 1.0) == 20.0


def test_a_run_that_never_reaches_the_loss_is_censored() -> None:
    assert math.isnan(at_loss([3.0, 2.0], [1.0, 2.0], 1.0))
