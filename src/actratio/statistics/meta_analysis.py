"""Random-effects meta-analysis: the mean over tasks, how much tasks differ, and what to expect of a new one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actratio.errors import FitError
from actratio.statistics.estimate import LEVEL, Estimate, student_quantile


@dataclass(frozen=True)
class RandomEffects:
    """The result of ``random_effects``.

    Attributes:
        mean: mean effect over tasks, with the interval of Hartung and Knapp.
        tau: standard deviation of the true effects between tasks.
        prediction: mean with the prediction interval for the true effect of a new task.
        tasks: number of tasks.
    """

    mean: Estimate
    tau: float
    prediction: Estimate
    tasks: int


def random_effects(effects: Sequence[float], variances: Sequence[float], level: float = LEVEL) -> RandomEffects:
    """Combine the effects of several tasks.

    τ² is estimated by Paule and Mandel's method. The interval of the mean is Hartung and Knapp's, with t(k−1). The
    prediction interval is mean ± t(k−2)·√(τ² + SE²), from Higgins, Thompson & Spiegelhalter, "A re-evaluation of
    random-effects meta-analysis", Journal of the Royal Statistical Society A 172 (2009), with the standard error SE of
    Hartung and Knapp.

    Args:
        effects: one estimate per task.
        variances: squared standard error of each estimate, above 0.
        level: confidence level.

    Raises:
        FitError: there are fewer than three tasks, or a variance is not positive and finite.
    """
    from statsmodels.stats.meta_analysis import combine_effects

    effect, variance = np.asarray(effects, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    if len(effect) < 3:
        raise FitError(f"a meta-analysis of {len(effect)} tasks was asked for; give at least three")
    if not (np.isfinite(variance) & (variance > 0)).all():
        raise FitError("a task has a variance that is not positive and finite; give at least two seeds per task")
    with np.errstate(divide="ignore"):  # equal effects, whose share of heterogeneity is not asked for
        combined = combine_effects(effect, variance, method_re="iterated")
    mean, tau2 = float(combined.mean_effect_re), float(combined.tau2)
    error = float(combined.sd_eff_w_re_hksj)
    half = student_quantile(len(effect) - 1, level) * error
    predicted = student_quantile(len(effect) - 2, level) * math.sqrt(tau2 + error**2)
    return RandomEffects(
        Estimate(mean, mean - half, mean + half),
        math.sqrt(tau2),
        Estimate(mean, mean - predicted, mean + predicted),
        len(effect),
    )
