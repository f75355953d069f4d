"""The charts of a measurement."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from actratio.counting.co_activation import WINDOWS
from actratio.counting.measurement import Measurement, Row
from actratio.report.chart import Chart, HeatMap, Series
from actratio.report.names import short_names
from actratio.report.rows import pooled_first_ratio, pooled_ratio, rows_by_layer, select_rows, tensor_criteria
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
    series = []
    for colour, (tensor, criterion) in enumerate(tensor_criteria(measurement)):
        layers = rows_by_layer(select_rows(measurement, tensor, criterion))
        last = max(max(layers), 1)
        lines = {"": [pooled_ratio(row.counts for row in rows) for rows in layers.values()]}
        if colour == 0:
            lines[", first token"] = [pooled_first_ratio(row.counts for row in rows) for rows in layers.values()]
        for suffix, ratios in lines.items():
            shown = [(layer, ratio) for layer, ratio in zip(layers, ratios, strict=True) if not math.isnan(ratio)]
            if shown:
                line = _line(
                    f"{tensor} {criterion}{suffix}",
                    [(layer / last, ratio) for layer, ratio in shown],
                    colour,
                    "dashed" if suffix else "line",
                )
                series.append(replace(line, labels=[f"layer {layer}" for layer, _ in shown]))
    return Chart(
        "profile",
        "Activation ratio by layer",
        "Each point is one layer: active neurons over all neurons, with experts weighted by their tokens. "
        "The dashed line counts the first token of each sequence only.",
        "relative depth (0: first layer, 1: last layer)",
        "activation ratio",
        series,
        percent=True,
    )


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
