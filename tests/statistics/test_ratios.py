from __future__ import annotations

import math

import numpy as np
import pytest

from actratio.statistics.multiple import p_value
from actratio.statistics.ratios import ratio_of_means


@pytest.mark.parametrize("apart", [3.0, 10.0])  # standard deviations of a seed
def test_the_interval_of_a_ratio_covers_it_as_often_as_it_says(apart: float) -> None:
    rng, hits, known = np.random.default_rng(0), 0, 0
    for _ in range(2000):
        shared = rng.normal(0, 0.5, 5)
        denominator = apart + shared + rng.normal(0, math.sqrt(0.75), 5)
        numerator = 0.45 * apart + shared + rng.normal(0, math.sqrt(0.75), 5)
        found = ratio_of_means(numerator, denominator)
        if not math.isnan(found.low):
            known += 1
            hits += found.contains(0.45)
    assert known / 2000 > 0.95
    assert hits / known == pytest.approx(0.95, abs=0.015)


def test_the_ends_of_the_interval_are_where_a_t_test_starts_to_reject() -> None:
    rng = np.random.default_rng(1)
    numerator, denominator = rng.normal(0.4, 0.1, 6), rng.normal(1.0, 0.1, 6)
    found = ratio_of_means(numerator, denominator)
    assert found.value == pytest.approx(numerator.mean() / denominator.mean())
    for end in (found.low, found.high):
        assert p_value((numerator - end * denominator).tolist(), 0.0) == pytest.approx(0.05)


def test_there_is_no_interval_if_the_denominator_could_be_0() -> None:
    assert math.isnan(ratio_of_means([1.0, 2.0, 1.5], [0.1, -0.2, 0.2]).low)
    assert math.isnan(ratio_of_means([1.0], [2.0]).low)
    assert math.isnan(ratio_of_means([1.0, 1.0], [1.0, -1.0]).value)
