"""Everything that is estimated for each task, over tasks, and for each intervention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from actratio.statistics.estimate import Estimate, mean_interval
from actratio.statistics.linear_model import LinearModel, Numbers, TwoErrors
from actratio.statistics.meta_analysis import RandomEffects
from actratio.statistics.seeds import log_slope
from actratio.statistics.trajectories import at_loss
from actratio.studies.tasks.conditions import Intervention
from actratio.studies.tasks.judgement import TaskDesign, TaskExponent, combine, curvature
from actratio.studies.tasks.measured import Networks, loss_paths, select

if TYPE_CHECKING:
    import pandas as pd

FROM_WIDTH = 64
AT_WIDTH = 128
LOSS_SHARES = (0.5, 0.2, 0.05)
"""Targets of the comparison at equal loss, as shares of the loss of a uniform guess."""

_MIN_WIDTHS = 3


@dataclass(frozen=True)
class TaskEstimates:
    """What is estimated for one task from its networks with one hidden layer.

    Attributes:
        exponent: α over all widths.
        from_wide: α from ``FROM_WIDTH``; ``None`` with fewer than three widths.
        active: A at ``AT_WIDTH``; ``None`` if this width was not trained.
        curvature: coefficient of (log N)²; ``None`` with fewer than four widths.
        doublings: exponent of each doubling, by the smaller width.
    """

    exponent: TaskExponent
    from_wide: TaskExponent | None
    active: Estimate | None
    curvature: TwoErrors | None
    doublings: Mapping[int, Estimate]


def task_estimates(task: str, found: Networks) -> TaskEstimates | None:
    """Return the estimates of a task; ``None`` with fewer than three widths."""
    exponent = _exponent(task, found)
    if exponent is None:
        return None
    at = found.at(AT_WIDTH)
    order = np.argsort(found.log_width)
    doublings = {}
    for first, second in pairwise(order):
        growth = found.log_width[second] - found.log_width[first]
        slopes = (found.log_active[:, second] - found.log_active[:, first]) / growth
        doublings[round(math.exp(found.log_width[first]))] = mean_interval(slopes.tolist())
    return TaskEstimates(
        exponent=exponent,
        from_wide=_exponent(task, found.at_least(FROM_WIDTH)),
        active=mean_interval(at.tolist()).exp() if len(at) else None,
        curvature=curvature(found.log_width, found.log_active) if len(found.log_width) > 3 else None,
        doublings=doublings,
    )


def _exponent(task: str, found: Networks, *others: Numbers) -> TaskExponent | None:
    design = TaskDesign(found.log_width, *others) if len(found.log_width) >= _MIN_WIDTHS else None
    return design.exponent(task, found.log_active) if design is not None and design.is_estimable else None


def paired_exponents(frame: pd.DataFrame, tasks: Sequence[str], layer: int) -> list[TaskExponent]:
    """Return α of one layer of the networks with two hidden layers, given the other layer's width, by task."""
    exponents = []
    for task in tasks:
        found = select(frame, task, layers=2, layer=layer)
        exponent = None if found is None else _exponent(task, found, found.log_other)
        if exponent is not None:
            exponents.append(exponent)
    return exponents


@dataclass(frozen=True)
class EqualLoss:
    """α of one task at one training loss.

    Attributes:
        alpha: mean over seeds, with the interval over seeds; NaN with fewer than three widths.
        last_step: α of the same widths after the last step.
        widths: the widths that every seed reached the loss at.
        censored: runs that never reached the loss.
        runs: all runs.
    """

    alpha: Estimate
    last_step: Estimate
    widths: tuple[int, ...]
    censored: int
    runs: int


