"""CSV files that a spreadsheet opens without running what is in their cells.

A spreadsheet takes a cell that starts with ``=``, ``+``, ``-`` or ``@`` for a formula, and some formulas start programs. So such text
is written with an apostrophe before it, which spreadsheets take as the mark of a text. Text that starts with apostrophes before such a
character gets one more, so that taking one away gives back what was there. Numbers are not changed, also not those that are text.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = re.compile(
    "'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
)  # the last four are full-width forms of the first four
_SEPARATOR = re.compile("[\r;\t]")
_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?|nan)", re.IGNORECASE | re.ASCII)


def as_text(value: Any) -> Any:
    """Return a cell that no spreadsheet runs; only text that starts like a formula changes.

    >>> as_text("=1+1"), as_text("-1.5"), as_text(-1.5), as_text("layer-0")
    ("'=1+1", '-1.5', -1.5, 'layer-0')
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value) else value


def from_text(value: Any) -> Any:
    """Return what ``as_text`` was called with."""
    return value[1:] if isinstance(value, str) and value[:1] == "'" and _FORMULA.match(value) else value


def to_csv(frame: pd.DataFrame, place: Path | None = None, **options: Any) -> str | None:
    """Write a table as CSV in which no cell or name of a column is a formula.

    Args:
        place: the file; ``None`` returns the text.
        options: those of ``DataFrame.to_csv``.
    """
    safe = _each(frame, as_text)
    texts = [*map(str, safe.columns), *(cell for name in safe for cell in safe[name] if isinstance(cell, str))]
    # The csv module leaves them bare, but they end a line or a cell for some readers.
    quoting = csv.QUOTE_NONNUMERIC if any(_SEPARATOR.search(text) for text in texts) else csv.QUOTE_MINIMAL
    written: str | None = safe.to_csv(place, index=False, quoting=quoting, **options)
    return written


def from_csv(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table that ``to_csv`` was called with, from what a reader of CSV returns."""
    return _each(frame, from_text)


def _each(frame: pd.DataFrame, change: Callable[[Any], Any]) -> pd.DataFrame:
    import pandas as pd

    changed = frame.copy()
    for name in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            changed[name] = [change(value) for value in frame[name]]
    return changed.set_axis([change(name) for name in frame.columns], axis=1)
