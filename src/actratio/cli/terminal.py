"""What a person reads: tables and progress through rich; and what a program reads: one JSON object.

Progress and errors go to stderr, so that stdout holds the result alone.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable

if TYPE_CHECKING:
    import pandas as pd

    from actratio.report.page import Table

_PIPE_WIDTH = 120  # what rich takes for a pipe, 80, would fold the tables
out = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
err = Console(stderr=True)


@contextmanager
def tokens_bar(limit: int | None) -> Iterator[Callable[[int], None]]:
    """Progress over tokens, with their rate."""
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


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def plural(number: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


@contextmanager
def training_bar(total: int) -> Iterator[Callable[[str, int], None]]:
    """Progress over FLOPs, with the time left; in a log file a line for every tenth."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("training", total=total)
        done, said = 0, 0

        def progress(name: str, flops: int) -> None:
            nonlocal done, said
            bar.update(task, advance=flops, description=escape(name))
            done += flops
            # A log file gets a line for every tenth instead of the bar.
            if bar.disable and done * 10 // total > said:
                said = done * 10 // total
                err.print(f"{done / total:.0%} done, at {escape(name)}", highlight=False, soft_wrap=True)

        yield progress
        bar.update(task, completed=total, description="trained")


def show(tables: list[Table], findings: list[str]) -> None:
    """Tables, then what follows from them in words."""
    for table in tables:
        show_table(table.title, table.header, table.rows, "right")
    for finding in findings:
        out.print(f"• {escape(finding)}", highlight=False)


def show_table(title: str, header: list[str], rows: list[list[str]], justify: str) -> None:
    """One table; ``justify`` is that of all columns but the first."""
    table = RichTable(title=escape(title), title_justify="left", title_style="bold")
    for number, name in enumerate(header):
        table.add_column(escape(name), justify="left" if number == 0 or justify == "left" else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    out.print(table)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON; what was not measured, or is not finite, is null."""
    return [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        for row in frame.to_dict(orient="records")
    ]


def print_json(content: dict[str, Any]) -> None:
    """One object, alone on stdout."""
    print(json.dumps(content, ensure_ascii=False, allow_nan=False, default=str))  # dates and the like, as text
