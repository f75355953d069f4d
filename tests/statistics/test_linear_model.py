"""Which weighted sums a design determines, beside the tests of the laws and of the study of tasks."""

from __future__ import annotations

import numpy as np

from actratio.statistics.linear_model import LinearModel


def test_a_slope_can_be_estimated_although_two_constants_cannot_be_told_apart() -> None:
    model = LinearModel(np.column_stack([[1.0, 2.0, 3.0], np.ones(3), 2 * np.ones(3)]))
    assert not model.is_identified
    assert model.can_estimate([1.0, 0.0, 0.0])
    assert not model.can_estimate([0.0, 1.0, 0.0])
    assert model.can_estimate([0.0, 1.0, 2.0])
    assert np.isclose(model.contrast([1.0, 0.0, 0.0], np.array([[5.0, 7.0, 9.0]])).value, 2.0)


def test_a_slope_against_a_column_that_never_changes_cannot_be_estimated() -> None:
    assert not LinearModel(np.ones((3, 2))).can_estimate([1.0, 0.0])
