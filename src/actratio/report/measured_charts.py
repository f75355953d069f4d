"""The charts of a measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch

from actratio.counting.co_activation import WINDOWS
from actratio.counting.measurement import Measurement, Row
from actratio.laws.estimate import Estimate
from actratio.report.chart import Chart, HeatMap, Series
from actratio.report.rows import by_layer, first_ratio_of, kinds, ratio_of, rows_of

_T = TypeVar("_T")
_THRESHOLDS, _UNIONS = 6, 3  # sites drawn as lines of their own
_RANKS = 100


def measurement_charts(found: Measurement) -> list[Chart | HeatMap]:
    """The charts that the measurement has numbers for."""
    rows = rows_of(found, *kinds(found)[0])
    drawn: list[Chart | HeatMap | None] = [
        _profile(found),
        _ranks(rows),
        _thresholds(found),
        _unions(rows),
        _silent(rows),
        *_experts(rows),
    ]
    return [chart for chart in drawn if chart is not None]


def _profile(found: Measurement) -> Chart:
    series = []
    for colour, (tensor, criterion) in enumerate(kinds(found)):
        layers = by_layer(rows_of(found, tensor, criterion))
        last = max(max(layers), 1)
        lines = {"": [ratio_of(row.counts for row in each) for each in layers.values()]}
        if colour == 0:
            lines[", first token"] = [first_ratio_of(row.counts for row in each) for each in layers.values()]
        for name, ratios in lines.items():
            known = [
                (layer / last, ratio) for layer, ratio in zip(layers, ratios, strict=True) if not math.isnan(ratio)
            ]
            if known:
                series.append(
                    Series(
                        f"{tensor} {criterion}{name}",
                        [place for place, _ in known],
                        [Estimate(ratio) for _, ratio in known],
                        colour,
                        "dashed" if name else "line",
                    )
                )
    return Chart(
        "profile",
        "Activation ratio over depth",
        "Each point is one layer: active neurons over all neurons, experts weighed by their tokens. 0 is the first layer and 1 the last. "
        "The dashed line is the first token of each sequence alone.",
        "relative position of the layer",
        "activation ratio",
        series,
        percent=True,
    )


def _ranks(rows: Sequence[Row]) -> HeatMap | None:
    shown = [row for row in rows if row.counts.tokens and row.site.role != "expert"] or [
        row for row in rows if row.counts.tokens
    ]
    if not shown:
        return None
    places = [rank / _RANKS for rank in range(_RANKS + 1)]
    z = []
    for row in shown:
        frequency = (row.counts.active.double() / row.counts.tokens).sort(descending=True).values
        z.append([float(frequency[round(place * (row.counts.width - 1))]) for place in places])
    return HeatMap(
        "ranks",
        "How often each neuron fires",
        "A row is a site with its neurons sorted from the most active (left) to the least (right); the colour is the share of tokens "
        "on which the neuron was active. A row of one colour shares the work evenly; a short bright stretch means that few neurons do most of it.",
        "rank of the neuron, as a share of the width",
        "site",
        places,
        [row.site.name for row in shown],
        z,
    )


def _thresholds(found: Measurement) -> Chart | None:
    shown = _some([key for key, each in found.magnitudes.items() if key[1] == "activation" and each.total], _THRESHOLDS)
    taus = [2.0**exponent for exponent in range(-12, 5)]
    if not shown:
        return None
    series = [
        Series(name, taus, [Estimate(found.magnitudes[name, tensor].share_above(tau)) for tau in taus], colour)
        for colour, (name, tensor) in enumerate(shown)
    ]
    return Chart(
        "thresholds",
        "Activation ratio at any threshold",
        "The share of activations whose magnitude is at least τ: what would still be computed if smaller ones were taken for zero. "
        "What that costs in quality is not shown here.",
        "threshold τ",
        "share of |a| ≥ τ",
        series,
        x_log=True,
        percent=True,
    )


def _unions(rows: Sequence[Row]) -> Chart | None:
    series = []
    for colour, row in enumerate(
        _some([row for row in rows if row.counts.union is not None and row.counts.tokens], _UNIONS)
    ):
        lines = {"": row.counts.union_ratio, ", if independent": row.counts.independent_union_ratio}
        for name, ratios in lines.items():
            known = [
                (float(window), Estimate(float(ratio)))
                for window, ratio, whole in zip(WINDOWS, ratios, row.counts.windows, strict=True)  # type: ignore[arg-type]
                if whole
            ]
            if known:
                series.append(
                    Series(
                        row.site.name + name,
                        [window for window, _ in known],
                        [ratio for _, ratio in known],
                        colour,
                        "dashed" if name else "line",
                    )
                )
    if not series:
        return None
    return Chart(
        "unions",
        "Neurons needed by several tokens together",
        "The share of neurons that are active for at least one of so many successive tokens: what a kernel that computes them together has to "
        "load. Dashed: what it would be if a neuron's firing on one token said nothing about the next.",
        "successive tokens",
        "union ratio",
        series,
        x_log=True,
        percent=True,
        x_ticks=WINDOWS,
    )


def _silent(rows: Sequence[Row]) -> Chart | None:
    layers = {
        layer: counts
        for layer, each in by_layer(rows).items()
        if (counts := [row.counts for row in each if row.counts.tokens])
    }
    if not layers:
        return None
    widths = [sum(counts.width for counts in each) for each in layers.values()]

    def line(name: str, numbers: list[int], colour: int) -> Series:
        shares = [Estimate(number / width) for number, width in zip(numbers, widths, strict=True)]
        return Series(name, [float(layer) for layer in layers], shares, colour)

    return Chart(
        "silent",
        "Dead and always-on neurons",
        "Dead: active on none of the tokens counted, which a longer text may refute. Always-on: active on at least 99 % of them.",
        "layer",
        "share of the layer's neurons",
        [
            line("dead", [sum(int(counts.dead) for counts in each) for each in layers.values()], 0),
            line("always-on", [sum(int(counts.always_on) for counts in each) for each in layers.values()], 1),
        ],
        percent=True,
    )


def _experts(rows: Sequence[Row]) -> list[HeatMap]:
    layers = by_layer([row for row in rows if row.site.role == "expert"])
    if not layers:
        return []
    places = [float(number) for number in range(max(len(each) for each in layers.values()))]
    ratios, shares = [], []
    for each in layers.values():
        filling = [math.nan] * (len(places) - len(each))
        ratios.append([ratio_of([row.counts]) for row in each] + filling)
        shares.append(
            [row.counts.tokens / row.counts.passed if row.counts.passed else math.nan for row in each] + filling
        )
    names = [str(layer) for layer in layers]
    return [
        HeatMap(
            "experts",
            "Activation ratio of each expert",
            "The share of an expert's neurons that are active, over the tokens that were routed to it. Empty: no token was.",
            "expert",
            "layer",
            places,
            names,
            ratios,
        ),
        HeatMap(
            "routing",
            "Tokens routed to each expert",
            "The share of all tokens of the layer that an expert sees.",
            "expert",
            "layer",
            places,
            names,
            shares,
        ),
    ]


def _some(every: Sequence[_T], number: int) -> Sequence[_T]:
    """So many of them, evenly spaced, the first and the last among them."""
    if len(every) <= number:
        return every
    return [every[int(place)] for place in torch.linspace(0, len(every) - 1, number).round()]
