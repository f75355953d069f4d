"""The charts of the study; each title says what the data of the chart shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actratio.report.chart import Chart, ForestChart, Series
from actratio.statistics.estimate import Estimate, mean_interval
from actratio.statistics.seeds import over_seeds
from actratio.statistics.verdict import excludes
from actratio.studies.features.exponents import exponent_of_seeds, exponents_over_training
from actratio.studies.features.grid import (
    DECAYS,
    LABELS,
    MUP,
    PARAMETRISATION,
    PARAMETRISATIONS,
    PLANTED,
    SCHEMES,
    SHUFFLED,
    STANDARD,
    TEACHERS,
    TRUE,
)
from actratio.studies.features.results import Results, arm_name, arm_rows, compare_schemes, scheme_rows

if TYPE_CHECKING:
    import pandas as pd

_INTERVALS = "Bands and bars are 95% intervals over seeds."
_N = "layer width N (neurons)"
_A = "active neurons A"


def study_charts(frame: pd.DataFrame, settings: Mapping[str, Any], results: Results) -> list[Chart | ForestChart]:
    """Return the charts of the tests that the table contains."""
    tests = {str(test): rows for test, rows in frame.groupby("test", sort=False)}
    widths = settings["widths"]
    charts: list[Chart | ForestChart] = []
    if PARAMETRISATION in tests:
        charts.append(_parametrisation(tests[PARAMETRISATION], widths[PARAMETRISATION]))
        charts.append(_over_training(tests[PARAMETRISATION], widths[PARAMETRISATION]))
    for test, found in ((PLANTED, results.planted), (TEACHERS, results.teachers)):
        if found is not None:
            alpha, beta = over_seeds(found.alpha), over_seeds(found.elasticities["features"])
            title = f"A ∝ N^{alpha.value:.2f} for N ≥ 4K, A ∝ K^{beta.value:.2f} at N = {found.width}"
            charts.append(_active_by_width(test, tests[test], title if is_number(alpha, beta) else "Active neurons"))
    if LABELS in tests:
        charts.append(_labels(tests[LABELS], widths[LABELS]))
    return charts


def is_number(*estimates: Estimate) -> bool:
    """Return whether no estimate is NaN."""
    return all(estimate.value == estimate.value for estimate in estimates)


def _curve(rows: pd.DataFrame) -> tuple[list[float], list[Estimate]]:
    """Return the widths, and the active neurons at the step of comparison, as the mean over the layers."""
    last = rows[rows["at_equal_steps"]]
    points = [
        (float(width), mean_interval(own.groupby("seed")["active_mean"].mean().tolist()))
        for width, own in last.groupby("width")
    ]
    return [width for width, _ in points], [active for _, active in points]


def _by_condition(key: str, title: str, reading: str, curves: Sequence[tuple[str, pd.DataFrame, int, str]]) -> Chart:
    series = [Series(name, *_curve(rows), colour, style) for name, rows, colour, style in curves if not rows.empty]
    ticks = sorted({x for drawn in series for x in drawn.x})
    return Chart(key, title, f"{reading} {_INTERVALS}", _N, _A, series, x_log=True, y_log=True, x_ticks=ticks)


def _parametrisation(rows: pd.DataFrame, widths: Sequence[int]) -> Chart:
    standard, mup = (over_seeds(exponent_of_seeds(arm_rows(rows, name, 0.0), widths)) for name in (STANDARD, MUP))
    title = "Active neurons under both parametrisations"
    if is_number(standard, mup):
        title = f"A grows as N^{mup.value:.2f} under muP, as N^{standard.value:.2f} under the standard parametrisation"
    return _by_condition(
        "parametrisation",
        title,
        "Each point is the mean of both hidden layers at the last step. With logarithmic axes, a constant ratio is a line of slope 1. Both "
        "parametrisations are identical at N = 128.",
        [
            (f"{PARAMETRISATIONS[name]}, {arm_name(decay)}", arm_rows(rows, name, decay), colour, style)
            for decay, style in zip(DECAYS, ("line", "published"), strict=True)
            for colour, name in enumerate((STANDARD, MUP))
        ],
    )


def _over_training(rows: pd.DataFrame, widths: Sequence[int]) -> Chart:
    series = []
    for colour, name in enumerate((STANDARD, MUP)):
        points = [
            (float(step), over_seeds(alphas))
            for step, alphas in exponents_over_training(arm_rows(rows, name, 0.0), widths)
            if step
        ]
        points = [(step, alpha) for step, alpha in points if is_number(alpha)]
        series.append(
            Series(PARAMETRISATIONS[name], [step for step, _ in points], [alpha for _, alpha in points], colour)
        )
    title = "The exponent over training"
    if all(drawn.y for drawn in series):
        ends = [f"{drawn.y[-1].value:.2f} under {drawn.name}" for drawn in series]
        title = f"Over training, the exponent goes to {' and '.join(ends)}"
    return Chart(
        "exponent-over-training",
        title,
        "α of A ∝ N^α after each step, without weight decay. Before training half of the neurons are active at every width, so that α is 1. "
        + _INTERVALS,
        "step",
        "exponent α",
        series,
        x_log=True,
    )


def _active_by_width(test: str, rows: pd.DataFrame, title: str) -> Chart:
    conditions = list(dict.fromkeys(rows["condition"]))
    kind = "Planted features" if test == PLANTED else "Teachers"
    return _by_condition(
        f"active-{test}",
        f"{kind}: {title}",
        "Each line is one task with K features or units. If wide layers ran out of features, the lines would be flat, and lie higher for more features.",
        [(name, rows[rows["condition"] == name], colour, "line") for colour, name in enumerate(conditions)],
    )


def _labels(rows: pd.DataFrame, widths: Sequence[int]) -> ForestChart:
    steps: dict[str, Estimate] = {}
    loss: dict[str, Estimate] = {}
    title = "Exponents by labels"
    for scheme in SCHEMES:
        compared = compare_schemes(rows, scheme, widths)
        for found, alphas in ((steps, exponent_of_seeds(scheme_rows(rows, scheme), widths)), (loss, compared.first)):
            if is_number(over_seeds(alphas)):
                found[scheme] = over_seeds(alphas)
        if scheme == SHUFFLED and compared.loss is not None:
            title = _labels_title(over_seeds(compared.difference), compared.loss)
    return ForestChart(
        "exponent-by-labels",
        title,
        "α of A ∝ N^α by label scheme, after equally many steps and at the smallest training loss that the scheme and true labels have in common. "
        + _INTERVALS,
        "exponent α",
        {"after equal steps": steps, "at equal training loss": loss},
        reference=steps[TRUE].value if TRUE in steps else None,
        row_label="labels",
    )


def _labels_title(difference: Estimate, loss: float) -> str:
    if not is_number(difference):
        return "Exponents by labels"
    change = "do not clearly change α"
    if excludes(difference, 0):
        change = f"{'raise' if difference.value > 0 else 'lower'} α by {abs(difference.value):.2f}"
    return f"At loss {loss:g}, shuffled labels {change}"
