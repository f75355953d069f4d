"""The report of a measurement: what was found in words, its table, its charts and its page."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from actratio.counts import BLOCKS, WINDOWS, SiteCounts
from actratio.estimate import Estimate
from actratio.measurement import Measurement, Row
from actratio.report.chart import Chart, HeatMap, Series
from actratio.report.page import Page, Table, write_page
from actratio.report.static import save_charts

_T = TypeVar("_T")
_THRESHOLDS, _UNIONS = 6, 3  # sites drawn as lines of their own
_RANKS = 100
_BLOCK = 0  # of BLOCKS, the one that is told in words
_WINDOW = WINDOWS.index(16)

_COLUMNS = {
    "site": "site", "tensor": "tensor", "criterion": "criterion", "tokens": "tokens", "activation_ratio": "ratio",
    "ratio_std": "± over tokens", "first_ratio": "first token", "rest_ratio": "rest", "dead": "dead",
    "always_on": "always on", "overlap": "overlap",
}  # fmt: skip


def write_measured(found: Measurement, folder: Path) -> Path:
    """Write ``figures/`` and ``report.html`` into ``folder``; returns the page."""
    drawn = charts(found)
    save_charts(drawn, folder / "figures")
    tokens = max((row.counts.tokens for row in found), default=0)
    page = Page(
        f"Activation ratios of {found.model}",
        f"Share of the neurons of each MLP that are active, counted exactly over {tokens:,} tokens (or examples), padding left out.",
        findings(found),
        [table(found)],
        drawn,
        {name: str(value) for name, value in found.provenance.items()},
    )
    return write_page(page, folder / "report.html")


def table(found: Measurement) -> Table:
    """A row a site, tensor and criterion; what is the same in all of them goes to the title."""
    frame, names, title = found.to_frame(), list(_COLUMNS), f"Activation ratios of {found.model}"
    for name in ("tensor", "criterion"):
        if frame[name].nunique() == 1:
            names.remove(name)
            title += f", {frame[name].iloc[0]}"
    rows = [[_cell(name, value) for name, value in zip(names, row, strict=True)] for row in frame[names].to_numpy()]
    reading = (
        "'± over tokens' is the standard deviation of a token's own ratio; 'first token' and 'rest' are the ratio of the first "
        "token of each sequence and of all others; 'overlap' is the Jaccard overlap of the active neurons of successive tokens."
    )
    return Table(title, [_COLUMNS[name] for name in names], rows, reading)


def _cell(name: str, value: object) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return f"{value:.2f}" if name == "overlap" else f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def findings(found: Measurement) -> list[str]:
    """What was measured, in words."""
    said = []
    for tensor, criterion in _kinds(found):
        rows = _of(found, tensor, criterion)
        ratios = {layer: _ratio(row.counts for row in each) for layer, each in _by_layer(rows).items()}
        known = {layer: ratio for layer, ratio in ratios.items() if not math.isnan(ratio)}
        if not known:
            continue
        least, most = min(known, key=lambda layer: known[layer]), max(known, key=lambda layer: known[layer])
        said.append(
            f"{_ratio(row.counts for row in rows):.1%} of the neurons are active by {tensor} {_words(criterion)}, "
            f"from {known[least]:.1%} in layer {least} to {known[most]:.1%} in layer {most}."
        )
    rows = _of(found, *_kinds(found)[0])
    said += _of_silence(rows) + _of_sets(rows) + _of_experts(rows)
    return said


def _of_silence(rows: Sequence[Row]) -> list[str]:
    seen = [row.counts for row in rows if row.counts.tokens]
    if not seen:
        return []
    dead, neurons = sum(int(counts.dead) for counts in seen), sum(counts.width for counts in seen)
    fewest = min(seen, key=lambda counts: counts.tokens)
    always = sum(int(counts.always_on) for counts in seen)
    return [
        f"{dead:,} of {neurons:,} neurons were never active; with 95 % confidence each of them fires on less than "
        f"{fewest.rule_of_three:.2%} of such tokens ({fewest.tokens:,} were counted). "
        f"{always:,} were active on at least 99 % of them."
    ]


def _of_sets(rows: Sequence[Row]) -> list[str]:
    union = alone = width = idle = blocks = 0.0
    for counts in (row.counts for row in rows):
        ratios = counts.union_ratio
        if ratios is not None and not math.isnan(float(ratios[_WINDOW])):
            width += counts.width
            union += float(ratios[_WINDOW]) * counts.width
            alone += float(counts.independent_union_ratio[_WINDOW]) * counts.width
        if counts.idle_blocks is not None:
            idle += int(counts.idle_blocks[_BLOCK])
            blocks += -(-counts.width // BLOCKS[_BLOCK]) * counts.tokens
    said = []
    if width:
        said.append(
            f"{WINDOWS[_WINDOW]} successive tokens together need {union / width:.1%} of the neurons; "
            f"if neurons fired independently of the token before, it would be {alone / width:.1%}."
        )
    if blocks:
        said.append(f"{idle / blocks:.1%} of the blocks of {BLOCKS[_BLOCK]} successive neurons hold no active one.")
    return said


def _of_experts(rows: Sequence[Row]) -> list[str]:
    experts = [(row.counts, row.counts.passed) for row in rows if row.counts.passed]
    if not experts:
        return []
    neurons = sum((passed or 0) * counts.width for counts, passed in experts)
    density = sum(int(counts.active.sum()) for counts, _ in experts) / neurons
    unused = sum(not counts.tokens for counts, _ in experts)
    return [
        f"Of the neurons of all experts of a layer, {density:.2%} are active for a token, those of experts that it is not "
        f"routed to included; {unused:,} of {len(experts):,} experts were reached by no token."
    ]


def charts(found: Measurement) -> list[Chart | HeatMap]:
    """The charts that the measurement has numbers for."""
    rows = _of(found, *_kinds(found)[0])
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
    for colour, (tensor, criterion) in enumerate(_kinds(found)):
        layers = _by_layer(_of(found, tensor, criterion))
        last = max(max(layers), 1)
        lines = {"": [_ratio(row.counts for row in each) for each in layers.values()]}
        if colour == 0:
            lines[", first token"] = [_first_ratio(row.counts for row in each) for each in layers.values()]
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
        for layer, each in _by_layer(rows).items()
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
    layers = _by_layer([row for row in rows if row.site.role == "expert"])
    if not layers:
        return []
    places = [float(number) for number in range(max(len(each) for each in layers.values()))]
    ratios, shares = [], []
    for each in layers.values():
        filling = [math.nan] * (len(places) - len(each))
        ratios.append([_ratio([row.counts]) for row in each] + filling)
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


def _kinds(found: Measurement) -> list[tuple[str, str]]:
    """Each tensor and criterion that was measured, the first ones first."""
    return list(dict.fromkeys((row.tensor, row.criterion) for row in found))


def _of(found: Measurement, tensor: str, criterion: str) -> list[Row]:
    return [row for row in found if (row.tensor, row.criterion) == (tensor, criterion)]


def _by_layer(rows: Iterable[Row]) -> dict[int, list[Row]]:
    layers: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        layers[row.site.layer].append(row)
    return dict(sorted(layers.items()))


def _ratio(every: Iterable[SiteCounts]) -> float:
    """Active neurons over neurons of several sites together."""
    active = neurons = 0
    for counts in every:
        active += int(counts.active.sum())
        neurons += counts.tokens * counts.width
    return active / neurons if neurons else math.nan


def _first_ratio(every: Iterable[SiteCounts]) -> float:
    firsts = [
        SiteCounts(each.first_tokens, each.first_active)
        for each in every
        if each.first_tokens and each.first_active is not None
    ]
    return _ratio(firsts)


def _some(every: Sequence[_T], number: int) -> Sequence[_T]:
    """So many of them, evenly spaced, the first and the last among them."""
    if len(every) <= number:
        return every
    return [every[int(place)] for place in torch.linspace(0, len(every) - 1, number).round()]


def _words(criterion: str) -> str:
    return {"positive": "> 0", "nonzero": "≠ 0"}.get(criterion, criterion)
