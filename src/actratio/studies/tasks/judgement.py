"""What is judged: √N on each task, on all tasks, and on a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actratio.errors import FitError
from actratio.statistics.linear_model import LinearModel, Numbers, TwoErrors
from actratio.statistics.meta_analysis import RandomEffects, random_effects
from actratio.statistics.multiple import holm_family
from actratio.statistics.verdict import decide, is_inside

SQUARE_ROOT = 0.5
BAND = (0.4, 0.6)
SIGNIFICANCE = 0.05
REFUTING_TASKS = 2
"""How many tasks must reject a claim about all tasks to refute it."""
WORST_ERROR = 0.25

UNIVERSAL_RULE = (
    "no if α = ½ is rejected for at least two tasks at 5% after Holm's correction over all tasks; else yes if every task's 95% "
    "interval lies inside (0.4, 0.6) and the largest left-out error of √N is below 0.25"
)
CURVATURE_BAND = (-0.03, 0.03)
"""Over a 64-fold range of widths, a curvature of 0.03 changes the exponent by 0.25."""

POWER_RULE = (
    "no if a curvature of 0 is rejected for at least two tasks at 5% after Holm's correction over all tasks; else yes if every task's "
    "95% interval lies inside ±0.03"
)
NEW_TASK_RULE = (
    "yes if the 95% prediction interval for a new task lies inside (0.4, 0.6); no if the 95% interval of the mean over tasks lies "
    "outside it"
)


@dataclass(frozen=True)
class TaskExponent:
    """The exponent of one task.

    Attributes:
        task: name of the task.
        alpha: α of A = F·N^α.
        left_out: error of √N at left-out networks, root mean square in log A.
    """

    task: str
    alpha: TwoErrors
    left_out: float


class TaskDesign:
    """α of one layer's width, over a fixed set of networks.

    Args:
        log_width: logarithm of the layer's width in each network.
        others: other columns of the model, such as the logarithm of the other layer's width.
    """

    def __init__(self, log_width: Numbers, *others: Numbers) -> None:
        rest = np.column_stack([np.ones(len(log_width)), *others])
        self._log_width = log_width
        self._full = LinearModel(np.column_stack([log_width, rest]))
        self._rest = LinearModel(rest)
        self._alpha = np.eye(self._full.coefficients)[0]
        self.is_estimable = self._full.can_estimate(self._alpha) and len(set(log_width.tolist())) >= 3

    def exponent(self, task: str, log_active: Numbers) -> TaskExponent:
        """Return the exponent.

        Args:
            task: name of the task.
            log_active: log A, shape (seeds, networks).
        """
        remaining = log_active.mean(0) - SQUARE_ROOT * self._log_width
        alpha = self._full.contrast(self._alpha, log_active)
        return TaskExponent(task, alpha, self._rest.left_out_error(remaining))


def adjusted_p_values(exponents: Sequence[TaskExponent], planned: int) -> list[float]:
    """Return the p-values of α = ½, adjusted by Holm's method for all planned tasks.

    Args:
        exponents: the exponents of the tasks that have one.
        planned: number of tasks; those without an exponent count as not rejected.
    """
    return holm_family([item.alpha.p_value(SQUARE_ROOT) for item in exponents], planned)


def rejected_tasks(exponents: Sequence[TaskExponent], planned: int) -> int:
    """Return for how many tasks α = ½ is rejected; the arguments are those of ``adjusted_p_values``."""
    return sum(p < SIGNIFICANCE for p in adjusted_p_values(exponents, planned))


def judge_universal(exponents: Sequence[TaskExponent], planned: int) -> str:
    """Return the verdict on √N for all tasks, by ``UNIVERSAL_RULE``.

    Args:
        exponents: the exponents of the tasks that have one.
        planned: number of tasks; fewer exponents exclude a yes.
    """
    refuted = rejected_tasks(exponents, planned) >= REFUTING_TASKS
    holds = (
        0 < planned == len(exponents)
        and all(is_inside(item.alpha.interval(), *BAND) for item in exponents)
        and max(item.left_out for item in exponents) < WORST_ERROR
    )
    return decide(yes=holds and not refuted, no=refuted)


def curvature(log_width: Numbers, log_active: Numbers) -> TwoErrors:
    """Return the coefficient of (log N)² in log A.

    Args:
        log_width: logarithm of the width of each network; at least three networks.
        log_active: log A, shape (seeds, networks).
    """
    centred = log_width - log_width.mean()
    model = LinearModel(np.column_stack([np.square(centred), centred, np.ones(len(centred))]))
    return model.contrast([1.0, 0.0, 0.0], log_active)


def judge_power_law(curvatures: Sequence[TwoErrors], planned: int) -> str:
    """Return the verdict on A being a power of N for all tasks, by ``POWER_RULE``.

    Args:
        curvatures: coefficients of (log N)² of the tasks that have one.
        planned: number of tasks; fewer curvatures exclude a yes.
    """
    adjusted = holm_family([item.p_value(0.0) for item in curvatures], planned)
    curved = sum(p < SIGNIFICANCE for p in adjusted) >= REFUTING_TASKS
    straight = 0 < planned == len(curvatures) and all(
        is_inside(item.interval(), *CURVATURE_BAND) for item in curvatures
    )
    return decide(yes=straight and not curved, no=curved)


def judge_new_task(over_tasks: RandomEffects | None) -> str:
    """Return the verdict on √N for a new task, by ``NEW_TASK_RULE``."""
    if over_tasks is None:
        return decide(yes=False, no=False)
    low, high = BAND
    return decide(
        yes=is_inside(over_tasks.prediction, low, high), no=over_tasks.mean.high < low or over_tasks.mean.low > high
    )


def combine(contrasts: Sequence[TwoErrors]) -> RandomEffects | None:
    """Return the random effects over tasks; ``None`` with fewer than three tasks, or if one has no standard error.

    The variance of a task is that of the larger standard error, over seeds or over cells. With the first alone, the scatter
    of the networks, which all seeds share, would pass for a difference between tasks.
    """
    try:
        with np.errstate(divide="ignore", invalid="ignore"):  # statsmodels divides by the heterogeneity, which can be 0
            return random_effects([item.value for item in contrasts], [item.error**2 for item in contrasts])
    except FitError:
        return None
