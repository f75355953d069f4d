"""Output for people (tables and progress, through rich) and for programs (one JSON object).

Progress and errors go to stderr, so that stdout holds only the result.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable

if TYPE_CHECKING:
    import pandas as pd

    from actratio.report.findings import Findings

Justify = Literal["left", "right"]
_BORDERS = 3  # characters of padding and border per column
_MOST_ROWS, _ROWS_OF_LONG_TABLES = 40, 20
_LABEL = 13  # width of the labels before paths
_PIPE_WIDTH = 120  # rich assumes 80 for a pipe, which would fold the tables
out = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
err = Console(stderr=True)


@contextmanager
def tokens_bar(limit: int | None) -> Iterator[Callable[[int], None]]:
    """Show the progress over tokens, and their rate."""
    columns = (
        TextColumn("measuring"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} tokens, {task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task, start = bar.add_task("", total=limit, rate=""), time.monotonic()

        def progress(tokens: int) -> None:
            bar.update(task, completed=tokens, rate=f"{tokens / (time.monotonic() - start + 1e-9):,.0f}/s")

        yield progress


@contextmanager
def units_bar(total: float) -> Iterator[Callable[[str, float], None]]:
    """Show the progress over the cost of all units, with the time left; in a log file, a line for every tenth."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("running", total=total)
        done, tenths = 0.0, 0

        def progress(unit: str, cost: float) -> None:
            nonlocal done, tenths
            bar.update(task, advance=cost, description=escape(unit))
            done += cost
            reached = int(done / total * 10 + 1e-9)
            if bar.disable and reached > tenths:
                tenths = reached
                err.print(f"{done / total:.0%} done, at {escape(unit)}", highlight=False, soft_wrap=True)

        yield progress
        bar.update(task, completed=total, description="finished")


def print_findings(findings: Findings, *, every_row: bool) -> None:
    """Print the tables, then the sentences, then what was looked at afterwards."""
    for table in findings.tables:
        justify: Justify = "left" if table.text else "right"
        print_table(table.title, table.header, table.rows, justify, every_row=every_row)
    print_sentences(findings.sentences)
    if findings.afterwards:
        out.print("Looked at afterwards", highlight=False)
        print_sentences(findings.afterwards)


def print_sentences(sentences: Iterable[str]) -> None:
    """Print one bullet per sentence."""
    for sentence in sentences:
        out.print(f"• {escape(sentence)}", highlight=False)


def print_table(
    title: str, header: list[str], rows: list[list[str]], justify: Justify = "right", *, every_row: bool = True
) -> None:
    """Print one table that fits the terminal.

    Names are never broken in the middle: a prefix that all sites share is moved to the title, columns of numbers that
    don't fit are left out, from the right, and columns of text are wrapped.

    Args:
        justify: of all columns but the first, which is on the left; ``left`` is for columns of text.
        every_row: show all rows of a long table; otherwise those of evenly spaced names.
    """
    notes = []
    prefix, rows = _without_common_prefix(rows) if header[0] == "site" else ("", rows)
    shown = rows if every_row or len(rows) <= _MOST_ROWS else _evenly_spaced(rows, _ROWS_OF_LONG_TABLES)
    if len(shown) < len(rows):
        notes.append(f"{len(shown)} of {len(rows)} rows; --all shows every row")
    columns = len(header) if justify == "left" else _fitting_columns(header, shown, out.width)
    if columns < len(header):
        notes.append(f"not shown at this width: {', '.join(header[columns:])}")
    # Not as the table's own title and caption, which are wrapped to the width of the table.
    out.print(f"[bold]{escape(f'{title}, in {prefix}' if prefix else title)}[/]", highlight=False)
    table = RichTable()
    for number, name in enumerate(header[:columns]):
        # Of numbers, only the last resort, one column that is wider than the terminal, is folded.
        wraps = columns == 1 or (justify == "left" and number > 0)
        table.add_column(
            escape(name),
            justify="left" if number == 0 else justify,
            no_wrap=not wraps,
            overflow="fold" if wraps else "ellipsis",
        )
    for row in shown:
        table.add_row(*(escape(cell) for cell in row[:columns]))
    out.print(table)
    for note in notes:
        out.print(f"[dim]{escape(note)}[/]", highlight=False)


def _without_common_prefix(rows: list[list[str]]) -> tuple[str, list[list[str]]]:
    """Return the dotted prefix that all names of the first column share, and the rows without it."""
    names = [row[0].split(".") for row in rows]
    if len(names) < 2 or not all("." in row[0] for row in rows):
        return "", rows
    shared = 0
    for parts in zip(*(name[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        shared += 1
    if not shared:
        return "", rows
    return ".".join(names[0][:shared]), [
        [".".join(name[shared:]), *row[1:]] for name, row in zip(names, rows, strict=True)
    ]


def _evenly_spaced(rows: list[list[str]], number: int) -> list[list[str]]:
    """Return about ``number`` rows: all rows of evenly spaced names, with the first and the last among them."""
    names = list(dict.fromkeys(row[0] for row in rows))
    kept = max(2, number * len(names) // len(rows))
    chosen = {names[round(place * (len(names) - 1) / (kept - 1))] for place in range(kept)}
    return [row for row in rows if row[0] in chosen]


def _fitting_columns(header: list[str], rows: list[list[str]], width: int) -> int:
    """Return how many columns, from the left, fit the width with their borders; at least one."""
    used = 1
    for number, name in enumerate(header):
        used += max(cell_len(cell) for cell in (name, *(row[number] for row in rows))) + _BORDERS
        if used > width:
            return max(1, number)
    return len(header)


def note_weights(model: str) -> dict[str, str]:
    """Print how a model's weights were stored if they are not used as they were stored; return it as a setting.

    Raises:
        ModelError: there is no such model, or its GGUF file is damaged.
    """
    from actratio.models import weights_note

    note = weights_note(model)
    if note is None:
        return {}
    err.print(f"{escape(model)}: weights {escape(note)}", highlight=False, soft_wrap=True)
    return {"weights": note}


def print_path(label: str, path: Path) -> None:
    """Print where a result was written, after its label."""
    out.print(f"{label:<{_LABEL}}{escape(str(path))}", soft_wrap=True, highlight=False)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame for JSON; NaN and infinity become null."""
    return [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in frame.to_dict(orient="records")
    ]


def print_json(content: dict[str, Any]) -> None:
    """Print one object, alone on stdout."""
    print(json.dumps(content, ensure_ascii=False, allow_nan=False, default=str))  # dates and the like become text
