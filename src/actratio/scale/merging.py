"""Merging the counts of shards whose texts reach different parts of the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

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
    if mine.keys() != theirs.keys():
        keys = _joined(mine, theirs)
        layers = _layers((mine.get(key) or theirs[key]).site for key in keys)
        first = replace(first, rows=_filled(keys, mine, theirs, layers))
        second = replace(second, rows=_filled(keys, theirs, mine, layers))
    return first.merge(second)


def _joined(first: Iterable[_Key], second: Iterable[_Key]) -> list[_Key]:
    """Return the keys of both; those that only the second has follow the key that they follow there."""
    keys = list(first)
    known = set(keys)
    place = 0
    for key in second:
        if key in known:
            place = keys.index(key) + 1
        else:
            keys.insert(place, key)
            place += 1
    return keys


def _layers(sites: Iterable[Site]) -> dict[str, int]:
    """Number the blocks of sites in the order of execution, by the sites' names."""
    blocks: dict[str, int] = {}
    layers = {}
    for site in sites:
        block = block_of(site.owner) or block_of(site.module or "")
        layers[site.name] = blocks.setdefault(block, len(blocks)) if site.role in MEASURED else -1
    return layers


def _filled(keys: Iterable[_Key], own: dict[_Key, Row], others: dict[_Key, Row], layers: dict[str, int]) -> list[Row]:
    rows = []
    for key in keys:
        row = own.get(key) or others[key]
        site = replace(row.site, layer=layers[row.site.name])
        rows.append(replace(row, site=site, counts=row.counts if key in own else no_tokens(site.width)))
    return rows
