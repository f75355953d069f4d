"""The self-contained page: charts drawn by plotly, everything inline, no request leaves it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from actratio.files import replacing
from actratio.report.chart import Chart, HeatMap
from actratio.report.interactive import figure


@dataclass(frozen=True)
class Table:
    """A table of text: header, rows, and a line on how to read it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    reading: str = ""


@dataclass(frozen=True)
class Page:
    """What a report says, before any markup."""

    title: str
    lead: str
    findings: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: Sequence[Chart | HeatMap] = ()
    details: dict[str, str] = field(default_factory=dict)


def write_page(page: Page, path: Path) -> Path:
    """Write the page to ``path``.

    Every text from outside is escaped: by the template for HTML, by ``interactive`` for plotly's
    own markup, and ``<`` inside the JSON.
    """
    from jinja2 import Environment, PackageLoader
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("actratio.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    figures = json.dumps([figure(chart) for chart in page.charts], allow_nan=False).replace("<", "\\u003c")
    rendered = environment.get_template("page.html").render(page=page, figures=figures, plotly=get_plotlyjs())
    with replacing(path) as temporary:
        temporary.write_text(rendered, encoding="utf-8")
    return path
