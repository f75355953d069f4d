"""What was looked at afterwards, as sentences, tables and charts; see ``afterwards``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from actratio.laws.root_rule import BAND
from actratio.report.chart import ForestChart
from actratio.report.findings import Table
from actratio.statistics.estimate import Estimate
from actratio.studies.mlp.afterwards import (
    FanOutFit,
    WithinNetworks,
    changes_of_shared_networks,
    epoch_at_step,
    fit_fan_out,
    last_against_inner,
    steps_within_networks,
)
from actratio.studies.mlp.naming import dataset_title

if TYPE_CHECKING:
    import pandas as pd

_ALPHA, _FACTOR = "{:.2f}", "{:.2f}"
_NETWORKS, _CROSSED = "article's", "B0's"
_EARLY, _LATE = "early", "late"


@dataclass(frozen=True)
class Afterwards:
    """What was looked at afterwards on one data set.

    Attributes:
        fits: the networks, the training step and the fit; the article's networks after the last epoch, the same after about as many
            steps as B0's, and B0's.
        within: steps inside B0's deepest networks of equal widths.
        last: by width, the second layer's active neurons where it is the last one over those in a deeper network.
        shared: by architecture and layer, how many times as many neurons are active in the article's block as in B0.
    """

    fits: list[tuple[str, int, FanOutFit]]
    within: WithinNetworks | None = None
    last: dict[int, Estimate] = field(default_factory=dict)
    shared: dict[tuple[str, int], Estimate] = field(default_factory=dict)

    @property
    def alphas(self) -> dict[str, Estimate]:
        """α at equal depth after the last epoch, of the article's networks and of B0's."""
        return {networks: fit.alpha for networks, _, fit in reversed(self.fits)}


def look_afterwards(article: pd.DataFrame, crossed: pd.DataFrame) -> Afterwards | None:
    """Return what was looked at afterwards on one data set; ``None`` unless both blocks were trained.

    Args:
        article, crossed: hidden layers of one split, of the article's block and of B0.
    """
    if article.empty or crossed.empty:
        return None
    ends = [rows[rows["epoch"] == rows["epoch"].max()] for rows in (article, crossed)]
    steps = [int(rows["step"].max()) if "step" in rows else 0 for rows in ends]
    points = [(_NETWORKS, ends[0])]
    if 0 < steps[1] < steps[0]:
        points.append((_NETWORKS, article[article["epoch"] == epoch_at_step(article, steps[1])]))
    points.append((_CROSSED, ends[1]))
    fits = [
        (networks, int(rows["step"].max()) if "step" in rows else 0, fit)
        for networks, rows in points
        if (fit := fit_fan_out(rows)) is not None
    ]
    if {networks for networks, _, _ in fits} != {_NETWORKS, _CROSSED}:
        return None
    return Afterwards(
        fits,
        steps_within_networks(ends[1]),
        last_against_inner(ends[1]),
        changes_of_shared_networks(ends[1], ends[0]),
    )


def headline(found: Mapping[str, Afterwards]) -> str:
    """Return the exponents of both blocks in one sentence, and what follows for √N if they lie on both sides of ½."""
    if not found:
        return ""
    alphas = [own.alphas for own in found.values()]
    apart = all(alpha[_NETWORKS].high < 0.5 < alpha[_CROSSED].low for alpha in alphas)
    ours = " and ".join(f"N^{own.alphas[_NETWORKS].value:.2f} ({dataset_title(name)})" for name, own in found.items())
    crossed = " and ".join(f"N^{own.alphas[_CROSSED].value:.2f}" for own in found.values())
    steps = {networks: step for own in found.values() for networks, step, _ in reversed(own.fits)}
    training = (
        f" after {steps[_CROSSED]:,} instead of {steps[_NETWORKS]:,} training steps"
        if 0 < steps[_CROSSED] < steps[_NETWORKS]
        else ""
    )
    start = "A = F·√N isn't a general law: the" if apart else "The"
    return (
        f"{start} number of active neurons grows as {ours} in the article's networks, and "
        f"as {crossed} in a second set of networks (B0){training}."
    )


def afterwards_sentences(found: Mapping[str, Afterwards]) -> list[str]:
    """Return one exploratory sentence or two for each data set."""
    sentences = []
    for name, own in found.items():
        parts = [
            f"{fit.adjusted.format(_ALPHA)} ({networks} networks, {steps:,} steps)"
            for networks, steps, fit in own.fits
            if not math.isnan(fit.adjusted.value)
        ]
        said = []
        if parts:
            said.append(f"with the width of the next layer in the fit, α is {', '.join(parts)}")
        if own.within is not None:
            excluded = ", which excludes 0.95 and less" if own.within.step.low > 0.95 else ""
            said.append(
                "inside B0's deepest networks of equal widths, each layer deeper multiplies A by "
                f"{own.within.step.format(_FACTOR)} from the second layer on{excluded}"
            )
        if said:
            sentences.append(f"{dataset_title(name)}, looked at afterwards: {'; '.join(said)}.")
    return sentences


def afterwards_tables(found: Mapping[str, Afterwards]) -> list[Table]:
    """Return α with and without the fan-out, and the steps inside networks."""
    if not found:
        return []
    rows = [
        [
            name,
            networks,
            f"{steps:,}",
            fit.alpha.format(_ALPHA),
            _shown(fit.adjusted, _ALPHA),
            _shown(fit.fan_out, _ALPHA),
            _shown(fit.last, _FACTOR),
            f"{fit.spread:.2f}",
            f"{fit.adjusted_spread:.2f}",
        ]
        for name, own in found.items()
        for networks, steps, fit in own.fits
    ]
    alphas = Table(
        "Looked at afterwards: α with the width of the next layer in the fit",
        ["dataset", "networks", "steps", "α", "α, with fan-out", "γ", "last layer", "spread", "spread, with fan-out"],
        rows,
        "Exploratory, 27 November 2026. Held-out counts. α: log A = layer + α·log N. With fan-out: the same + γ·log fan-out + a factor for the last "
        "hidden layer, whose fan-out is the number of classes. γ below 0: a layer before a wider one has fewer active neurons. Last layer: "
        "times as many active neurons as with a fan-out of 128. Spread: standard deviation of the residuals in log A. Parentheses: 95% "
        "intervals, the wider one of that over seeds and that over cells.",
    )
    cells = []
    for name, own in found.items():
        if own.within is not None:
            cells.append(
                [
                    name,
                    "step inside the deepest networks of equal widths, second layer to last",
                    own.within.step.format(_FACTOR),
                ]
            )
            cells += [
                [name, f"the same, layer {after - 1} to {after}", step.format(_FACTOR)]
                for after, step in own.within.steps.items()
            ]
        cells += [
            [
                name,
                f"second layer of {width}: last layer of two / inner layer of a deeper network",
                times.format(_FACTOR),
            ]
            for width, times in own.last.items()
        ]
        cells += [
            [name, f"{network}, layer {layer}: the article's training / B0's training", times.format(_FACTOR)]
            for (network, layer), times in own.shared.items()
        ]
    within = Table(
        "Looked at afterwards: the same layer in other networks, and after other training",
        ["dataset", "factor of A", "estimate"],
        cells,
        "Exploratory, 27 November 2026. Held-out counts after the last epoch. Parentheses: 95% intervals over seeds; the networks are fixed.",
        text=True,
    )
    return [alphas, within]


def _shown(estimate: Estimate, number: str) -> str:
    return "" if math.isnan(estimate.value) else estimate.format(number)


def alpha_forest(found: Mapping[str, Afterwards]) -> ForestChart | None:
    """Return α of both blocks as a forest chart, with and without the fan-out; ``None`` if nothing was looked at."""
    if not found:
        return None
    series: dict[str, dict[str, Estimate]] = {}
    for name, own in found.items():
        rows = series.setdefault(dataset_title(name), {})
        for networks, steps, fit in own.fits:
            rows[f"{networks} networks, {steps:,} steps"] = fit.alpha
            if not math.isnan(fit.adjusted.value):
                rows[f"{networks}, {steps:,} steps, with fan-out"] = fit.adjusted
    values = [alpha.value for rows in series.values() for alpha in rows.values()]
    return ForestChart(
        key="alpha-by-networks",
        title=f"α depends on the networks and on the training: {min(values):.2f} to {max(values):.2f}",
        reading="α of A = F·N^α at equal depth, by the networks and the length of their training. Dashed: ½, the article's law; shaded: "
        "exponents that the rule takes for ½. With fan-out: the width of the next layer is in the fit. Bars are 95% intervals, the wider one of that over seeds and that over cells. Exploratory.",
        x_label="α at equal depth",
        series=series,
        reference=0.5,
        band=BAND,
        row_label="networks",
    )
