"""The charts of a measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from actratio.counting.co_activation import WINDOWS
from actratio.counting.counts import SiteCounts
from actratio.counting.criteria import comparison
from actratio.counting.measurement import Measurement, Row
from actratio.counting.useful import BOUND
from actratio.report.chart import Chart, HeatMap, Series
from actratio.report.conclusions import function_names
from actratio.report.names import short_names
from actratio.report.rows import (
    pooled_ratio,
    pooled_useful_ratio,
    rows_by_layer,
    select_rows,
    shown_kinds,
    tensor_criteria,
)
from actratio.statistics.estimate import Estimate

Item = TypeVar("Item")

_THRESHOLD_SITES, _UNION_SITES = 6, 3  # number of sites with lines of their own
_RANKS = 100


def measurement_charts(measurement: Measurement) -> list[Chart | HeatMap]:
    """Return the charts for which the measurement has numbers."""
    rows = select_rows(measurement, *tensor_criteria(measurement)[0])
    names = [row.site.name for row in rows]
    labels = dict(zip(names, short_names(names)[0], strict=True))
    charts: list[Chart | HeatMap | None] = [
        _profile(measurement),
        _ranks(rows, labels),
        _thresholds(measurement, labels),
        _unions(rows, labels),
        _silent(rows),
        *_experts(rows),
    ]
    return [chart for chart in charts if chart is not None]


def _profile(measurement: Measurement) -> Chart:
    kinds = shown_kinds(measurement)
    useful = by_depth("useful ratio", select_rows(measurement, *kinds[0]), pooled_useful_ratio, 0)
    ratios = []
    for colour, (tensor, criterion) in enumerate(kinds, start=1):
        rows = select_rows(measurement, tensor, criterion)
        ratios += by_depth(
            f"{tensor} {comparison(criterion)} ({function_names(row.site for row in rows)})", rows, pooled_ratio, colour
        )
    reading = (
        "Each point is one layer. The ratio is active neurons over all neurons, with experts weighted by their tokens."
    )
    if useful:
        reading += f" The useful ratio is the smallest share of neuron outputs with which the MLP's output has a mean error of at most {BOUND:.0%}."
    return Chart(
        "profile",
        _conclusion(measurement, *kinds[0]),
        reading,
        "relative depth (0: first layer, 1: last layer)",
        "share of the neuron outputs",
        [*useful, *ratios],
        percent=True,
    )


def _conclusion(measurement: Measurement, tensor: str, criterion: str) -> str:
    """Return the ratios of the whole model, as the title of its profile."""
    rows = select_rows(measurement, tensor, criterion)
    useful, ratio = (pooled(row.counts for row in rows) for pooled in (pooled_useful_ratio, pooled_ratio))
    if math.isnan(ratio):
        return "Activation ratio by layer"
    active = f"{ratio:.0%} of the neuron outputs are active ({tensor} {comparison(criterion)})"
    if (tensor, criterion) == ("activation", "positive"):
        active = f"{ratio:.0%} of the {function_names(row.site for row in rows)} outputs are above zero"
    return active if math.isnan(useful) else f"{useful:.0%} of the neuron outputs are useful, {active}"


def by_depth(
    name: str, rows: Sequence[Row], pooled: Callable[[Iterable[SiteCounts]], float], colour: int, style: str = "line"
) -> list[Series]:
    """Return a ratio of each layer over relative depth as one series, or none if no layer has it."""
    layers = rows_by_layer(rows)
    last = max(max(layers), 1)
    ratios = [(layer, pooled(row.counts for row in own)) for layer, own in layers.items()]
    shown = [(layer, ratio) for layer, ratio in ratios if not math.isnan(ratio)]
    if not shown:
        return []
    line = _line(name, [(layer / last, ratio) for layer, ratio in shown], colour, style)
    return [replace(line, labels=[f"layer {layer}" for layer, _ in shown])]


def _ranks(rows: Sequence[Row], labels: Mapping[str, str]) -> HeatMap | None:
    counted = [row for row in rows if row.counts.tokens]
    shown = [row for row in counted if row.site.role != "expert"] or counted
    if not shown:
        return None
    places = [rank / _RANKS for rank in range(_RANKS + 1)]
    z = []
    for row in shown:
        frequency = (row.counts.active.double() / row.counts.tokens).sort(descending=True).values
        z.append([float(frequency[round(place * (row.counts.width - 1))]) for place in places])
    return HeatMap(
        "ranks",
        "How often each neuron is active",
        "Each row is one site, with its neurons sorted from the most to the least active. The colour is the share of tokens on which a "
        "neuron is active. In a row of one colour all neurons are equally active; in a row with a short bright part, few neurons are active often.",
        "rank of the neuron (share of the width)",
        "site",
        places,
        [labels[row.site.name] for row in shown],
        z,
    )


def _thresholds(measurement: Measurement, labels: Mapping[str, str]) -> Chart | None:
    keys = [key for key, magnitudes in measurement.magnitudes.items() if key[1] == "activation" and magnitudes.total]
    if not keys:
        return None
    taus = [2.0**exponent for exponent in range(-12, 5)]
    return Chart(
        "thresholds",
        "Activation ratio by threshold",
        "Share of activations a with |a| ≥ τ: the share that is still computed if smaller activations are set to zero. "
        "The chart does not show how much quality this costs.",
        "threshold τ",
        "share with |a| ≥ τ",
        [
            _line(labels[site], [(tau, measurement.magnitudes[site, tensor].share_above(tau)) for tau in taus], colour)
            for colour, (site, tensor) in enumerate(_spread(keys, _THRESHOLD_SITES))
        ],
        x_log=True,
        percent=True,
    )


def _unions(rows: Sequence[Row], labels: Mapping[str, str]) -> Chart | None:
    counted = [row for row in rows if row.counts.union is not None and row.counts.tokens]
    series = []
    for colour, row in enumerate(_spread(counted, _UNION_SITES)):
        lines = {"": row.counts.union_ratio, ", if independent": row.counts.independent_union_ratio}
        for suffix, ratios in lines.items():
            points = [
                (float(window), float(ratio))
                for window, ratio, windows in zip(WINDOWS, ratios, row.counts.windows, strict=True)  # type: ignore[arg-type]
                if windows
            ]
            if points:
                series.append(_line(labels[row.site.name] + suffix, points, colour, "dashed" if suffix else "line"))
    if not series:
        return None
    return Chart(
        "unions",
        "Neurons used by several tokens together",
        "Share of neurons that are active for at least one of several successive tokens: the share that a kernel must load to compute "
        "these tokens together. Dashed lines show the share if a neuron's activity were independent between tokens.",
        "number of successive tokens",
        "union ratio",
        series,
        x_log=True,
        percent=True,
        x_ticks=WINDOWS,
    )


def _silent(rows: Sequence[Row]) -> Chart | None:
    layers = rows_by_layer(row for row in rows if row.counts.tokens)
    if not layers:
        return None
    dead, always_on = [], []
    for layer, layer_rows in layers.items():
        width = sum(row.counts.width for row in layer_rows)
        dead.append((float(layer), sum(int(row.counts.dead) for row in layer_rows) / width))
        always_on.append((float(layer), sum(int(row.counts.always_on) for row in layer_rows) / width))
    return Chart(
        "silent",
        "Dead and always-on neurons by layer",
        "Dead: active on none of the tokens counted; with more text, some of them may become active. Always-on: active on at least 99% of the tokens.",
        "layer",
        "share of the layer's neurons",
        [_line("dead", dead, 0), _line("always-on", always_on, 1)],
        percent=True,
    )


def _experts(rows: Sequence[Row]) -> list[HeatMap]:
    layers = rows_by_layer(row for row in rows if row.site.role == "expert")
    if not layers:
        return []
    places = [float(expert) for expert in range(max(len(experts) for experts in layers.values()))]
    ratios, shares = [], []
    for experts in layers.values():
        missing = [math.nan] * (len(places) - len(experts))
        ratios.append([pooled_ratio([row.counts]) for row in experts] + missing)
        shares.append(
            [row.counts.tokens / row.counts.passed if row.counts.passed else math.nan for row in experts] + missing
        )
    names = [f"layer {layer}" for layer in layers]
    return [
        HeatMap(
            "experts",
            "Activation ratio of each expert",
            "Share of an expert's neurons that are active, over the tokens routed to it. Experts without tokens are blank.",
            "expert",
            "layer",
            places,
            names,
            ratios,
        ),
        HeatMap(
            "routing",
            "Tokens routed to each expert",
            "Share of the layer's tokens that are routed to an expert.",
            "expert",
            "layer",
            places,
            names,
            shares,
        ),
    ]


def _line(name: str, points: Iterable[tuple[float, float]], colour: int, style: str = "line") -> Series:
    """Return a series of points without intervals."""
    x, y = zip(*points, strict=True)
    return Series(name, list(x), [Estimate(value) for value in y], colour, style)


def _spread(items: Sequence[Item], number: int) -> Sequence[Item]:
    """Return at most ``number`` items, evenly spaced and including the first and the last."""
    if len(items) <= number:
        return items
    return [items[int(place)] for place in torch.linspace(0, len(items) - 1, number).round()]
