"""The findings of the study of tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actratio.report.findings import Findings
from actratio.statistics.estimate import Estimate
from actratio.statistics.verdict import NO, YES, Verdict
from actratio.studies.tasks.charts import tasks_charts
from actratio.studies.tasks.conditions import INTERVENTIONS, TASKS
from actratio.studies.tasks.estimates import (
    FROM_WIDTH,
    Elasticity,
    OverTasks,
    TaskEstimates,
    elasticity,
    paired_exponents,
    task_estimates,
)
from actratio.studies.tasks.judgement import (
    NEW_TASK_RULE,
    POWER_RULE,
    SIGNIFICANCE,
    UNIVERSAL_RULE,
    adjusted_p_values,
    judge_new_task,
    judge_power_law,
    judge_universal,
)
from actratio.studies.tasks.measured import last_step, select
from actratio.studies.tasks.tables import tasks_tables

if TYPE_CHECKING:
    import pandas as pd

_PLANNED = {"tasks": list(TASKS), "widths": [16, 32, 64, 128, 256, 512, 1024], "steps": 6_000}
_PLANNED_SEEDS = 5
_SAID = {YES: "√N holds for all {} tasks", NO: "√N doesn't hold for all {} tasks"}
_SAID_UNDECIDED = "Whether √N holds for all {} tasks can't be decided from this"


def tasks_findings(frame: pd.DataFrame, settings: Mapping[str, Any]) -> Findings:
    """Return the verdicts, sentences, tables and charts.

    Args:
        frame: the tidy table of the study.
        settings: the settings of the study.
    """
    tasks, planned = settings["tasks"], len(settings["tasks"])
    found = {task: networks for task in tasks if (networks := select(frame, task)) is not None}
    estimates = {task: item for task, networks in found.items() if (item := task_estimates(task, networks)) is not None}
    all_widths = OverTasks.of("one hidden layer", [item.exponent for item in estimates.values()])
    wide = OverTasks.of(
        f"one hidden layer, N ≥ {FROM_WIDTH}", [item.from_wide for item in estimates.values() if item.from_wide]
    )
    paired = [
        OverTasks.of(f"{name} of two hidden layers", paired_exponents(frame, tasks, layer))
        for layer, name in enumerate(("first", "second"))
    ]
    effects = [item for item in (elasticity(frame, each) for each in INTERVENTIONS) if item is not None]
    single, double = ([group for group in groups if group.exponents] for groups in ((all_widths, wide), paired))
    return Findings(
        title="Does √N hold for all classification tasks?",
        lead=(
            f"{planned} tasks, one hidden layer of {', '.join(map(str, settings['widths']))} ReLU neurons, {settings['steps']:,} steps of "
            f"Adam, {settings['seeds']} seeds. A is the mean number of neurons above zero for a held-out example after the last step, "
            "and α its exponent in A = F·N^α. √N means α = ½."
        ),
        sentences=_sentences(all_widths, wide, effects, planned),
        tables=tasks_tables(frame, settings, estimates, [*single, *double], effects),
        charts=tasks_charts(frame, estimates, single, double, effects),
        details={
            f"data: {task}": f"{facts['train']:,} + {facts['val']:,} examples, {facts['features']} inputs, {facts['classes']} classes, "
            f"SHA-256 {facts['fingerprint'][:16]}…"
            for task, facts in settings["data"].items()
        },
        data={"alpha": {task: item.exponent.alpha.estimate.to_dict() for task, item in estimates.items()}},
        exports={"alpha.csv": _alpha_table(estimates)} if estimates else {},
        verdicts=_verdicts(frame, settings, all_widths, wide, paired, estimates),
    )


def is_as_planned(frame: pd.DataFrame, settings: Mapping[str, Any]) -> bool:
    """Return whether the study has the tasks, widths, steps and seeds that the predictions were written for."""
    return (
        all(settings[name] == value for name, value in _PLANNED.items())
        and settings["seeds"] >= _PLANNED_SEEDS
        and last_step(frame) == settings["steps"]
    )


def _verdicts(
    frame: pd.DataFrame,
    settings: Mapping[str, Any],
    all_widths: OverTasks,
    wide: OverTasks,
    paired: Sequence[OverTasks],
    estimates: Mapping[str, TaskEstimates],
) -> list[Verdict]:
    planned = len(settings["tasks"])
    as_planned = is_as_planned(frame, settings)

    def universal(claim: str, group: OverTasks, confirmatory: bool = False) -> Verdict:
        verdict = judge_universal(group.exponents, planned)
        return Verdict(claim, verdict, _farthest(group), UNIVERSAL_RULE, confirmatory, "α farthest from ½")

    verdicts = [
        universal("A = F·√N holds for all tasks", all_widths, as_planned),
        universal(f"A = F·√N holds for all tasks, N ≥ {FROM_WIDTH}", wide),
        *(universal(f"A = F·√N holds for all tasks, {group.name}", group) for group in paired),
    ]
    prediction = all_widths.combined.prediction if all_widths.combined else Estimate(math.nan)
    curvatures = [item.curvature for item in estimates.values() if item.curvature is not None]
    strongest = max(
        (item.estimate for item in curvatures), key=lambda item: abs(item.value), default=Estimate(math.nan)
    )
    return [
        *verdicts,
        Verdict(
            "A is a power of N for all tasks",
            judge_power_law(curvatures, planned),
            strongest,
            POWER_RULE,
            False,
            "curvature farthest from 0",
        ),
        Verdict(
            "√N can be assumed for a new task",
            judge_new_task(all_widths.combined),
            prediction,
            NEW_TASK_RULE,
            False,
            "α, prediction for a new task",
        ),
    ]


def _farthest(group: OverTasks) -> Estimate:
    """Return the interval of the task whose α is farthest from ½."""
    estimates = [item.alpha.estimate for item in group.exponents]
    return max(estimates, key=lambda item: abs(item.value - 0.5), default=Estimate(math.nan))


def _sentences(all_widths: OverTasks, wide: OverTasks, effects: Sequence[Elasticity], planned: int) -> list[str]:
    exponents = all_widths.exponents
    if not exponents:
        return ["No task has three widths yet, so no exponent was estimated."]
    verdict = judge_universal(exponents, planned)
    rejected = sum(p < SIGNIFICANCE for p in adjusted_p_values(exponents, planned))
    low, high = (choose(exponents, key=lambda item: item.alpha.value) for choose in (min, max))
    sentences = [
        f"{_SAID.get(verdict, _SAID_UNDECIDED).format(planned)}: α = ½ is rejected for {rejected}, and α runs from {low.alpha.value:.2f} ({low.task}) "
        f"to {high.alpha.value:.2f} ({high.task})."
    ]
    combined = all_widths.combined
    if combined is not None:
        prediction, mean = combined.prediction, combined.mean
        sentences.append(
            f"For a new task like these, expect α between {prediction.low:.2f} and {prediction.high:.2f} (95% prediction interval). "
            f"The mean over tasks is {mean.format('{:.2f}')}, and tasks differ by a standard deviation of {combined.tau:.2f}."
        )
    if wide.exponents:
        other = judge_universal(wide.exponents, planned)
        compared = "is the same" if other == verdict else f"changes to {other!r}"
        mean_wide = sum(item.alpha.value for item in wide.exponents) / len(wide.exponents)
        sentences.append(
            f"With widths from {FROM_WIDTH} up only, the verdict {compared}; the tasks' mean α is {mean_wide:.2f}."
        )
    if effects:
        shown = "; ".join(f"{item.name} {item.active.estimate.format('{:+.2f}')}" for item in effects)
        sentences.append(f"Elasticity of A, by intervention: {shown}.")
    return sentences


def _alpha_table(estimates: Mapping[str, TaskEstimates]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for task, item in estimates.items():
        alpha = item.exponent.alpha
        rows.append(
            {
                "task": task,
                "alpha": alpha.value,
                "low": alpha.estimate.low,
                "high": alpha.estimate.high,
                "error_over_seeds": alpha.seed_error,
                "error_over_networks": alpha.cell_error,
                "left_out_error": item.exponent.left_out,
                "active_at_128": math.nan if item.active is None else item.active.value,
            }
        )
    return pd.DataFrame(rows)
