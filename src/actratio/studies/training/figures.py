"""The charts of the study. Titles say what the data shows, and are computed from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from actratio.report.chart import Chart, ForestChart, Series
from actratio.statistics.estimate import Estimate
from actratio.statistics.seeds import over_seeds
from actratio.studies.training.conditions import CENTRED, CONTRASTS, CONTROL
from actratio.studies.training.forecasts import Form, fit_form
from actratio.studies.training.schedule import log_steps
from actratio.studies.training.summaries import peak_step

if TYPE_CHECKING:
    import pandas as pd

_FEWEST = 5  # points of a fit
_BANDS = "Bands are 95% intervals over seeds. Step 0 is not on a logarithmic axis."


def ratio_chart(courses: Mapping[int, pd.DataFrame], forms: Sequence[Form]) -> Chart:
    """Return the ratio over steps for each width, with the forecasts of the forms for the widest networks.

    Args:
        courses: ratios of the long runs by width; one row per step, one column per seed.
        forms: fitted to the mean over seeds, on the first half of the log-spaced steps from its peak on.
    """
    series = [_curve(f"{width} neurons", ratios, colour) for colour, (width, ratios) in enumerate(courses.items())]
    width = max(courses)
    means = courses[width].mean(axis=1)
    peak, last = peak_step(means), int(means.index.max())
    steps = [step for step in log_steps(last) if step in means.index and step >= peak]
    fitted = steps[: len(steps) // 2]
    x = [step for step in means.index if step >= max(peak, 1)]
    for colour, form in enumerate(forms, start=len(courses)):
        found = fit_form(form, fitted, means.loc[fitted]) if len(fitted) >= _FEWEST and (means > 0).all() else None
        if found is not None:
            y = [Estimate(float(value)) for value in form.curve(np.asarray(x, dtype=float), *found)]
            series.append(Series(f"{form.name}, fitted for {width}", [float(step) for step in x], y, colour, "dashed"))
    over_steps = {width: values.mean(axis=1) for width, values in courses.items()}
    rise = f"rises to {min(values.max() for values in over_steps.values()):.0%} or more, then " if peak > 0 else ""
    most = max(over_steps, key=lambda width: float(over_steps[width].max() - over_steps[width].iloc[-1]))
    until = f", to step {fitted[-1]:,}" if fitted else ""
    return Chart(
        key="ratio-over-training",
        title=f"The ratio {rise}falls, most with {most} neurons",
        reading="Activation ratio on held-out examples, as the mean over two hidden layers. Dashed: curves that are fitted to the first half of the "
        f"log-spaced steps from the peak on{until}. {_BANDS}",
        x_label="training step",
        y_label="activation ratio",
        series=series,
        x_log=True,
        percent=True,
    )


def exponent_chart(estimates: Mapping[int, Estimate], conclusion: str) -> Chart:
    """Return α over epochs."""
    first, last = min(estimates), max(estimates)
    return Chart(
        key="exponent-over-training",
        title=f"α goes from {estimates[first].value:.2f} to {estimates[last].value:.2f}: {conclusion}",
        reading="Exponent of the width law A = F·N^α at the end of an epoch. A law √N would have 0.5 (dashed) throughout. Bands are 95% intervals over seeds.",
        x_label="epoch",
        y_label="exponent α",
        series=[
            Series("α", [float(epoch) for epoch in estimates], list(estimates.values())),
            Series("√N", [float(epoch) for epoch in estimates], [Estimate(0.5)] * len(estimates), 7, "dashed"),
        ],
        x_log=True,
        x_ticks=list(estimates),
    )


def effects_chart(effects: Mapping[str, Estimate], significant: Sequence[str], loss: float) -> ForestChart:
    """Return the main effects on the active neurons.

    Args:
        effects: effect on log A by factor.
        significant: factors whose effect is not 0 after Holm's correction.
        loss: the training loss at which networks are compared.
    """
    changes = {}
    for factor, effect in effects.items():
        ratio = effect.exp()
        changes[CONTRASTS[factor]] = Estimate(*(100 * (value - 1) for value in (ratio.value, ratio.low, ratio.high)))
    named = ", ".join(significant) if significant else "none"
    return ForestChart(
        key="main-effects",
        title=f"{len(significant)} of {len(effects)} factors change the number of active neurons at equal loss",
        reading=f"Change of the active neurons from the low to the high level of a factor, at a training loss of {loss:g}, with 95% intervals over seeds. "
        f"With p < 0.05 after Holm's correction: {named}.",
        x_label="change of active neurons, %",
        series={"change": changes},
        reference=0.0,
        row_label="factor",
    )


def mechanism_chart(arms: Mapping[str, pd.DataFrame]) -> Chart:
    """Return the ratio over steps for each arm, given its ratios by step and seed."""
    means = {name: arms[name].mean(axis=1) for name in (CONTROL, CENTRED) if name in arms}
    ends = [f"{name} {values.max():.0%} and {values.iloc[-1]:.0%}" for name, values in means.items()]
    return Chart(
        key="mechanism",
        title="Ratio at its highest and at the end: " + (", ".join(ends) or "see the lines"),
        reading=f"Each line is one arm. Where the control leaves 50% and the centred arm doesn't, a shift of the pre-activations is the cause. {_BANDS}",
        x_label="training step",
        y_label="activation ratio",
        series=[_curve(name, ratios, colour) for colour, (name, ratios) in enumerate(arms.items())],
        x_log=True,
        percent=True,
    )


def _curve(name: str, ratios: pd.DataFrame, colour: int) -> Series:
    """Return a line of the means over seeds with their intervals, from the first step after 0."""
    after = ratios[ratios.index > 0]
    y = [over_seeds(values.tolist()).clip(0, 1) for _, values in after.iterrows()]
    return Series(name, [float(step) for step in after.index], y, colour)