def equal_loss(frame: pd.DataFrame, task: str, target: float) -> EqualLoss:
    """Return α at the training loss ``target``, from the widths that all seeds reached it at."""
    runs = loss_paths(frame, task)
    found = {run: at_loss(losses, log_active, target) for run, (losses, log_active) in runs.items()}
    reached = {run: value for run, value in found.items() if not math.isnan(value)}
    seeds = sorted({seed for _, seed in runs})
    widths = tuple(width for width in sorted({w for w, _ in reached}) if all((width, s) in reached for s in seeds))
    last = {run: float(log_active[-1]) for run, (_, log_active) in runs.items()}

    def alpha(log_active: Mapping[tuple[int, int], float]) -> Estimate:
        if len(widths) < _MIN_WIDTHS:
            return Estimate(math.nan)
        return mean_interval(
            [log_slope(widths, [math.exp(log_active[width, seed]) for width in widths]) for seed in seeds]
        )

    return EqualLoss(alpha(reached), alpha(last), widths, len(runs) - len(reached), len(runs))


@dataclass(frozen=True)
class Elasticity:
    """What one intervention does.

    Attributes:
        intervention: the intervention.
        levels: levels that were measured.
        active: elasticity of A at equal width. Its cells are the levels.
        alpha: change of α for each factor of e. Its cells are the levels too.
    """

    intervention: Intervention
    levels: tuple[int, ...]
    active: TwoErrors
    alpha: TwoErrors

    @property
    def name(self) -> str:
        """The task and the factor."""
        return f"{self.intervention.task}: {self.intervention.factor}"

    @property
    def has_spare_levels(self) -> bool:
        """Whether the levels show how far a level is from the fitted line. Two levels don't."""
        return self.active.cells.degrees > 0


def elasticity(frame: pd.DataFrame, intervention: Intervention) -> Elasticity | None:
    """Return the effect of an intervention; ``None`` if fewer than two levels share two widths and a seed.

    How far a level is from the line is shared by all its widths, because they learn the same data. So each level counts once:
    with its mean of log A over the widths, and with its α.
    """
    found = {
        level: networks
        for level, condition in sorted(intervention.conditions.items())
        if (networks := select(frame, condition.task, factor=condition.factor, level=condition.level)) is not None
    }
    if len(found) < 2:
        return None
    widths = sorted(set.intersection(*({round(math.exp(w)) for w in item.log_width} for item in found.values())))
    seeds = sorted(set.intersection(*(set(item.seeds) for item in found.values())))
    if len(widths) < 2 or not seeds:
        return None
    paired = [item.of_seeds(seeds) for item in found.values()]
    log_active = np.stack([[item.at(width) for width in widths] for item in paired])  # (levels, widths, seeds)
    log_level = np.log(list(found))
    centred = np.log(widths) - np.log(widths).mean()
    model = LinearModel(np.column_stack([log_level - log_level.mean(), np.ones(len(found))]))
    return Elasticity(
        intervention,
        tuple(found),
        model.contrast([1.0, 0.0], log_active.mean(1).T),
        model.contrast([1.0, 0.0], np.einsum("lws,w->sl", log_active, centred / (centred @ centred))),
    )


@dataclass(frozen=True)
class OverTasks:
    """α of all tasks by one kind of network.

    Attributes:
        name: the kind of network.
        exponents: α by task.
        combined: random effects; ``None`` with fewer than three tasks, or if one has no standard error.
    """

    name: str
    exponents: Sequence[TaskExponent]
    combined: RandomEffects | None

    @classmethod
    def of(cls, name: str, exponents: Sequence[TaskExponent]) -> OverTasks:
        """Combine the tasks."""
        return cls(name, exponents, combine([item.alpha for item in exponents]))

    @property
    def worst_error(self) -> float:
        """The largest left-out error of √N; NaN without tasks."""
        return max((item.left_out for item in self.exponents), default=math.nan)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return Spearman's rank correlation and its p-value; NaN with fewer than four pairs or a constant."""
    from scipy.stats import spearmanr

    if len(x) < 4 or len(set(x)) < 2 or len(set(y)) < 2:
        return math.nan, math.nan
    found = spearmanr(x, y)
    return float(found.statistic), float(found.pvalue)
