"""The rows of a measurement, by kind and by layer, and ratios over several of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from actratio.counting.counts import SiteCounts
from actratio.counting.measurement import Measurement, Row


def kinds(found: Measurement) -> list[tuple[str, str]]:
    """Each tensor and criterion that was measured, the first ones first."""
    return list(dict.fromkeys((row.tensor, row.criterion) for row in found))


def rows_of(found: Measurement, tensor: str, criterion: str) -> list[Row]:
    """The rows of one tensor and criterion."""
    return [row for row in found if (row.tensor, row.criterion) == (tensor, criterion)]


def by_layer(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """The rows of each layer, from the first layer on."""
    layers: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        layers[row.site.layer].append(row)
    return dict(sorted(layers.items()))


def ratio_of(every: Iterable[SiteCounts]) -> float:
    """Active neurons over neurons of several sites together."""
    active = neurons = 0
    for counts in every:
        active += int(counts.active.sum())
        neurons += counts.tokens * counts.width
    return active / neurons if neurons else math.nan


def first_ratio_of(every: Iterable[SiteCounts]) -> float:
    """The same of the first token of each sequence alone."""
    firsts = [
        SiteCounts(each.first_tokens, each.first_active)
        for each in every
        if each.first_tokens and each.first_active is not None
    ]
    return ratio_of(firsts)
