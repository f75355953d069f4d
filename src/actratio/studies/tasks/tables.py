"""The tables of the study of tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actratio.errors import plural
from actratio.report.findings import Table
from actratio.statistics.multiple import holm
from actratio.studies.tasks.estimates import (
    AT_WIDTH,
    FROM_WIDTH,
    LOSS_SHARES,
    Elasticity,
    EqualLoss,
    OverTasks,
    TaskEstimates,
    rank_correlation,
)
from actratio.studies.tasks.judgement import adjusted_p_values, judge_universal
from actratio.studies.tasks.measured import final_scores

if TYPE_CHECKING:
    import pandas as pd

_NUMBER = "{:.3f}"


def tasks_tables(
    frame: pd.DataFrame,
    settings: Mapping[str, Any],
    estimates: Mapping[str, TaskEstimates],
    groups: Sequence[OverTasks],
    effects: Sequence[Elasticity],
    equal: Mapping[str, Sequence[EqualLoss]],
) -> list[Table]:
    """Return the tables that have rows."""
    planned = len(settings["tasks"])
    tables = [
        _by_task(estimates, planned),
        _over_tasks(groups, planned),
        _doublings(estimates),
        _elasticities(effects),
        _at_equal_loss(equal, estimates, settings["widths"]),
        _correlations(frame, settings["data"], estimates),
    ]
    return [table for table in tables if table.rows]


def _by_task(estimates: Mapping[str, TaskEstimates], planned: int) -> Table:
    adjusted = adjusted_p_values([item.exponent for item in estimates.values()], planned)
    rows = [
        [
            task,
            item.exponent.alpha.interval().format(_NUMBER),
            _p(p),
            "" if item.from_wide is None else item.from_wide.alpha.interval().format(_NUMBER),
            "" if item.active is None else item.active.format("{:.1f}"),
            "" if item.curvature is None else item.curvature.interval().format(_NUMBER),
            f"{item.exponent.left_out:.0%}",
        ]
        for (task, item), p in zip(estimates.items(), adjusted, strict=True)
    ]
    return Table(
        "The exponent of each task",
        ["task", "α", "p of α = ½", f"α, N ≥ {FROM_WIDTH}", f"A at N = {AT_WIDTH}", "curvature", "error of √N"],
        rows,
        "Parentheses: 95% intervals, the wider of those over seeds and over networks (A: over seeds). p: adjusted by Holm's method. Curvature: "
        "coefficient of (log N)²; below 0, growth slows down as width grows. Error of √N: at left-out widths, root mean square in log A.",
    )


def _over_tasks(groups: Sequence[OverTasks], planned: int) -> Table:
    rows = []
    for group in groups:
        combined = group.combined
        rows.append(
            [
                group.name,
                str(len(group.exponents)),
                "" if combined is None else combined.mean.format(_NUMBER),
                "" if combined is None else f"{combined.tau:.3f}",
                "" if combined is None else f"{combined.prediction.low:.3f} … {combined.prediction.high:.3f}",
                f"{group.worst_error:.0%}",
                judge_universal(group.exponents, planned),
            ]
        )
    return Table(
        "α over tasks",
        ["networks", "tasks", "mean α", "τ", "new task", "worst error of √N", "√N for all?"],
        rows,
        "Random effects. τ: standard deviation of α between tasks. New task: 95% prediction interval of its α. With two hidden layers, α is that of the "
        "layer's own width, given the other's.",
    )


def _doublings(estimates: Mapping[str, TaskEstimates]) -> Table:
    places = sorted({width for item in estimates.values() for width in item.doublings})
    rows = [
        [
            task,
            *(item.doublings[width].plus_minus("{:.2f}") if width in item.doublings else "" for width in places),
        ]
        for task, item in estimates.items()
    ]
    return Table(
        "Exponent of each step in width",
        ["task", *(f"from N = {width}" for width in places)],
        rows,
        "log(A₂/A₁)/log(N₂/N₁) between neighbouring widths, ± half of the 95% interval over seeds. √N has 0.50 everywhere.",
    )


def _elasticities(effects: Sequence[Elasticity]) -> Table:
    rows = [
        [
            item.name,
            ", ".join(f"{level:,}" for level in item.levels),
            item.active.interval().format("{:+.3f}"),
            item.alpha.interval().format("{:+.3f}"),
            "the wider of seeds and levels" if item.has_spare_levels else "seeds; these two levels only",
        ]
        for item in effects
    ]
    return Table(
        "Interventions (exploratory)",
        ["intervention", "levels", "elasticity of A", "change of α", "interval over"],
        rows,
        "Elasticity: slope of log A against the logarithm of the level, at equal width and equal steps. Change of α: for each factor of e in the level. "
        "Parentheses: 95% intervals. Each level counts once, because all its widths learn the same data. Two levels can't show how far a level is from the line, "
        "so their interval says nothing about other levels.",
    )


def _at_equal_loss(
    equal: Mapping[str, Sequence[EqualLoss]], estimates: Mapping[str, TaskEstimates], widths: Sequence[int]
) -> Table:
    rows = [
        [task, *(_equal_loss_cell(found, widths) for found in at_losses), f"{estimates[task].exponent.alpha.value:.2f}"]
        for task, at_losses in equal.items()
    ]
    return Table(
        "α at equal training loss",
        ["task", *(f"loss {share:.0%}" for share in LOSS_SHARES), "last step, all widths"],
        rows,
        "The loss is a share of log(classes), the loss of a uniform guess. First figure: α at this loss, ± half of the 95% interval over seeds, from the widths that "
        "all seeds reached it at, if there are at least three. After the arrow: α of the same widths after the last step. Brackets: these widths, and the censored "
        "runs, which never reached the loss. Columns with other widths can't be compared with each other; the two figures of a cell can.",
    )


def _equal_loss_cell(found: EqualLoss, widths: Sequence[int]) -> str:
    notes = [_widths_text(found.widths, sorted(widths))]
    if found.censored:
        notes.append(f"{found.censored} of {plural(found.runs, 'run')} censored")
    shown = (
        "" if math.isnan(found.alpha.value) else f"{found.alpha.plus_minus('{:.2f}')} → {found.last_step.value:.2f} "
    )
    return f"{shown}[{'; '.join(notes)}]"


def _widths_text(reached: Sequence[int], widths: Sequence[int]) -> str:
    """Return how many widths, and which ones unless they are all."""
    count = plural(len(reached), "width")
    if len(reached) in (0, len(widths)):
        return count
    first = list(widths).index(reached[0])
    if len(reached) > 2 and list(reached) == list(widths[first : first + len(reached)]):
        return f"{count}, {reached[0]} to {reached[-1]}"
    return f"{count}, {', '.join(map(str, reached))}"


def _correlations(
    frame: pd.DataFrame, data: Mapping[str, Mapping[str, Any]], estimates: Mapping[str, TaskEstimates]
) -> Table:
    tasks = [task for task, item in estimates.items() if item.active is not None]
    scores = {task: final_scores(frame, task) for task in tasks}
    properties = {
        "inputs": [data[task]["features"] for task in tasks],
        "classes": [data[task]["classes"] for task in tasks],
        "training examples": [data[task]["train"] for task in tasks],
        "training loss": [scores[task][0] for task in tasks],
        "held-out accuracy": [scores[task][1] for task in tasks],
    }
    alpha = [estimates[task].exponent.alpha.value for task in tasks]
    active = [item.value for task in tasks if (item := estimates[task].active) is not None]
    found = [(name, rank_correlation(x, alpha), rank_correlation(x, active)) for name, x in properties.items()]
    found = [item for item in found if not math.isnan(item[1][0])]
    p_values = [p for _, *pairs in found for _, p in pairs]
    adjusted = iter(holm(p_values))
    rows = [[name, *(f"{rho:+.2f} (p {_p(next(adjusted))})" for rho, _ in pairs)] for name, *pairs in found]
    return Table(
        "Rank correlations over tasks (exploratory)",
        ["property of the task", "with α", f"with A at N = {AT_WIDTH}"],
        rows,
        f"Spearman's correlation over {len(tasks)} tasks; p adjusted by Holm's method over the table. Properties go together, so none of them can be called a cause.",
    )


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
