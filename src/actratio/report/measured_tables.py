"""The tables of a measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from actratio.counting.counts import SiteCounts
from actratio.counting.measurement import Measurement, Row
from actratio.report.findings import Table
from actratio.report.rows import (
    pooled_first_ratio,
    pooled_ratio,
    pooled_rest_ratio,
    pooled_useful_ratio,
    shown_kinds,
    tensor_criteria,
)


def measurement_tables(measurement: Measurement, *, full: bool = False) -> list[Table]:
    """Return one table per criterion, with one row per site and the tensors side by side.

    A tensor that all rows share is in the title.

    Args:
        full: show every tensor and every reading, and give each expert a row of its own. Otherwise only the tensors of ``shown_kinds``
            are shown, the experts of a layer share a row, a number of tokens that all rows share is in the title, and readings without
            any value are left out.
    """
    kinds = tensor_criteria(measurement) if full else shown_kinds(measurement)
    return [_table(measurement, kinds, criterion, full=full) for criterion in dict.fromkeys(own for _, own in kinds)]


def _table(measurement: Measurement, kinds: Sequence[tuple[str, str]], criterion: str, *, full: bool) -> Table:
    rows = [row for row in measurement if row.criterion == criterion and (row.tensor, criterion) in kinds]
    tensors = list(dict.fromkeys(row.tensor for row in rows))
    groups: dict[str, dict[str, list[SiteCounts]]] = {}
    for row in rows:
        groups.setdefault(_group(row, full), {}).setdefault(row.tensor, []).append(row.counts)
    columns: dict[str, list[str]] = {
        "site": list(groups),
        "useful": [_percent(pooled_useful_ratio(next(iter(counts.values())))) for counts in groups.values()],
    }
    for name, cell in _READINGS.items():
        for tensor in tensors:
            header = name if len(tensors) == 1 else f"{tensor} {name}"
            columns[header] = [cell(counts[tensor]) if tensor in counts else "" for counts in groups.values()]
        if name == "ratio":
            columns["tokens"] = [_tokens(next(iter(counts.values()))) for counts in groups.values()]
    title = [f"Activation ratios of {measurement.model}", *(tensors if len(tensors) == 1 else []), criterion]
    if not full:
        if len(set(columns["tokens"])) == 1:
            tokens = columns.pop("tokens")[0]
            title.append(f"{tokens} {'token' if tokens == '1' else 'tokens'}")
        columns = {name: cells for name, cells in columns.items() if any(cells)}
    pooled = len(groups) < len({row.site.name for row in rows})
    return Table(
        ", ".join(title),
        list(columns),
        [list(row) for row in zip(*columns.values(), strict=True)],
        _READING + (" " + _POOLED if pooled else ""),
    )


_READING = (
    "Useful: smallest share of neuron outputs with which the MLP's output has a mean error of at most 20%. Ratio: active neurons over all neurons. Dead, always on: neurons active on none, and on at least 99%, of the tokens. First token, "
    "rest: ratio over the first token of each sequence, and over all other tokens. ± over tokens: standard deviation of the ratio of "
    "single tokens. Overlap: Jaccard index of the active neurons of successive tokens."
)
_POOLED = "The experts of a layer share a row, weighted by the tokens that were routed to them."


def _group(row: Row, full: bool) -> str:
    """Return the name of the row of the table that a site belongs to."""
    name = row.site.name
    return name if full or row.site.role != "expert" else name.rpartition(".")[0] or name


def _percent(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2%}"


def _of_one(text: Callable[[SiteCounts], str]) -> Callable[[Sequence[SiteCounts]], str]:
    """Return a cell that stays empty if several experts share it, because their values can't be pooled."""
    return lambda counts: text(counts[0]) if len(counts) == 1 else ""


def _tokens(counts: Sequence[SiteCounts]) -> str:
    passed = counts[0].passed if len(counts) > 1 else None
    return f"{counts[0].tokens if passed is None else passed:,}"


def _number_of(neurons: list[int]) -> str:
    return f"{sum(neurons):,}" if neurons else ""


def _spread(counts: SiteCounts) -> str:
    spread = counts.ratio_std
    return "" if spread is None else _percent(float(spread))


# The most important readings first: a terminal leaves out columns from the right.
_READINGS: dict[str, Callable[[Sequence[SiteCounts]], str]] = {
    "ratio": lambda counts: _percent(pooled_ratio(counts)),
    "dead": lambda counts: _number_of([int(site.dead) for site in counts if site.tokens]),
    "always on": lambda counts: _number_of([int(site.always_on) for site in counts if site.tokens]),
    "first token": lambda counts: _percent(pooled_first_ratio(counts)),
    "rest": lambda counts: _percent(pooled_rest_ratio(counts)),
    "± over tokens": _of_one(_spread),
    "overlap": _of_one(lambda counts: "" if counts.overlap is None else f"{counts.overlap:.2f}"),
}
