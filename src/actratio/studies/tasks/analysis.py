"""The findings of the study of tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actratio.errors import plural
from actratio.report.findings import Findings
from actratio.statistics.estimate import Estimate
from actratio.statistics.verdict import NO, YES, Verdict
from actratio.studies.tasks.charts import tasks_charts
from actratio.studies.tasks.conditions import INTERVENTIONS
from actratio.studies.tasks.estimates import (
    FROM_WIDTH,
    LOSS_SHARES,
    Elasticity,
    EqualLoss,
    OverTasks,
    TaskEstimates,
    elasticity,
    equal_loss,
    paired_exponents,
    task_estimates,
)
from actratio.studies.tasks.judgement import (
    BAND,
    NEW_TASK_RULE,
    POWER_RULE,
    UNIVERSAL_RULE,
    TaskExponent,
    judge_new_task,
    judge_power_law,
    judge_universal,
    rejected_tasks,
)
from actratio.studies.tasks.measured import select
from actratio.studies.tasks.tables import tasks_tables

if TYPE_CHECKING:
    import pandas as pd


def tasks_findings(frame: pd.DataFrame, settings: Mapping[str, Any]) -> Findings:
    """Return the verdicts, sentences, tables and charts.

    Args:
        frame: the tidy table of the study.
        settings: the settings of the study.
    """
    tasks, data = settings["tasks"], settings["data"]
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
    effects = [item for item in (elasticity(frame, planned) for planned in INTERVENTIONS) if item is not None]
    equal = {
        task: [equal_loss(frame, task, share * math.log(data[task]["classes"])) for share in LOSS_SHARES]
        for task in estimates
    }
    single, double = ([group for group in groups if group.exponents] for groups in ((all_widths, wide), paired))
    return Findings(
        title="Does √N hold for all classification tasks?",
        lead=(
            f"{plural(len(tasks), 'task')}, one hidden layer of {', '.join(map(str, settings['widths']))} ReLU neurons, "
            f"{plural(settings['steps'], 'step')} of Adam, {plural(settings['seeds'], 'seed')}. A is the mean number of neurons above zero for a held-out example after the last step, "
            "and α its exponent in A = F·N^α. √N means α = ½."
        ),
        sentences=_sentences(all_widths, wide, effects, len(tasks)),
        tables=tasks_tables(frame, settings, estimates, [*single, *double], effects, equal),
        charts=tasks_charts(frame, estimates, single, double, effects),
        details={
            f"data: {task}": f"{facts['train']:,} + {facts['val']:,} examples, {facts['features']} inputs, {facts['classes']} classes, "
            f"SHA-256 {facts['fingerprint'][:16]}…"
            for task, facts in data.items()
        },
        data={"alpha": {task: item.exponent.alpha.interval().to_dict() for task, item in estimates.items()}},
        exports={"alpha.csv": _alpha_table(estimates), "alpha_at_equal_loss.csv": _equal_loss_table(equal)}
        if estimates
        else {},
        verdicts=_verdicts(len(tasks), all_widths, wide, paired, estimates),
    )


def _verdicts(
    planned: int,
    all_widths: OverTasks,
    wide: OverTasks,
    paired: Sequence[OverTasks],
    estimates: Mapping[str, TaskEstimates],
) -> list[Verdict]:
    def universal(claim: str, group: OverTasks, confirmatory: bool = False) -> Verdict:
        verdict = judge_universal(group.exponents, planned)
        return Verdict(
            claim,
            verdict,
            _farthest(group),
            UNIVERSAL_RULE,
            confirmatory,
            "α farthest from ½",
            predicted=NO if confirmatory else "",
        )

    verdicts = [
        universal("A = F·√N holds for all tasks", all_widths, confirmatory=True),
        universal(f"A = F·√N holds for all tasks, N ≥ {FROM_WIDTH}", wide),
        *(universal(f"A = F·√N holds for all tasks, {group.name}", group) for group in paired),
    ]
    prediction = all_widths.combined.prediction if all_widths.combined else Estimate(math.nan)
    curvatures = [item.curvature for item in estimates.values() if item.curvature is not None]
    strongest = max(
        (item.interval() for item in curvatures), key=lambda item: abs(item.value), default=Estimate(math.nan)
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
            bounds="95% prediction interval",
        ),
    ]


def _farthest(group: OverTasks) -> Estimate:
    """Return the interval of the task whose α is farthest from ½."""
    estimates = [item.alpha.interval() for item in group.exponents]
    return max(estimates, key=lambda item: abs(item.value - 0.5), default=Estimate(math.nan))


def _sentences(all_widths: OverTasks, wide: OverTasks, effects: Sequence[Elasticity], planned: int) -> list[str]:
    exponents = all_widths.exponents
    if not exponents:
        return ["No task has three widths yet, so no exponent was estimated."]
    sentences = [_answer(all_widths, planned)]
    if all_widths.combined is not None:
        mean, tau = all_widths.combined.mean, all_widths.combined.tau
        sentences.append(
            f"{_extremes(exponents)}; the mean over tasks is {mean.format('{:.2f}')}, and tasks differ by a standard deviation of {tau:.2f}."
        )
    if wide.exponents:
        verdict, other = (judge_universal(group.exponents, planned) for group in (all_widths, wide))
        compared = "is the same" if other == verdict else f"changes to {other!r}"
        mean_wide = sum(item.alpha.value for item in wide.exponents) / len(wide.exponents)
        whose = "the tasks' mean α" if len(wide.exponents) > 1 else "α"
        sentences.append(f"With widths from {FROM_WIDTH} up only, the verdict {compared}; {whose} is {mean_wide:.2f}.")
    if effects:
        shown = "; ".join(
            f"{item.name} {item.active.interval().format('{:+.2f}')}"
            + ("" if item.has_spare_levels else ", for these two levels only")
            for item in effects
        )
        sentences.append(f"Elasticity of A, by intervention: {shown}.")
    return sentences


def _answer(group: OverTasks, planned: int) -> str:
    """Return the answer to the question of the study, with the figure that decides."""
    exponents, verdict = group.exponents, judge_universal(group.exponents, planned)
    everywhere = f"all {planned} tasks" if planned > 1 else exponents[0].task
    said = {
        YES: f"Yes, A = F·√N holds for {everywhere}",
        NO: "No, A = F·√N doesn't hold for all classification tasks",
    }.get(verdict, "It can't be decided from this whether A = F·√N holds for all classification tasks")
    if verdict == YES:
        decides = f"the 95% interval of {'every' if planned > 1 else 'its'} α lies inside {BAND[0]} to {BAND[1]}"
    else:
        missing = "" if len(exponents) == planned else f" ({planned} were planned)"
        decides = (
            f"α = ½ is rejected for {rejected_tasks(exponents, planned)} of {plural(len(exponents), 'task')}{missing}"
        )
    if group.combined is None:
        extremes = _extremes(exponents)
        return f"{said}: {decides}, and {extremes}."
    new = group.combined.prediction
    return f"{said}: {decides}, and for a new task α is expected between {new.low:.2f} and {new.high:.2f} (95% prediction interval)."


def _extremes(exponents: Sequence[TaskExponent]) -> str:
    low, high = (choose(exponents, key=lambda item: item.alpha.value) for choose in (min, max))
    if len(exponents) == 1:
        return f"α of {low.task} is {low.alpha.interval().format('{:.2f}')}"
    return f"α runs from {low.alpha.value:.2f} ({low.task}) to {high.alpha.value:.2f} ({high.task})"


def _alpha_table(estimates: Mapping[str, TaskEstimates]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for task, item in estimates.items():
        alpha = item.exponent.alpha
        rows.append(
            {
                "task": task,
                "alpha": alpha.value,
                "low": alpha.interval().low,
                "high": alpha.interval().high,
                "error_over_seeds": alpha.seeds.error,
                "error_over_networks": alpha.cells.error,
                "left_out_error": item.exponent.left_out,
                "active_at_128": math.nan if item.active is None else item.active.value,
            }
        )
    return pd.DataFrame(rows)


def _equal_loss_table(equal: Mapping[str, Sequence[EqualLoss]]) -> pd.DataFrame:
    import pandas as pd

    rows = [
        {
            "task": task,
            "loss_share": share,
            "alpha": found.alpha.value,
            "low": found.alpha.low,
            "high": found.alpha.high,
            "alpha_at_last_step": found.last_step.value,
            "widths": " ".join(map(str, found.widths)),
            "censored": found.censored,
            "runs": found.runs,
        }
        for task, at_losses in equal.items()
        for share, found in zip(LOSS_SHARES, at_losses, strict=True)
    ]
    return pd.DataFrame(rows)
