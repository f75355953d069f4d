"""What of a table fits a terminal: which rows and columns are shown, and how wide they are. Nothing is printed here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len

from actratio.report.names import short_names

_BORDERS = 3  # characters of padding and border per column
_MOST_ROWS, _ROWS_OF_LONG_TABLES = 24, 12
_SHORTEST_NAME = 8  # of a site's name
_NARROWEST_PHRASES = 24  # of a first column that is wrapped between words
_PLURALS = re.compile(r"\b(layer|block|expert) (?=\d+–)")


@dataclass(frozen=True)
class Grid:
    """A table as it is shown.

    Attributes:
        header, rows: the cells that are shown.
        wraps: the columns after the first hold text, which is wrapped between words.
        notes: what is not shown, and how to see it.
        widths: width of each column without its borders; a header may need several lines.
    """

    header: list[str]
    rows: list[list[str]]
    wraps: bool = False
    notes: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()


def fit(header: list[str], rows: list[list[str]], width: int, *, wraps: bool, every_row: bool) -> Grid:
    """Return what is shown of a table at a width.

    Names are never broken: what all sites' names share is left out, and a name that is still too long is shortened in its
    middle. Successive sites with the same cells share a row. Of a long table, evenly spaced rows are shown. Columns without
    any value are left out, and columns that don't fit, from the right, but never the first, nor the first ratio.
    """
    filled = [at for at in range(len(header)) if at == 0 or any(row[at] for row in rows)]
    grid = Grid([header[at] for at in filled], [[row[at] for at in filled] for row in rows], wraps)
    if header[0] == "site":
        grid = _with_short_names(grid)
        if not every_row:
            grid = _alike_rows_joined(grid)
    if not every_row and len(grid.rows) > _MOST_ROWS:
        shown = evenly_spaced(grid.rows, _ROWS_OF_LONG_TABLES)
        note = f"{len(shown)} of {len(grid.rows)} rows; --full prints every row"
        grid = replace(grid, rows=shown, notes=(*grid.notes, note))
    return _at_width(grid, width)


def evenly_spaced(rows: Sequence[list[str]], number: int) -> list[list[str]]:
    """Return about ``number`` rows: all rows of evenly spaced names, with the first and the last among them."""
    names = list(dict.fromkeys(row[0] for row in rows))
    kept = max(2, number * len(names) // len(rows))
    chosen = {names[round(place * (len(names) - 1) / (kept - 1))] for place in range(kept)}
    return [row for row in rows if row[0] in chosen]


def _with_short_names(grid: Grid) -> Grid:
    names, pattern = short_names([row[0] for row in grid.rows])
    if not pattern:
        return grid
    rows = [[name, *row[1:]] for name, row in zip(names, grid.rows, strict=True)]
    return replace(grid, rows=rows, notes=(*grid.notes, f"sites: {pattern}"))


def _alike_rows_joined(grid: Grid) -> Grid:
    """Join successive rows whose names differ in one number and whose other cells are the same."""
    numbered = {0, *(at for at, name in enumerate(grid.header) if name == "layer")}
    rows = [[_Numbered.of(cell) if at in numbered else cell for at, cell in enumerate(row)] for row in grid.rows]
    for place in range(
        -1, -1 - max((len(row[0].ranges) for row in rows if isinstance(row[0], _Numbered)), default=0), -1
    ):
        joined: list[list[_Numbered | str]] = []
        for row in rows:
            both = _joined(joined[-1], row, place) if joined else None
            if both is None:
                joined.append(row)
            else:
                joined[-1] = both
        rows = joined
    return replace(grid, rows=[[str(cell) for cell in row] for row in rows])


@dataclass(frozen=True)
class _Numbered:
    """A text with ranges of numbers in it, such as ``layers 3–7``."""

    texts: tuple[str, ...]
    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, text: str) -> _Numbered:
        parts = re.split(r"(?<!\d)(0|[1-9]\d*)(?!\d)", text)  # 007 stays as it is
        return cls(tuple(parts[::2]), tuple((int(number), int(number)) for number in parts[1::2]))

    def joined(self, other: _Numbered, place: int) -> _Numbered | None:
        """Return both as one if only the ranges at ``place`` differ and follow one another."""
        if self == other:
            return self
        if self.texts != other.texts or len(self.ranges) < -place:
            return None
        mine, theirs = list(self.ranges), list(other.ranges)
        (low, high), (next_low, next_high) = mine.pop(place), theirs.pop(place)
        if mine != theirs or next_low != high + 1:
            return None
        ranges = list(self.ranges)
        ranges[place] = (low, next_high)
        return replace(self, ranges=tuple(ranges))

    def __str__(self) -> str:
        numbers = [str(low) if low == high else f"{low}–{high}" for low, high in self.ranges]
        text = "".join(part for pair in zip(self.texts, [*numbers, ""], strict=True) for part in pair)
        return _PLURALS.sub(r"\1s ", text)


def _joined(above: list[_Numbered | str], row: list[_Numbered | str], place: int) -> list[_Numbered | str] | None:
    cells: list[_Numbered | str] = []
    for at, (one, other) in enumerate(zip(above, row, strict=True)):
        if isinstance(one, _Numbered) and isinstance(other, _Numbered):
            both = one.joined(other, place if at == 0 else -1)
            if both is None:
                return None
            cells.append(both)
        elif one != other:
            return None
        else:
            cells.append(one)
    return cells


def _at_width(grid: Grid, width: int) -> Grid:
    """Leave out columns until the rest fits, and share out the width."""
    needed, wanted = _widths(grid)
    kept = list(range(len(grid.header)))
    ratio = next((at for at, name in enumerate(grid.header) if at and "ratio" in name.split()), 1)
    while len(kept) > 2 and _total(needed, kept) > width:
        kept.remove(next(at for at in reversed(kept) if at not in (0, ratio)))
    left_out = [name for at, name in enumerate(grid.header) if at not in kept]
    notes = (*grid.notes, *([f"not shown at this width: {', '.join(left_out)}"] if left_out else []))
    excess = _total(needed, kept) - width
    rows = [[row[at] for at in kept] for row in grid.rows]
    if excess > 0:  # at most two columns are left
        needed[0] = max(_SHORTEST_NAME, needed[0] - excess)
        rows = [[_shortened(row[0], needed[0]), *row[1:]] for row in rows]
    widths = _shared_out([needed[at] for at in kept], [wanted[at] for at in kept], width - _total(needed, kept))
    return replace(grid, header=[grid.header[at] for at in kept], rows=rows, notes=notes, widths=tuple(widths))


def _widths(grid: Grid) -> tuple[list[int], list[int]]:
    """Return the least width of each column, and the width at which nothing is wrapped."""
    needed, wanted = [], []
    for at, name in enumerate(grid.header):
        cells = [row[at] for row in grid.rows]
        wanted.append(max(map(cell_len, [name, *cells])))
        phrases = at == 0 and name != "site"
        wrapped = phrases or (at > 0 and grid.wraps)
        unbroken = [word for cell in cells for word in cell.split()] if wrapped else cells
        least = max(map(cell_len, [*name.split(), *unbroken]), default=0)
        needed.append(max(least, min(wanted[-1], _NARROWEST_PHRASES)) if phrases else least)
    return needed, wanted


def _total(widths: list[int], kept: list[int]) -> int:
    return 1 + sum(widths[at] + _BORDERS for at in kept)


def _shared_out(needed: list[int], wanted: list[int], spare: int) -> list[int]:
    """Return widths between what is needed and what is wanted; the narrowest columns get spare width first."""
    widths = list(needed)
    for _ in range(spare):
        short = [at for at, width in enumerate(widths) if width < wanted[at]]
        if not short:
            break
        widths[min(short, key=lambda at: widths[at])] += 1
    return widths


def _shortened(name: str, width: int) -> str:
    """Return the name with ``…`` in its middle if it is longer than ``width``."""
    if len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{name[: width - 1 - end]}…{name[-end:]}"
