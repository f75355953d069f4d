"""The result of an analysis without markup: sentences, tables and charts for every renderer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from actratio.report.chart import Chart, ForestChart, HeatMap
from actratio.statistics.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: heading, which says what is shown.
        header: one name per column.
        rows: one list of cells per row, as long as ``header``.
        reading: caption that explains the columns.
        text: the columns hold text, which is wrapped. Columns of numbers are not: a terminal leaves out those that don't fit.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    reading: str = ""
    text: bool = False


@dataclass(frozen=True)
class Findings:
    """The result of an analysis.

    Attributes:
        title: heading of the page.
        lead: one paragraph on what was measured and how.
        sentences: results, most important first.
        tables, charts: numbers behind the sentences.
        settings: names and values for the top of the page: what was measured and how.
        details: names and values for the end of the page, such as versions and data fingerprints.
        frame: the tidy table that the page offers for download.
        data: what ``--json`` adds to the settings, rows and sentences, such as fitted laws.
        exports: tables for other programs, by the name of the CSV file that they are written to.
        verdicts: what the results say about each claim.
    """

    title: str
    lead: str
    sentences: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: Sequence[Chart | ForestChart | HeatMap] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    frame: pd.DataFrame | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    exports: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    verdicts: Sequence[Verdict] = ()


def settings_shown(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as text for people, without those that are empty, have an inner structure or only identify the data."""
    shown = {}
    for name, value in settings.items():
        values = value if isinstance(value, list | tuple) else [value]
        if name in ("study", "fingerprint") or any(isinstance(item, Mapping | list | tuple) for item in values):
            continue
        text = ", ".join(_setting(item) for item in values if item is not None)
        if text:
            shown[name.replace("_", " ")] = text
    return shown


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def verdicts_table(verdicts: Sequence[Verdict]) -> Table:
    """Return the verdicts as a table, the confirmatory ones first."""
    ordered = sorted(verdicts, key=lambda verdict: not verdict.confirmatory)
    return Table(
        "Verdicts",
        ["verdict", "claim", "figure", "estimate"],
        [
            [
                verdict.verdict,
                verdict.claim + ("" if verdict.confirmatory else " (exploratory)"),
                verdict.figure,
                "" if math.isnan(verdict.estimate.value) else verdict.estimate.format("{:.3g}"),
            ]
            for verdict in ordered
        ],
        "Parentheses: 95% intervals. The rules were written down before the run, except for verdicts that are marked as exploratory.",
        text=True,
    )
