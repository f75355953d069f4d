from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from actratio.statistics.estimate import mean_interval
from actratio.statistics.seeds import log_slope, over_seeds, per_seed, prediction_interval, two_stage


def test_one_figure_a_seed_then_student() -> None:
    frame = pd.DataFrame({"seed": [0, 0, 1, 1, 2, 2], "x": [1, 4, 1, 4, 1, 4], "y": [1, 2, 1, 4, 1, 8]})
    slopes = per_seed(frame, lambda rows: log_slope(rows["x"], rows["y"]))
    assert slopes.to_dict() == pytest.approx({0: 0.5, 1: 1.0, 2: 1.5})
    assert two_stage(frame, lambda rows: log_slope(rows["x"], rows["y"])) == mean_interval(slopes.tolist())


def test_censored_seeds_are_left_out() -> None:
    frame = pd.DataFrame({"seed": [0, 1, 2], "y": [1.0, math.nan, 3.0]})
    assert two_stage(frame, lambda rows: rows["y"].iloc[0]).value == 2.0
    empty = two_stage(frame, lambda rows: math.nan)
    assert math.isnan(empty.value)
    assert math.isnan(empty.low)


def test_pairs_are_matched_by_seed_and_not_by_position() -> None:
    first, second = pd.Series({0: 1.0, 1: 2.0, 2: 4.0}), pd.Series({2: 1.0, 1: 1.0, 0: 1.0})
    assert over_seeds(first - second) == mean_interval([0.0, 1.0, 3.0])
    assert over_seeds(first - second, 0.99) == mean_interval([0.0, 1.0, 3.0], 0.99)
    assert math.isnan(over_seeds(first - pd.Series({7: 1.0})).value)


def test_a_prediction_interval_covers_a_new_run_and_the_mean_interval_does_not() -> None:
    rng = np.random.default_rng(1)
    runs = rng.normal(size=(4000, 6))
    predicted = [prediction_interval(row[:5]).contains(row[5]) for row in runs]
    of_mean = [mean_interval(row[:5].tolist()).contains(row[5]) for row in runs]
    assert 0.94 <= np.mean(predicted) <= 0.96
    assert np.mean(of_mean) < 0.75
