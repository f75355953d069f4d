"""The result of an analysis without markup: sentences, tables and charts for every renderer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from actratio.report.chart import Chart, ForestChart, HeatMap
from actratio.statistics.verdict import FAILED, INTERVAL, MET, Verdict

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
        afterwards: what was looked at after the verdicts were known. It is exploratory, and says when it was added.
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
    afterwards: Sequence[str] = ()


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
    """Return the verdicts as a table, the confirmatory ones first, with what was predicted if anything was."""
    ordered = sorted(verdicts, key=lambda verdict: not verdict.confirmatory)
    predicted = any(verdict.predicted for verdict in verdicts)
    return Table(
        "Verdicts",
        ["verdict", *(["predicted"] if predicted else []), "claim", "figure", "estimate"],
        [
            [
                verdict.verdict,
                *([_prediction(verdict)] if predicted else []),
                verdict.claim + ("" if verdict.confirmatory else " (exploratory)"),
                verdict.figure,
                estimate_text(verdict),
            ]
            for verdict in ordered
        ],
        "Parentheses: 95% intervals, unless they say otherwise. The rules were written down before the run, except for verdicts that are marked "
        "as exploratory." + (f" {predictions_sentence(verdicts)}" if predicted else ""),
        text=True,
    )


def estimate_text(verdict: Verdict, number: str = "{:.3g}") -> str:
    """Return the estimate of a verdict with its bounds, and what they are unless it is a 95% interval; empty without an estimate."""
    estimate = verdict.estimate
    if math.isnan(estimate.value):
        return ""
    shown = estimate.format(number)
    return (
        shown
        if verdict.bounds == INTERVAL or math.isnan(estimate.low)
        else shown.replace("(", f"({verdict.bounds}: ", 1)
    )


def predictions_sentence(verdicts: Sequence[Verdict]) -> str:
    """Return how many predictions were met; empty if there was none."""
    became = [verdict.prediction for verdict in verdicts if verdict.predicted]
    if not became:
        return ""
    met, failed = became.count(MET), became.count(FAILED)
    return f"Predictions: {met} met, {failed} failed, {len(became) - met - failed} undecided."


def _prediction(verdict: Verdict) -> str:
    """Return what was predicted and what became of it, such as ``no (met)``."""
    if not verdict.predicted:
        return ""
    became = verdict.prediction if verdict.prediction in (MET, FAILED) else "undecided"
    return f"{verdict.predicted} ({became})"
