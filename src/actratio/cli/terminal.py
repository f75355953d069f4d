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

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable

if TYPE_CHECKING:
    import pandas as pd

    from actratio.report.findings import Findings

Justify = Literal["left", "right"]
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


def print_findings(findings: Findings) -> None:
    """Print the tables, then the sentences."""
    for table in findings.tables:
        print_table(table.title, table.header, table.rows)
    print_sentences(findings.sentences)


def print_sentences(sentences: Iterable[str]) -> None:
    """Print one bullet per sentence."""
    for sentence in sentences:
        out.print(f"• {escape(sentence)}", highlight=False)


def print_table(title: str, header: list[str], rows: list[list[str]], justify: Justify = "right") -> None:
    """Print one table; ``justify`` applies to all columns but the first, which is on the left."""
    table = RichTable(title=escape(title), title_justify="left", title_style="bold")
    for number, name in enumerate(header):
        table.add_column(escape(name), justify="left" if number == 0 else justify, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    out.print(table)


def print_path(label: str, path: Path) -> None:
    """Print where a result was written, after its label."""
    out.print(f"{label:<{_LABEL}}{escape(str(path))}", soft_wrap=True, highlight=False)


def plural(number: int, noun: str) -> str:
    """Return ``1 seed``, ``2 seeds``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame for JSON; NaN and infinity become null."""
    return [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in frame.to_dict(orient="records")
    ]


def print_json(content: dict[str, Any]) -> None:
    """Print one object, alone on stdout."""
    print(json.dumps(content, ensure_ascii=False, allow_nan=False, default=str))  # dates and the like become text
