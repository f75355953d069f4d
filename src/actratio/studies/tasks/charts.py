"""The charts of the study of tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from actratio.report.chart import Chart, ForestChart, Series
from actratio.statistics.estimate import Estimate, mean_interval
from actratio.studies.tasks.estimates import Elasticity, OverTasks, TaskEstimates
from actratio.studies.tasks.judgement import BAND, SQUARE_ROOT, TaskExponent
from actratio.studies.tasks.measured import select

if TYPE_CHECKING:
    import pandas as pd


def tasks_charts(
    frame: pd.DataFrame,
    estimates: Mapping[str, TaskEstimates],
    single: Sequence[OverTasks],
    paired: Sequence[OverTasks],
    effects: Sequence[Elasticity],
) -> list[Chart | ForestChart]:
    """Return the charts that have something to show."""
    charts: list[Chart | ForestChart] = []
    if single:
        charts.append(_forest(single))
    growth = _growth(frame)
    if growth.series:
        charts.append(growth)
    if estimates:
        charts.append(_doublings(estimates))
    if paired:
        charts.append(_replication(paired))
    if effects:
        charts.append(_interventions(effects))
    return charts


def _forest(groups: Sequence[OverTasks]) -> ForestChart:
    """Return the chart of α by task, from networks with one hidden layer."""
    last_rows = "The last rows are the mean over tasks and the 95% prediction interval for a new task."
    return ForestChart(
        key="alpha-by-task",
        title=_range_title("α", groups[0]),
        reading="Each row is one task: the exponent of A = F·N^α with its 95% interval. Dashed: √N. Shaded: values that count as √N."
        + (f" {last_rows}" if groups[0].combined is not None else ""),
        x_label="exponent α, one hidden layer",
        series=_forest_series(groups),
        reference=SQUARE_ROOT,
        band=BAND,
        row_label="task",
    )


def _replication(groups: Sequence[OverTasks]) -> ForestChart:
    """Return the chart of α by task, from networks with two hidden layers."""
    return ForestChart(
        key="alpha-of-two-layers",
        title=_range_title(f"α of the {groups[0].name}", groups[0]),
        reading="Each row is one task: the exponent of a layer's own width, given the other layer's width, with its 95% interval. Dashed: √N. Shaded: values that "
        "count as √N.",
        x_label="exponent α, two hidden layers",
        series=_forest_series(groups),
        reference=SQUARE_ROOT,
        band=BAND,
        row_label="task",
    )


def _ordered(group: OverTasks) -> list[TaskExponent]:
    return sorted(group.exponents, key=lambda item: item.alpha.value)


def _range_title(what: str, group: OverTasks) -> str:
    """Return the lowest and the highest α, and how many tasks lie outside the band."""
    ordered = _ordered(group)
    low, high = (f"{item.alpha.value:.2f} ({item.task})" for item in (ordered[0], ordered[-1]))
    outside = sum(not BAND[0] <= item.alpha.value <= BAND[1] for item in ordered)
    band = f"{BAND[0]} to {BAND[1]}"
    if len(ordered) == 1:
        return f"{what} is {low}, {'outside' if outside else 'inside'} {band}"
    lie = "lies" if outside == 1 else "lie"
    return f"{what} runs from {low} to {high}; {outside} of {len(ordered)} tasks {lie} outside {band}"


def _forest_series(groups: Sequence[OverTasks]) -> dict[str, dict[str, Estimate]]:
    ordered = [item.task for item in _ordered(groups[0])]
    series = {}
    for group in groups:
        by_task = {item.task: item.alpha.interval() for item in group.exponents}
        series[group.name] = {task: by_task[task] for task in ordered if task in by_task}
        if group.combined is not None:
            series[group.name]["mean over tasks"] = group.combined.mean
            series[group.name]["a new task (prediction)"] = group.combined.prediction
    return series


def _growth(frame: pd.DataFrame) -> Chart:
    series, widths = [], set()
    for index, task in enumerate(dict.fromkeys(frame["dataset"])):
        found = select(frame, task)
        if found is None:
            continue
        x = [float(round(math.exp(width))) for width in found.log_width]
        y = [mean_interval(values.tolist()).exp() for values in found.log_active.T]
        series.append(Series(task, x, y, colour=index, style="line" if index < 8 else "published"))
        widths |= set(x)
    steepest = max(series, key=_growth_factor, default=None)
    flattest = min(series, key=_growth_factor, default=None)
    title = "Active neurons against width"
    if steepest is not None and flattest is not None and len(widths) > 1:
        title = f"From N = {min(widths):.0f} to {max(widths):.0f}, A grows ×{_growth_factor(flattest):.1f} ({flattest.name})"
        if len(series) > 1:
            title += f" to ×{_growth_factor(steepest):.1f} ({steepest.name})"
    return Chart(
        key="active-by-width",
        title=title,
        reading="Each line is one task: mean number of active neurons for a held-out example, after the last step. Logarithmic axes: a power of N is a straight line. "
        "Bands are 95% intervals over seeds.",
        x_label="width N of the hidden layer (neurons)",
        y_label="active neurons A",
        series=series,
        x_log=True,
        y_log=True,
        x_ticks=sorted(widths),
    )


def _growth_factor(series: Series) -> float:
    return series.y[-1].value / series.y[0].value


def _doublings(estimates: Mapping[str, TaskEstimates]) -> Chart:
    places = sorted({width for item in estimates.values() for width in item.doublings})
    means = [
        mean_interval([item.doublings[width].value for item in estimates.values() if width in item.doublings])
        for width in places
    ]
    x = [float(width) for width in places]
    change = mean_interval(
        [
            item.doublings[places[-1]].value - item.doublings[places[0]].value
            for item in estimates.values()
            if {places[0], places[-1]} <= set(item.doublings)
        ]
        or [0.0]
    )
    trend = "falls" if change.high < 0 else "rises" if change.low > 0 else "doesn't clearly change,"
    points = [(float(width), slope.value) for item in estimates.values() for width, slope in item.doublings.items()]
    single = Series("single tasks", [x for x, _ in points], [Estimate(y) for _, y in points], 7, "points")
    return Chart(
        key="exponent-by-width",
        title=f"The mean exponent {trend} from {means[0].value:.2f} (N = {places[0]}) to {means[-1].value:.2f} (N = {places[-1]})",
        reading="The exponent between neighbouring widths, drawn at the smaller one. Line: mean over tasks, with the 95% interval over tasks. Points: single tasks. "
        "A power law is a flat line.",
        x_label="width N (neurons)",
        y_label="exponent from N to the next width",
        series=[
            Series("mean over tasks", x, means, 0),
            Series("√N", x, [Estimate(SQUARE_ROOT)] * len(x), 1, "dashed"),
            single,
        ],
        x_log=True,
        x_ticks=x,
    )


def _interventions(effects: Sequence[Elasticity]) -> ForestChart:
    largest = max(effects, key=lambda item: abs(item.active.value))
    two = [item.name for item in effects if not item.has_spare_levels]
    only = (
        f" With two levels ({', '.join(two)}), the bars are over seeds and hold for these two levels only."
        if two
        else ""
    )
    return ForestChart(
        key="interventions",
        title=f"The largest elasticity of A is {largest.active.value:+.2f} ({largest.name})",
        reading="Each row is one property that was changed, and the rest left as it was. Elasticity: 0.1 means that ten times as much of the property makes A 26% larger. "
        f"Bars are 95% intervals.{only}",
        x_label="elasticity of A, and change of α",
        series={
            "elasticity of A": {item.name: item.active.interval() for item in effects},
            "change of α": {item.name: item.alpha.interval() for item in effects},
        },
        reference=0.0,
        row_label="intervention",
    )
