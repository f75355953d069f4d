"""The charts of the study of tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from actratio.report.chart import Chart, ForestChart, Series
from actratio.statistics.estimate import Estimate, mean_interval
from actratio.studies.tasks.estimates import Elasticity, OverTasks, TaskEstimates
from actratio.studies.tasks.judgement import BAND, SQUARE_ROOT
from actratio.studies.tasks.measured import select

if TYPE_CHECKING:
    import pandas as pd


def tasks_charts(
    frame: pd.DataFrame,
    estimates: Mapping[str, TaskEstimates],
    groups: Sequence[OverTasks],
    effects: Sequence[Elasticity],
) -> list[Chart | ForestChart]:
    """Return the charts that have something to show."""
    charts: list[Chart | ForestChart] = []
    if groups:
        charts.append(_forest(groups))
    charts.append(_growth(frame))
    if estimates:
        charts.append(_doublings(estimates))
    if effects:
        charts.append(_interventions(effects))
    return charts


def _forest(groups: Sequence[OverTasks]) -> ForestChart:
    first = groups[0]
    ordered = sorted(first.exponents, key=lambda item: item.alpha.value)
    series: dict[str, dict[str, Estimate]] = {
        first.name: {item.task: item.alpha.estimate for item in ordered},
        **{group.name: {item.task: item.alpha.estimate for item in group.exponents} for group in groups[1:]},
    }
    for group in groups:
        if group.combined is not None:
            series[group.name]["mean over tasks"] = group.combined.mean
            series[group.name]["a new task (prediction)"] = group.combined.prediction
    low, high = ordered[0], ordered[-1]
    outside = sum(not BAND[0] <= item.alpha.value <= BAND[1] for item in ordered)
    return ForestChart(
        key="alpha-by-task",
        title=f"α runs from {low.alpha.value:.2f} ({low.task}) to {high.alpha.value:.2f} ({high.task}); "
        f"{outside} of {len(ordered)} lie outside 0.4 to 0.6",
        reading="Each row is one task: the exponent of A = F·N^α with its 95% interval, by kind of network. Dashed: √N. Shaded: values that count as √N. The last "
        "rows are the mean over tasks and the 95% prediction interval for a new task.",
        x_label="exponent α",
        series=series,
        reference=SQUARE_ROOT,
        band=BAND,
        row_label="task",
    )


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
        title = (
            f"From N = {min(widths):.0f} to {max(widths):.0f}, A grows ×{_growth_factor(flattest):.1f} ({flattest.name}) "
            f"to ×{_growth_factor(steepest):.1f} ({steepest.name})"
        )
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
    trend = "falls" if means[-1].value < means[0].value else "rises"
    spread = [
        Series(
            task, [float(w) for w in item.doublings], [Estimate(e.value) for e in item.doublings.values()], 7, "points"
        )
        for task, item in estimates.items()
    ]
    return Chart(
        key="exponent-by-width",
        title=f"The exponent {trend} from {means[0].value:.2f} at N = {places[0]} to {means[-1].value:.2f} at N = {places[-1]}, mean of the tasks",
        reading="The exponent between neighbouring widths, drawn at the smaller one. Line: mean over tasks, with the 95% interval over tasks. Points: single tasks. "
        "A power law is a flat line.",
        x_label="width N (neurons)",
        y_label="exponent from N to the next width",
        series=[
            Series("mean over tasks", x, means, 0),
            Series("√N", x, [Estimate(SQUARE_ROOT)] * len(x), 1, "dashed"),
            *spread,
        ],
        x_log=True,
        x_ticks=x,
    )


def _interventions(effects: Sequence[Elasticity]) -> ForestChart:
    largest = max(effects, key=lambda item: abs(item.active.value))
    return ForestChart(
        key="interventions",
        title=f"The largest elasticity of A is {largest.active.value:+.2f} ({largest.name})",
        reading="Each row is one property that was changed, and the rest left as it was. Elasticity: 0.1 means that ten times as much of the property makes A 26% larger. "
        "Bars are 95% intervals.",
        x_label="elasticity of A, and change of α",
        series={
            "elasticity of A": {item.name: item.active.estimate for item in effects},
            "change of α": {item.name: item.alpha.estimate for item in effects},
        },
        reference=0.0,
        row_label="intervention",
    )
