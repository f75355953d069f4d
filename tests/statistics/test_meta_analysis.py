"""Random effects against the formulas written out, and the coverage of both intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from actratio.errors import FitError
from actratio.statistics.meta_analysis import random_effects

EFFECTS = [0.62, 0.35, 0.48, 0.11, 0.55, 0.41]
VARIANCES = [0.004, 0.002, 0.009, 0.003, 0.006, 0.001]


def test_paule_mandel_and_hartung_knapp_by_hand() -> None:
    effects, variances = np.array(EFFECTS), np.array(VARIANCES)
    tasks = len(effects)

    def mean_for(tau2: float) -> tuple[float, float, np.ndarray]:
        weights = 1 / (variances + tau2)
        mean = float((weights * effects).sum() / weights.sum())
        return mean, float((weights * (effects - mean) ** 2).sum()), weights

    tau2 = optimize.brentq(lambda tau2: mean_for(tau2)[1] - (tasks - 1), 0, 10, xtol=1e-14)
    mean, spread, weights = mean_for(tau2)
    error = np.sqrt(spread / (tasks - 1) / weights.sum())
    result = random_effects(EFFECTS, VARIANCES)
    assert result.tasks == tasks
    assert result.mean.value == pytest.approx(mean, rel=1e-4)
    assert result.tau == pytest.approx(np.sqrt(tau2), rel=1e-3)
    assert result.mean.high - mean == pytest.approx(stats.t.ppf(0.975, tasks - 1) * error, rel=1e-3)
    assert result.prediction.high - mean == pytest.approx(
        stats.t.ppf(0.975, tasks - 2) * np.sqrt(tau2 + error**2), rel=1e-3
    )


def test_equal_effects_have_no_spread() -> None:
    result = random_effects([0.5, 0.5, 0.5, 0.5], [0.01, 0.02, 0.01, 0.03])
    assert result.mean.value == pytest.approx(0.5)
    assert result.tau == 0


@pytest.mark.parametrize("tau", [0.05, 0.15])
def test_planted_mean_and_spread_are_recovered_and_covered(tau: float) -> None:
    rng = np.random.default_rng(0)
    means, taus, covers, predicts = [], [], [], []
    for _ in range(400):
        variances = rng.uniform(0.0005, 0.002, 12)
        truth = rng.normal(0.4, tau, 13)  # the last one is a new task
        result = random_effects((truth[:12] + rng.normal(0, np.sqrt(variances))).tolist(), variances.tolist())
        means.append(result.mean.value)
        taus.append(result.tau)
        covers.append(result.mean.contains(0.4))
        predicts.append(result.prediction.contains(truth[12]))
    assert np.mean(means) == pytest.approx(0.4, abs=0.01)
    assert np.mean(taus) == pytest.approx(tau, rel=0.1)
    assert 0.92 <= np.mean(covers) <= 0.98
    assert 0.91 <= np.mean(predicts) <= 0.99


@pytest.mark.parametrize(
    ("effects", "variances", "message"),
    [([0.1, 0.2], [0.1, 0.1], "at least three"), ([0.1, 0.2, 0.3], [0.1, 0.0, 0.1], "variance that is not positive")],
)
def test_bad_input_is_refused(effects: list[float], variances: list[float], message: str) -> None:
    with pytest.raises(FitError, match=message):
        random_effects(effects, variances)
