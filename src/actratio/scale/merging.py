"""Merging the counts of shards whose texts reach different parts of the model."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from actratio.counting.measurement import Measurement, Row, no_tokens
from actratio.sites.roles import block_of
from actratio.sites.site import MEASURED, Site

_Key = tuple[str, str, str]


def merge_shards(first: Measurement, second: Measurement) -> Measurement:
    """Return both together, with no tokens for the sites that one of them doesn't have.

    Raises:
        RunError: as for ``Measurement.merge``.
    """
    mine, theirs = ({(row.site.name, row.tensor, row.criterion): row for row in part} for part in (first, second))
    if [row.site for row in first] != [row.site for row in second]:
        keys = _joined(list(mine), list(theirs))
        sites = _sites([row.site for key in keys for part in (mine, theirs) if (row := part.get(key)) is not None])
        first = replace(first, rows=_filled(keys, mine, theirs, sites))
        second = replace(second, rows=_filled(keys, theirs, mine, sites))
    return first.merge(second)


def _joined(first: Sequence[_Key], second: Sequence[_Key]) -> list[_Key]:
    """Return the keys of both. Between those that both have, they are in the order of the numbers in their names."""
    place = {key: number for number, key in enumerate(first)}
    keys: list[_Key] = []
    done = 0
    waiting: list[_Key] = []
    for key in second:
        if key not in place:
            waiting.append(key)
        elif place[key] >= done:
            keys += [*_in_order(first[done : place[key]], waiting), key]
            done, waiting = place[key] + 1, []
    return keys + _in_order(first[done:], waiting)


def _in_order(first: Sequence[_Key], second: Sequence[_Key]) -> list[_Key]:
    """Merge two lists of different keys. Both keep their order."""
    return list(heapq.merge(first, second, key=lambda key: [int(part) for part in re.findall(r"\d+", key[0])]))


def _sites(sites: Iterable[Site]) -> dict[str, dict[str, int]]:
    """Return what may differ between shards, by the sites' names: the layer, counted again, and the most calls in a forward pass."""
    blocks: dict[str, int] = {}
    found: dict[str, dict[str, int]] = {}
    for site in sites:
        block = block_of(site.owner) or block_of(site.module or "")
        layer = blocks.setdefault(block, len(blocks)) if site.role in MEASURED else -1
        calls = max(site.calls, found.get(site.name, {}).get("calls", 0))
        found[site.name] = {"layer": layer, "calls": calls}
    return found


def _filled(
    keys: Iterable[_Key], own: dict[_Key, Row], others: dict[_Key, Row], sites: dict[str, dict[str, int]]
) -> list[Row]:
    rows = []
    for key in keys:
        row = own.get(key) or others[key]
        changes: Any = sites[row.site.name]
        site = replace(row.site, **changes)
        rows.append(replace(row, site=site, counts=row.counts if key in own else no_tokens(site.width)))
    return rows
