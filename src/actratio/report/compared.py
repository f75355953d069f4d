"""The findings of a comparison of two measurements: its sentences, its table and its charts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from actratio.counting.comparing import ComparedSite, Comparison
from actratio.counting.counts import FEWEST_TOKENS
from actratio.counting.criteria import comparison as compared_with
from actratio.counting.measurement import Measurement, tokens_of
from actratio.counting.useful import BOUND
from actratio.errors import plural
from actratio.report.chart import Chart, Series
from actratio.report.conclusions import function_names
from actratio.report.findings import Findings, Table
from actratio.report.measured_charts import by_depth
from actratio.report.rows import pooled_ratio, pooled_useful_ratio, select_rows, without_sign_of_hidden
from actratio.statistics.estimate import Estimate

_LARGEST = 3  # layers with the largest changes that a sentence names


def comparison_findings(comparison: Comparison) -> Findings:
    """Return the sentences, the table and the charts of a comparison."""
    return Findings(
        comparison.title,
        f"Share of the neurons of each MLP that are active, counted over {plural(tokens_of(comparison.a), 'token')} in A and "
        f"{plural(tokens_of(comparison.b), 'token')} in B.",
        comparison_sentences(comparison),
        [comparison_table(comparison)],
        comparison_charts(comparison),
        details=_details(comparison),
        exports={"comparison.csv": comparison.to_frame()},
    )


def _details(comparison: Comparison) -> dict[str, str]:
    """Return what each was measured on, and with which versions."""
    details: dict[str, str] = {}
    for letter, measured in (("A", comparison.a), ("B", comparison.b)):
        values = {"model": measured.model, "weights": measured.fingerprint, **measured.settings, **measured.provenance}
        details |= {f"{letter}: {name}": str(value) for name, value in values.items() if value not in (None, [])}
    return details


def comparison_sentences(comparison: Comparison) -> list[str]:
    """Return what changed, one sentence per reading, and what to be careful about."""
    a, b = comparison.names
    sentences = _useful_sentences(comparison)
    for (tensor, criterion), rows in _by_kind(comparison).items():
        ratio_a, ratio_b = pooled_ratio(row.a for row in rows), pooled_ratio(row.b for row in rows)
        if math.isnan(ratio_a + ratio_b):
            continue
        sentences.append(
            f"Active neurons ({tensor} {compared_with(criterion)}): {ratio_a:.1%} in {a}, {ratio_b:.1%} in {b} ({_points(_printed(ratio_b) - _printed(ratio_a))})."
        )
        changes = {
            layer: pooled_ratio(row.b for row in layer_rows) - pooled_ratio(row.a for row in layer_rows)
            for layer, layer_rows in _by_layer(rows).items()
        }
        known = [layer for layer, change in changes.items() if not math.isnan(change)]
        largest = sorted(known, key=lambda layer: -abs(changes[layer]))[:_LARGEST]
        if len(known) > 1 and changes[largest[0]]:
            listed = ", ".join(f"layer {layer} ({_points(changes[layer])})" for layer in largest)
            sentences.append(f"The largest changes of {tensor} {compared_with(criterion)}: {listed}.")
        functions = [function_names(row.site_a for row in rows), function_names(row.site_b for row in rows)]
        if functions[0] != functions[1] and criterion == "positive":
            sentences.append(
                f"Shares above zero of {functions[1]} and {functions[0]} say little about each other: what is below zero is exactly zero "
                "with ReLU, and small with GELU and SiLU. Compare the useful ratios."
            )
    return [*sentences, *_dead_sentences(comparison), *_careful_sentences(comparison)]


def _useful_sentences(comparison: Comparison) -> list[str]:
    ratio_a, ratio_b = _useful_ratios(comparison)
    if math.isnan(ratio_a + ratio_b):
        return []
    a, b = comparison.names
    return [
        f"Useful ratio: {ratio_a:.1%} in {a}, {ratio_b:.1%} in {b} ({_points(_printed(ratio_b) - _printed(ratio_a))}). This share of the neuron outputs is enough to "
        f"give each MLP's output with a mean error of at most {BOUND:.0%}."
    ]


def _useful_ratios(comparison: Comparison) -> tuple[float, float]:
    """Return the useful ratios of A and B over the sites for which both are known."""
    rows = next(iter(_by_kind(comparison).values()))
    known = [row for row in rows if row.a.useful_ratio is not None and row.b.useful_ratio is not None]
    return pooled_useful_ratio(row.a for row in known), pooled_useful_ratio(row.b for row in known)


def _points(change: float) -> str:
    return f"{change * 100:+z.1f} percentage points"


def _printed(ratio: float) -> float:
    """Return a ratio as it is printed, so that a difference is that of the numbers beside it."""
    return round(ratio, 3)


def _dead_sentences(comparison: Comparison) -> list[str]:
    rows = next(iter(_by_kind(comparison).values()))
    counted = [row for row in rows if row.a.tokens and row.b.tokens]
    if not counted:
        return []
    records = [row.record() for row in counted]
    totals = {name: sum(record[name] for record in records) for name in ("dead_a", "dead_b", "width_a", "width_b")}
    a, b = comparison.names
    sentence = f"{totals['dead_b']:,} of {totals['width_b']:,} neurons were never active in {b}, {totals['dead_a']:,} of {totals['width_a']:,} in {a}"
    if all(row.same_neurons for row in counted):
        died, revived = sum(record["died"] for record in records), sum(record["revived"] for record in records)
        sentence += f"; {died:,} were active in {a} only, and {revived:,} in {b} only"
    return [f"{sentence}."]


def _careful_sentences(comparison: Comparison) -> list[str]:
    sentences = []
    if comparison.different_settings:
        sentences.append(
            f"The two were measured with different settings ({', '.join(comparison.different_settings)}), which may explain part of the change."
        )
    if comparison.same_weights:
        sentences.append("Both have the same weights, so all changes come from the text or the settings.")
    fewest = min(tokens_of(comparison.a), tokens_of(comparison.b))
    if fewest < FEWEST_TOKENS:
        sentences.append(f"{plural(fewest, 'token')} are too few to compare dead and always-on neurons.")
    for name, counted in zip(comparison.names, comparison.only_counted, strict=True):
        if counted:
            sentences.append(f"Counted only in {name}, so not compared: {counted}.")
    for name, only in zip(comparison.names, (comparison.only_a, comparison.only_b), strict=True):
        if only:
            more = f" and {len(only) - _LARGEST} more" if len(only) > _LARGEST else ""
            sentences.append(f"Only in {name}: {', '.join(only[:_LARGEST])}{more}.")
    return sentences


def comparison_table(comparison: Comparison) -> Table:
    """Return a table with one row per site, tensor and criterion; what all rows share is in the title."""
    kinds = list(_by_kind(comparison))
    title = comparison.title + (f", {kinds[0][0]}, {kinds[0][1]}" if len(kinds) == 1 else "")
    header = [
        "site",
        "useful A",
        "useful B",
        "ratio A",
        "ratio B",
        "change",
        "dead A",
        "dead B",
        "died",
        "revived",
        "always on A",
        "always on B",
    ]
    if len(kinds) > 1:
        header[1:1] = ["tensor", "criterion"]
    rows = []
    for row in (row for own in _by_kind(comparison).values() for row in own):
        record = row.record()
        cells = [
            record["site"], _share(record["useful_a"]), _share(record["useful_b"]), _share(record["ratio_a"]), _share(record["ratio_b"]), _signed(record["change"]),
            *(_whole(record[name]) for name in ("dead_a", "dead_b", "died", "revived", "always_on_a", "always_on_b")),
        ]  # fmt: skip
        if len(kinds) > 1:
            cells[1:1] = [row.tensor, row.criterion]
        rows.append(cells)
    shown = [at for at, name in enumerate(header) if not name.startswith("useful") or any(row[at] for row in rows)]
    header, rows = [header[at] for at in shown], [[row[at] for at in shown] for row in rows]
    reading = (
        "Useful: smallest share of neuron outputs with which the MLP's output has a mean error of at most 20%. Ratio: active neurons over all "
        "neurons. Change: B − A, in percentage points. Dead, always on: neurons active on none, and on at "
        "least 99%, of the tokens. Died: active in A and dead in B; revived: the other way round; both only for sites with the same name, function and width."
        + (
            " Sites have their names in A."
            if any(row.site_a.name != row.site_b.name for row in comparison.rows)
            else ""
        )
    )
    return Table(title, header, rows, reading)


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2%}"


def _signed(value: float) -> str:
    return "" if math.isnan(value) else f"{value * 100:+.2f}"


def _whole(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def comparison_charts(comparison: Comparison) -> list[Chart]:
    """Return the charts: the ratio over depth in both, the change of each layer, and dead neurons in both."""
    kinds = _by_kind(comparison)
    first, changes = next(iter(kinds)), []
    useful = [
        line
        for colour, (name, measured) in enumerate(_measured(comparison))
        for line in by_depth(f"{name}, useful ratio", select_rows(measured, *first), pooled_useful_ratio, colour)
    ]
    profile = list(useful)
    for number, (tensor, criterion) in enumerate(kinds):
        style = "dashed" if useful or number else "line"
        for colour, (name, measured) in enumerate(_measured(comparison)):
            label = f"{name}, {tensor} {compared_with(criterion)}"
            profile += by_depth(label, select_rows(measured, tensor, criterion), pooled_ratio, colour, style)
        points = [
            (layer, pooled_ratio(row.b for row in rows) - pooled_ratio(row.a for row in rows))
            for layer, rows in _by_layer(kinds[tensor, criterion]).items()
        ]
        changes.append(_series(f"{tensor} {criterion}", points, number))
    layers_of_first = _by_layer(row for row in next(iter(kinds.values())) if row.a.tokens and row.b.tokens)
    dead = [
        _series(
            name,
            [
                (layer, sum(int(counts.dead) for counts in layer_counts) / sum(counts.width for counts in layer_counts))
                for layer, rows in layers_of_first.items()
                for layer_counts in [[(row.a, row.b)[colour] for row in rows]]
            ],
            colour,
        )
        for colour, name in enumerate(comparison.names)
    ]
    charts = [
        Chart(
            "profile",
            _conclusion(comparison),
            "Each point is one layer. The activation ratio is active neurons over all neurons, with experts weighted by their tokens."
            + (
                " The useful ratio is the smallest share of neuron outputs with which the MLP's output has a mean error of at most 20%."
                if useful
                else ""
            ),
            "relative depth (0: first layer, 1: last layer)",
            "share of the neuron outputs",
            profile,
            percent=True,
        ),
        Chart(
            "change",
            "Change of the activation ratio by layer",
            "Ratio in B minus ratio in A. Above zero, B has more active neurons.",
            "layer",
            "ratio in B − ratio in A",
            changes,
            percent=True,
        ),
        Chart(
            "dead",
            "Dead neurons by layer",
            "Neurons that were active on none of the tokens counted; with more text, some of them may become active.",
            "layer",
            "share of the layer's neurons",
            dead,
            percent=True,
        ),
    ]
    return [chart for chart in charts if any(series.x for series in chart.series)]


def _measured(comparison: Comparison) -> Iterable[tuple[str, Measurement]]:
    return zip(comparison.names, (comparison.a, comparison.b), strict=True)


def _conclusion(comparison: Comparison) -> str:
    """Return the useful ratios of the whole models, as the title of their profiles."""
    ratio_a, ratio_b = _useful_ratios(comparison)
    if math.isnan(ratio_a + ratio_b):
        return "Activation ratio by layer"
    a, b = comparison.names
    return f"Useful neuron outputs: {ratio_a:.0%} in {a}, {ratio_b:.0%} in {b}"


def _series(name: str, points: Sequence[tuple[float, float]], colour: int, style: str = "line") -> Series:
    known = [(float(x), y) for x, y in points if not math.isnan(y)]
    return Series(name, [x for x, _ in known], [Estimate(y) for _, y in known], colour, style)


def _by_kind(comparison: Comparison) -> dict[tuple[str, str], list[ComparedSite]]:
    """Return the rows of each tensor and criterion that people are shown first."""
    kinds: dict[tuple[str, str], list[ComparedSite]] = {}
    for row in comparison.rows:
        kinds.setdefault((row.tensor, row.criterion), []).append(row)
    return {kind: kinds[kind] for kind in without_sign_of_hidden(list(kinds))}


def _by_layer(rows: Iterable[ComparedSite]) -> dict[int, list[ComparedSite]]:
    layers: dict[int, list[ComparedSite]] = {}
    for row in rows:
        layers.setdefault(row.site_a.layer, []).append(row)
    return dict(sorted(layers.items()))
