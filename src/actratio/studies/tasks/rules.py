"""The rules of the verdicts, with studies that are simulated under known truths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actratio.statistics.linear_model import Numbers
from actratio.statistics.rules import Rule
from actratio.studies.tasks.judgement import (
    NEW_TASK_RULE,
    POWER_RULE,
    UNIVERSAL_RULE,
    TaskDesign,
    TaskExponent,
    combine,
    curvature,
    judge_new_task,
    judge_power_law,
    judge_universal,
)

_TASKS, _SEEDS = 12, 5
_LOG_WIDTHS = np.log([16, 32, 64, 128, 256, 512, 1024])
_SEED_SPREAD = 0.02  # standard deviation of log A over seeds
_DESIGN = TaskDesign(_LOG_WIDTHS)


@dataclass(frozen=True)
class Truth:
    """How the tasks of a simulated study behave.

    Attributes:
        mean: mean of α over tasks.
        tau: standard deviation of α over tasks.
        curvature: coefficient of (log N)² on every task.
        scatter: standard deviation in log A of each network around its task's curve, the same for all seeds.
    """

    mean: float
    tau: float
    scatter: float
    curvature: float = 0.0


def simulate(truth: Truth, rng: np.random.Generator) -> Numbers:
    """Return log A of a simulated study, shape (tasks, seeds, widths)."""
    alphas = truth.mean + truth.tau * rng.standard_normal((_TASKS, 1, 1))
    networks = truth.scatter * rng.standard_normal((_TASKS, 1, len(_LOG_WIDTHS)))
    noise = _SEED_SPREAD * rng.standard_normal((_TASKS, _SEEDS, len(_LOG_WIDTHS)))
    curve = truth.curvature * np.square(_LOG_WIDTHS - _LOG_WIDTHS.mean())
    log_active: Numbers = alphas * _LOG_WIDTHS + curve + networks + noise
    return log_active


def simulated_exponents(truth: Truth, rng: np.random.Generator) -> list[TaskExponent]:
    """Return the exponents of the tasks of a simulated study."""
    return [_DESIGN.exponent(str(task), log_active) for task, log_active in enumerate(simulate(truth, rng))]


def _universal(truth: Truth, rng: np.random.Generator) -> str:
    return judge_universal(simulated_exponents(truth, rng), _TASKS)


def _new_task(truth: Truth, rng: np.random.Generator) -> str:
    return judge_new_task(combine([item.alpha for item in simulated_exponents(truth, rng)]))


def _power_law(truth: Truth, rng: np.random.Generator) -> str:
    return judge_power_law([curvature(_LOG_WIDTHS, log_active) for log_active in simulate(truth, rng)], _TASKS)


_TRUTHS = {
    "α = 0.50 on every task, networks scatter by 2%": Truth(0.5, 0.0, 0.02),
    "α = 0.50 on every task, networks scatter by 5%": Truth(0.5, 0.0, 0.05),
    "α = 0.50 on every task, networks scatter by 10%": Truth(0.5, 0.0, 0.1),
    "α = 0.53 on every task, 5%": Truth(0.53, 0.0, 0.05),
    "α = 0.60 on every task, 5%": Truth(0.6, 0.0, 0.05),
    "α = 0.35 on every task, 5%": Truth(0.35, 0.0, 0.05),
    "mean α = 0.50, τ = 0.03, 5%": Truth(0.5, 0.03, 0.05),
    "mean α = 0.50, τ = 0.10, 5%": Truth(0.5, 0.1, 0.05),
    "mean α = 0.70, τ = 0.10, 5%": Truth(0.7, 0.1, 0.05),
}

_CURVES = {
    "no curvature, networks scatter by 2%": Truth(0.5, 0.1, 0.02),
    "no curvature, networks scatter by 5%": Truth(0.5, 0.1, 0.05),
    "no curvature, networks scatter by 10%": Truth(0.5, 0.1, 0.1),
    "curvature −0.02 on every task, 2%": Truth(0.5, 0.1, 0.02, -0.02),
    "curvature −0.05 on every task, 2%": Truth(0.5, 0.1, 0.02, -0.05),
    "curvature −0.05 on every task, 5%": Truth(0.5, 0.1, 0.05, -0.05),
}

RULES = (
    Rule("√N holds for all tasks", UNIVERSAL_RULE, _TRUTHS, _universal),
    Rule("√N can be assumed for a new task", NEW_TASK_RULE, _TRUTHS, _new_task),
    Rule("A is a power of N for all tasks", POWER_RULE, _CURVES, _power_law),
)
"""The rules of the study."""
