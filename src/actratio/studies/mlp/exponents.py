"""α of the study: by the way of counting, over training, and in the crossed block; as tables and charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from actratio.laws.observations import DatasetLaws
from actratio.laws.results import error_text
from actratio.report.chart import Chart, ForestChart, Series
from actratio.report.findings import Table
from actratio.statistics.estimate import Estimate
from actratio.studies.mlp.afterwards import WithinNetworks
from actratio.studies.mlp.depth import DepthFit
from actratio.studies.mlp.naming import dataset_title
from actratio.studies.mlp.over_training import alpha_at_losses, alpha_by_epoch

if TYPE_CHECKING:
    import pandas as pd

_COUNTS = {"val": "held-out", "train": "training"}
_ALPHA = "{:.3f}"


def exponent_table(fits: Sequence[tuple[str, DatasetLaws]]) -> Table:
    """Return α by data set and way of counting.

    Args:
        fits: how the neurons were counted, and the laws.
    """
    rows = []
    for counts, fitted in fits:
        exponent = fitted.laws.exponent
        rows.append(
            [
                fitted.dataset,
                counts,
                exponent.alpha.format(_ALPHA) if exponent.equal_depth else "",
                _half(exponent.over_seeds),
                _half(exponent.over_cells),
                fitted.laws.fits["power"].parameters["α"].format(_ALPHA),
                error_text(exponent.left_out_width),
                error_text(exponent.left_out_architecture),
            ]
        )
    return Table(
        "The exponent α of A = F·N^α",
        [
            "dataset",
            "counts",
            "α at equal depth",
            "seeds",
            "cells",
            "α, all layers",
            "left-out width",
            "left-out network",
        ],
        rows,
        "After the last epoch. Parentheses: 95% intervals, the wider one of the two whose half-widths are given, over seeds and over "
        "cells. Published: one seed, so that seeds are not in the interval. Left out: error of √N at widths, and at architectures, that were "
        "left out of a fit with a mean for each layer.",
    )


def loss_table(rows_by_dataset: Mapping[str, pd.DataFrame]) -> Table | None:
    """Return α at equal training loss, or ``None`` if no run reaches a loss of the list.

    Args:
        rows_by_dataset: hidden layers of one split by data set.
    """
    rows = []
    for dataset, hidden in rows_by_dataset.items():
        for point in alpha_at_losses(hidden):
            alpha = "" if math.isnan(point.alpha.value) else point.alpha.format(_ALPHA)
            never = point.runs - point.reached - point.early
            rows.append([dataset, f"{point.loss:g}", alpha, str(point.reached), str(point.early), str(never)])
    if not rows:
        return None
    return Table(
        "α at equal training loss",
        ["dataset", "training loss", "α at equal depth", "runs that reached it", "too early", "never"],
        rows,
        "A is interpolated to the epoch at which a run's training loss, the mean over an epoch, first falls to the value. Too early: the "
        "first epoch's loss is already that low, and nothing was recorded within that epoch. The architectures with a run that is too early, or "
        "never gets there, are left out; no α is given for fewer than three architectures.",
    )


def alpha_chart(series: Sequence[tuple[str, str, pd.DataFrame]]) -> Chart | None:
    """Return a chart of α at equal depth over training, or ``None`` if α has no value at any epoch.

    Args:
        series: the data set, how the neurons were counted, and the hidden layers.
    """
    names = list(dict.fromkeys(dataset for dataset, _, _ in series))
    lines, changes = [], []
    for dataset, counts, hidden in series:
        alphas = alpha_by_epoch(hidden[hidden["epoch"] > 0])
        if not alphas:
            continue
        epochs = sorted(alphas)
        style = {"held-out": "line", "training": "dashed", "published": "published"}[counts]
        points = [alphas[epoch] for epoch in epochs]
        lines.append(Series(f"{dataset}, {counts}", list(map(float, epochs)), points, names.index(dataset), style))
        if counts == "held-out" and len(epochs) > 1:
            changes.append(f"from {points[0].value:.2f} to {points[-1].value:.2f} ({dataset})")
    if not lines:
        return None
    return Chart(
        key="alpha-over-training",
        title=f"Over training, α goes {', '.join(changes)}" if changes else "α at equal depth, over training",
        reading="Each line is α of A = F·N^α at equal depth after each epoch, fitted to all hidden layers of the article's networks. ½ is the "
        "article's law, 1 a constant ratio. Bands are 95% intervals, the wider one of that over seeds and that over cells.",
        x_label="epoch",
        y_label="α at equal depth",
        series=lines,
    )


def crossed_table(fits: Sequence[tuple[str, str, DepthFit, DepthFit | None]]) -> Table:
    """Return the fits of the crossed block.

    Args:
        fits: the data set, the split, the fit, and the fit with depth counted from the output.
    """
    layers = list(fits[0][2].alphas)
    rows = []
    for dataset, split, fit, from_output in fits:
        rows.append(
            [
                dataset,
                _COUNTS[split],
                fit.step.format("{:.2f}"),
                *(factor.format("{:.2f}") for factor in fit.steps.values()),
                "" if from_output is None else from_output.step.format("{:.2f}"),
                *(fit.alphas[layer].format("{:.2f}") for layer in layers),
                fit.fan_in.format("{:.2f}"),
            ]
        )
    steps = [f"layer {layer - 1} to {layer}" for layer in fits[0][2].steps]
    return Table(
        "Crossed widths and depths (B0): log A = α_layer·log N + layer + β·log fan-in",
        ["dataset", "counts", "step", *steps, "step, from output", *(f"α, layer {layer}" for layer in layers), "β"],
        rows,
        "Layer 0 is the first hidden layer. Step: factor per layer deeper from layer 1 to the last, at a width and a fan-in of 128. From output: "
        "the same with depth counted from the output, over the layers after the first. Parentheses: 95% intervals.",
    )


def step_chart(
    fits: Sequence[tuple[str, DepthFit, DepthFit | None]], within: Mapping[str, WithinNetworks]
) -> ForestChart:
    """Return a chart of the factor per layer deeper in the crossed block, by what it is read from.

    Args:
        fits: the data set, the planned fit, and the same with depth counted from the output.
        within: the steps inside networks of equal widths, by data set; exploratory.
    """
    series: dict[str, dict[str, Estimate]] = {}
    for dataset, fit, from_output in fits:
        rows = series.setdefault(dataset_title(dataset), {})
        rows["planned fit"] = fit.step
        rows |= {f"planned fit, layer {after - 1} to {after}": step for after, step in fit.steps.items()}
        if from_output is not None:
            rows["planned fit, depth from the output"] = from_output.step
        if dataset in within:
            rows["inside networks"] = within[dataset].step
            rows |= {
                f"inside networks, layer {after - 1} to {after}": step for after, step in within[dataset].steps.items()
            }
    named = [("by the planned fit", "planned fit"), ("inside networks", "inside networks")]
    steps = [
        f"{' / '.join(f'{rows[row].value:.2f}' for rows in series.values())} {words}"
        for words, row in named
        if all(row in rows for rows in series.values())
    ]
    return ForestChart(
        key="step",
        title=f"Step per layer: {', '.join(steps)}",
        reading="How many times as many neurons are active in a layer as in the one before, in the crossed block, from the second layer on; layer 0 is the first hidden layer. Below 1, "
        "deeper layers have fewer active neurons. The planned fit, at a width and a fan-in of 128, takes the width of the next layer for a part of depth. Inside networks: in the deepest "
        "networks of equal widths (exploratory). The title has the data sets in the order of the legend. Bars are 95% intervals.",
        x_label="factor per layer deeper",
        series=series,
        reference=1.0,
        row_label="from",
    )


def _half(estimate: Estimate) -> str:
    return "" if math.isnan(estimate.low) else f"± {(estimate.high - estimate.low) / 2:.3f}"
