"""What the scripts that write results pages share: blocks of a page, tables, data files and figures."""

from __future__ import annotations

import csv
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from actratio.files import read_table
from actratio.report.chart import Chart, ForestChart, HeatMap
from actratio.report.findings import Table
from actratio.report.static import save_charts
from actratio.studies.folder import table_path

RESULTS = Path(__file__).parent / "results"

AFTERWARDS = "Looked at afterwards"
"""How the titles of tables begin that were planned only after the results were known."""

_MAX_ROWS = 20  # of a table that a page shows
_MAX_BYTES = 1_000_000  # of a raw table that is kept in the repository


def fill_block(page: Path, name: str, content: str) -> None:
    """Replace what a page has between ``<!-- begin: NAME -->`` and ``<!-- end: NAME -->``."""
    text, found = re.subn(
        rf"(<!-- begin: {name} -->\n).*?(<!-- end: {name} -->)",
        lambda match: f"{match[1]}\n{content}\n\n{match[2]}",
        page.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    if found != 1:
        raise SystemExit(f"{page} has {found} blocks named {name!r}; it needs one")
    page.write_text(text, encoding="utf-8")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, text: bool = False) -> str:
    """Return a table in Markdown; the first column is aligned to the left, the others to the right unless they are text."""
    lines = ["| " + " | ".join(header) + " |", "| :-- |" + (" :-- |" if text else " --: |") * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def write_csv(name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write ``results/data/NAME.csv`` and return a Markdown link to it, relative to ``results/``."""
    path = RESULTS / "data" / f"{name}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return f"[{path.name}](data/{path.name})"


def save_figure(chart: Chart | ForestChart | HeatMap, name: str) -> str:
    """Draw a chart as ``results/figures/NAME.svg`` and return the Markdown that shows it."""
    with tempfile.TemporaryDirectory() as folder:
        save_charts([chart], Path(folder))
        drawn = Path(folder, f"{chart.key}.svg").read_bytes()
    (RESULTS / "figures" / f"{name}.svg").write_bytes(drawn)
    return f"![{chart.title}](figures/{name}.svg)"


def table_section(name: str, table: Table, *, title: bool = True) -> str:
    """Return a table with its caption and a link to ``results/data/NAME.csv``, which holds all of it.

    The page shows at most 20 rows, and of laws those of all layers together.
    """
    link = write_csv(name, table.header, table.rows)
    rows = table.rows
    if {"layer", "law"} <= set(table.header):
        rows = [row for row in rows if row[table.header.index("layer")] == "all"]
    shown = markdown_table(table.header, rows[:_MAX_ROWS], text=table.text)
    heading = f"**{table.title}**\n\n" if title else ""
    caption = " ".join(part for part in (table.reading, f"As a file: {link}.") if part)
    return f"{heading}{shown}\n\n{caption}"


def copy_raw_table(run: Path, name: str) -> str:
    """Copy the raw table of a run to ``results/data/NAME.parquet`` if it is small; return a link, or its fingerprint."""
    path = table_path(run)
    if path.stat().st_size <= _MAX_BYTES:
        target = RESULTS / "data" / f"{name}.parquet"
        shutil.copyfile(path, target)
        return f"[{target.name}](data/{target.name})"
    rows = pd.util.hash_pandas_object(read_table(path)[0], index=False).to_numpy()
    fingerprint = hashlib.sha256(rows.tobytes()).hexdigest()
    return (
        f"{path.stat().st_size / 1e6:.1f} MB, which is too large for the repository; SHA-256 of its rows {fingerprint}"
    )


def details_block(title: str, parts: Sequence[str]) -> str:
    """Return a collapsed block."""
    lines = [line for part in parts for line in (*part.splitlines(), "")]
    return "\n".join([f'??? note "{title}"', "", *(f"    {line}".rstrip() for line in lines)]).rstrip()


def goals_list(goals: Sequence[Mapping[str, Any]]) -> str:
    """Return a collapsed list of a benchmark's goals, met or not."""
    met = sum(bool(goal["met"]) for goal in goals)
    lines = [f'??? note "{met} of {len(goals)} goals met"', ""]
    for goal in goals:
        state = "met" if goal["met"] else "**not met**"
        if not goal.get("fast_enough", True):
            state += " (the machine was too slow or too busy for this goal to count)"
        lines.append(f"    - {state}: {goal['goal']}: {float(goal['measured']):.3g}")
    return "\n".join(lines)


def machine_line(machine: Mapping[str, Any]) -> str:
    """Return the versions, the machine and the date of a run as one sentence."""
    plain = {key: value for key, value in machine.items() if key != "resumed"}
    line = "<small>Machine: " + ", ".join(f"{key} {value}" for key, value in plain.items())
    later = [
        f"commit {resumed['commit']} on {resumed['date']} ({resumed['processor']}, {resumed['threads']} threads)"
        for resumed in machine.get("resumed", [])
    ]
    return line + "".join(f"; resumed with {run}" for run in later) + ".</small>"
