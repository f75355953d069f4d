"""Select and group the rows of a measurement, and compute ratios over several sites."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from actratio.counting.counts import SiteCounts
from actratio.counting.measurement import Measurement, Row


def tensor_criteria(measurement: Measurement) -> list[tuple[str, str]]:
    """Return each pair of tensor and criterion that was measured, in the order of the rows."""
    return list(dict.fromkeys((row.tensor, row.criterion) for row in measurement))


def shown_kinds(measurement: Measurement) -> list[tuple[str, str]]:
    """Return the pairs of tensor and criterion that people are shown first."""
    return without_sign_of_hidden(tensor_criteria(measurement))


def without_sign_of_hidden(kinds: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return pairs of tensor and criterion without ``hidden > 0`` if ``activation > 0`` is among them.

    The sign of h = a ⊙ u is as often that of u, so about half of the values are above zero, whatever the model does.
    """
    return [kind for kind in kinds if kind != ("hidden", "positive") or ("activation", "positive") not in kinds]


def select_rows(measurement: Measurement, tensor: str, criterion: str) -> list[Row]:
    """Return the rows of one tensor and criterion."""
    return [row for row in measurement if (row.tensor, row.criterion) == (tensor, criterion)]


def rows_by_layer(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """Return the rows of each layer, in the order of the layers."""
    layers: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        layers[row.site.layer].append(row)
    return dict(sorted(layers.items()))


def pooled_ratio(sites: Iterable[SiteCounts]) -> float:
    """Return the activation ratio over all sites together, each weighted by its tokens and its width."""
    active = neurons = 0
    for counts in sites:
        active += int(counts.active.sum())
        neurons += counts.tokens * counts.width
    return active / neurons if neurons else math.nan


def pooled_first_ratio(sites: Iterable[SiteCounts]) -> float:
    """Return the activation ratio over all sites together, over the first token of each sequence only."""
    return pooled_ratio(
        SiteCounts(counts.first_tokens, counts.first_active)
        for counts in sites
        if counts.first_tokens and counts.first_active is not None
    )


def pooled_rest_ratio(sites: Iterable[SiteCounts]) -> float:
    """Return the activation ratio over all sites together, without the first token of each sequence."""
    return pooled_ratio(
        SiteCounts(counts.tokens - counts.first_tokens, counts.active - counts.first_active)
        for counts in sites
        if counts.first_tokens is not None and counts.first_active is not None
    )


def pooled_useful_ratio(sites: Iterable[SiteCounts]) -> float:
    """Return the useful ratio over all sites for which it's known, weighted by their tokens and widths."""
    known = [counts for counts in sites if counts.useful is not None and counts.useful_tokens]
    outputs = sum((counts.useful_tokens or 0) * counts.width for counts in known)
    return sum(counts.useful or 0 for counts in known) / outputs if outputs else math.nan
