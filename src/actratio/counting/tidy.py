"""Counts as a tidy table, one row for each site and seed, for measurements and studies alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from actratio.counting.counts import SiteCounts
from actratio.counting.declarations import readings_of

if TYPE_CHECKING:
    import pandas as pd

READINGS = tuple(name for name, item in readings_of(SiteCounts).items() if item.column is not None)
"""Readings that have a column, in order."""


class TidyRows(NamedTuple):
    """One row of the table, or one for each seed of a stack.

    Attributes:
        before: the columns before those that are counted.
        counts: of one site; stacked counts make one row for each element of their leading axes, in order.
        after: the columns after those that are counted; a list has one value for each row.
    """

    before: Mapping[str, Any]
    counts: SiteCounts
    after: Mapping[str, Any]


def tidy_frame(items: Iterable[TidyRows], columns: Sequence[str], readings: Sequence[str] = READINGS) -> pd.DataFrame:
    """Return the tidy table.

    Args:
        columns: all columns in order; the items must have them in this order, with ``tokens`` and the readings between
            the columns before and after.
        readings: which readings are columns.
    """
    import pandas as pd

    rows: list[tuple[Any, ...]] = []
    for before, counts, after in items:
        size = counts.active.shape[:-1].numel()
        values = [_column(counts, name, size) for name in readings]
        trailing = [value if isinstance(value, list) else [value] * size for value in after.values()]
        leading = (*before.values(), counts.tokens)
        rows += [(*leading, *row) for row in zip(*values, *trailing, strict=True)]
    return pd.DataFrame(rows, columns=list(columns))


def _column(counts: SiteCounts, name: str, size: int) -> list[Any]:
    value = getattr(counts, name)
    kind = readings_of(SiteCounts)[name].column
    if value is None:
        return [float("nan")] * size
    values = value.flatten().tolist() if isinstance(value, Tensor) else [value] * size
    return values if kind is None else [kind(item) for item in values]
