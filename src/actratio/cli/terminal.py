"""Output for people (tables and progress, through rich) and for programs (one JSON object).

Progress and errors go to stderr, so that stdout holds only the result.

Names of models, modules, columns and files come from elsewhere. All that is printed passes here, where characters that a terminal
would act on are written out. Text is shown as it is: it has no markup of rich, no codes of emojis, and no links.
"""

from __future__ import annotations

import json
import math
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.status import Status
from rich.table import Table as RichTable
from rich.text import Text

from actratio.cli.layout import fit
from actratio.unseen import visible, visible_json

if TYPE_CHECKING:
    import pandas as pd

    from actratio.report.findings import Findings, Table

Justify = Literal["left", "right"]
_LABEL = 13  # width of the labels before paths
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+")


class SafeConsole(Console):
    """A console that shows text as it is, and never sends a character of it that a terminal acts on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Render as rich does. Texts are safe before this, so that columns have the right width; this is the guarantee."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text, keep_lines=True), segment.style)


out = SafeConsole()
err = SafeConsole(stderr=True)


def noise_to_stderr() -> redirect_stdout[Any]:
    """Send to stderr what libraries print while a command works, such as Ray's words about a lost worker."""
    return redirect_stdout(sys.stderr)


@contextmanager
def units_bar(total: float) -> Iterator[Callable[[str, float], None]]:
    """Show the progress over the cost of all units, with the time left; in a log file, a line for every tenth."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar, noise_to_stderr():
        task = bar.add_task("running", total=total)
        done, tenths = 0.0, 0

        def progress(unit: str, cost: float) -> None:
            nonlocal done, tenths
            bar.update(task, advance=cost, description=visible(unit))
            done += cost
            reached = int(done / total * 10 + 1e-9)
            if bar.disable and reached > tenths:
                tenths = reached
                say(f"{done / total:.0%} done, at {unit}")

        yield progress
        bar.update(task, completed=total, description="finished")


def print_findings(findings: Findings, *, every_row: bool) -> None:
    """Print the tables, then the sentences, then what was looked at afterwards."""
    print_tables(findings.tables, every_row=every_row)
    print_sentences(findings.sentences)
    if findings.afterwards:
        out.print("Looked at afterwards")
        print_sentences(findings.afterwards)


def print_conclusions(sentences: Iterable[str], tables: Iterable[Table], *, every_row: bool) -> None:
    """Print the sentences, then the tables; a pipe gets the tables first, because programs read them."""
    if is_piped():
        print_tables(tables)
        print_sentences(sentences)
    else:
        print_sentences(sentences)
        print_tables(tables, every_row=every_row)


def print_tables(tables: Iterable[Table], *, every_row: bool = True) -> None:
    """Print the tables of findings."""
    for table in tables:
        print_table(
            table.title,
            table.header,
            table.rows,
            "left" if table.text else "right",
            wraps=table.text,
            every_row=every_row,
        )


def print_sentences(sentences: Iterable[str]) -> None:
    """Print one bullet per sentence."""
    for sentence in sentences:
        print_text(f"• {sentence}")


def print_text(text: str, style: str | None = None) -> None:
    """Print one paragraph, wrapped between words in a terminal and on one line in a pipe."""
    text = visible(text)
    if not is_piped():
        text = textwrap.fill(text, out.width, break_long_words=False, break_on_hyphens=False)
    out.print(text, style=style, soft_wrap=True)


def print_table(
    title: str,
    header: list[str],
    rows: list[list[str]],
    justify: Justify = "right",
    *,
    wraps: bool = False,
    every_row: bool = True,
) -> None:
    """Print one table, so that it fits the terminal.

    A pipe gets all rows and columns with full names: the title after ``#``, then lines with a tab between the cells.

    Args:
        justify: of all columns but the first, which is on the left.
        wraps: the columns after the first hold text, which is wrapped between words.
        every_row: show all rows of a long table; otherwise those of evenly spaced names.
    """
    if is_piped():
        # Not with rich, which turns tabs into spaces.
        print(
            f"# {visible(title)}",
            *("\t".join(map(_plain, cells)) for cells in (header, *rows)),
            sep="\n",
            file=out.file,
        )
        return
    header, rows = [visible(name) for name in header], [[visible(cell) for cell in row] for row in rows]
    grid = fit(header, rows, out.width, wraps=wraps, every_row=every_row)
    # Not as the table's own title and caption, which are wrapped to the width of the table.
    print_text(title, "bold")
    table = RichTable()
    for number, (name, width) in enumerate(zip(grid.header, grid.widths, strict=True)):
        table.add_column(Text(name), justify="left" if number == 0 else justify, width=width, vertical="top")
    for row in grid.rows:
        table.add_row(*map(Text, row))
    out.print(table)
    for note in grid.notes:
        print_text(note, "dim")


def is_piped() -> bool:
    """Return whether stdout is a pipe or a file, which programs read."""
    return not out.is_terminal


def _plain(cell: str) -> str:
    """Return a cell for programs: on one line, and numbers without separators."""
    cell = " ".join(visible(cell).split())
    return cell.replace(",", "") if _THOUSANDS.fullmatch(cell) else cell


def note_weights(model: str) -> dict[str, str]:
    """Print how a model's weights were stored if they are not used as they were stored; return it as a setting.

    Raises:
        ModelError: there is no such model, or its GGUF file is damaged.
    """
    from actratio.models import weights_note

    note = weights_note(model)
    if note is None:
        return {}
    say(f"{model}: weights {note}")
    return {"weights": note}


def say(message: str) -> None:
    """Print a message for people, beside the results."""
    err.print(visible(message), soft_wrap=True)


def warn(label: str, message: str, style: str = "") -> None:
    """Print the last line on stderr: a label and a sentence."""
    err.print(Text.assemble((label, style), " ", visible(message)), soft_wrap=True)


class Waiting(Status):
    """A message that is shown while something runs, and can be replaced by another."""

    def update(self, status: RenderableType | None = None, **options: Any) -> None:
        """Show another message; rich would read markup in it."""
        super().update(Text(visible(status)) if isinstance(status, str) else status, **options)


def waiting(message: str) -> Waiting:
    """Show a message while the block runs; nothing in a log file."""
    return Waiting(Text(visible(message)), console=err)


def print_path(label: str, path: Path) -> None:
    """Print where a result was written, after its label."""
    out.print(f"{label:<{_LABEL}}{visible(str(path))}", soft_wrap=True)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame for JSON; NaN and infinity become null."""
    return [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in frame.to_dict(orient="records")
    ]


def print_json(content: dict[str, Any]) -> None:
    """Print one object, alone on stdout."""
    # Dates and the like become text.
    print(visible_json(json.dumps(content, ensure_ascii=False, allow_nan=False, default=str)))
