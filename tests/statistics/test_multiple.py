from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from actratio.statistics.estimate import mean_interval
from actratio.statistics.multiple import bonferroni_interval, holm, holm_family, p_value


def test_p_value_agrees_with_the_interval() -> None:
    values = [0.4, 0.5, 0.45, 0.55, 0.42]
    interval = mean_interval(values)
    assert p_value(values, interval.high) == pytest.approx(0.05)
    assert p_value(values, float(np.mean(values))) == pytest.approx(1.0)
    assert math.isnan(p_value([0.5], 0.5))
    assert p_value([0.5, 0.5], 0.5) == 1.0
    assert p_value([0.5, 0.5], 0.4) == 0.0


def test_p_value_agrees_with_scipy() -> None:
    from scipy.stats import ttest_1samp

    values = np.random.default_rng(0).normal(size=(20, 6))
    for row in values:
        assert p_value(row.tolist(), 0.3) == pytest.approx(ttest_1samp(row, 0.3).pvalue)


def test_holm_by_hand() -> None:
    # Sorted: 0.005·4, 0.01·3, 0.03·2, 0.04·1, each at least as large as the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_agrees_with_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    for seed in range(3):
        values = np.random.default_rng(seed).uniform(0, 0.2, 9).tolist()
        assert holm(values) == pytest.approx(multipletests(values, method="holm")[1].tolist())


def test_holm_keeps_the_rate_of_any_false_rejection() -> None:
    rng = np.random.default_rng(2)
    rejected = [min(holm(rng.uniform(size=8).tolist())) < 0.05 for _ in range(2000)]
    assert np.mean(rejected) <= 0.065


def test_missing_claims_of_a_family_count_as_one() -> None:
    assert holm_family([0.01, 0.02]) == holm([0.01, 0.02])
    assert holm_family([0.01, math.nan, 0.02], planned=5) == holm([0.01, 1.0, 0.02, 1.0, 1.0])[:3]
    assert holm_family([0.02], planned=1) == [0.02]
    assert holm_family([], planned=3) == holm_family([]) == []


def test_bonferroni_interval_is_the_wider_level() -> None:
    values = [1.0, 2.0, 4.0]
    half = stats.t.ppf(1 - 0.05 / 5 / 2, 2) * np.std(values, ddof=1) / np.sqrt(3)
    assert bonferroni_interval(values, 5).high == pytest.approx(np.mean(values) + half)
