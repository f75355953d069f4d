"""The self-contained page: charts drawn by plotly, everything inline, no request leaves it."""

from __future__ import annotations

import html
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actratio.files import replacing
from actratio.report.chart import COLOURS, Chart, Series


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
    charts: list[Chart] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)


def write_page(page: Page, path: Path) -> Path:
    """Write the page to ``path``.

    Every text from outside is escaped: by the template for HTML, by ``_text`` for plotly's own
    markup, and ``<`` inside the JSON.
    """
    from jinja2 import Environment, PackageLoader
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("actratio.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    figures = json.dumps([_figure(chart) for chart in page.charts], allow_nan=False).replace("<", "\\u003c")
    rendered = environment.get_template("page.html").render(page=page, figures=figures, plotly=get_plotlyjs())
    with replacing(path) as temporary:
        temporary.write_text(rendered, encoding="utf-8")
    return path


def _text(text: str) -> str:
    """Plotly reads a subset of HTML in its labels."""
    return html.escape(text)


def _figure(chart: Chart) -> dict[str, Any]:
    traces = [trace for series in chart.series for trace in _traces(series, chart.percent)]
    x_axis: dict[str, Any] = {"title": {"text": _text(chart.x_label)}, "type": "log" if chart.x_log else "linear"}
    if chart.x_ticks is not None:
        x_axis |= {"tickvals": list(chart.x_ticks), "ticktext": [f"{tick:g}" for tick in chart.x_ticks]}
    y_axis: dict[str, Any] = {"title": {"text": _text(chart.y_label)}, "type": "log" if chart.y_log else "linear"}
    if chart.percent:
        y_axis["tickformat"] = ".0%"
    return {"key": chart.key, "data": traces, "layout": {"xaxis": x_axis, "yaxis": y_axis}}


def _traces(series: Series, percent: bool) -> list[dict[str, Any]]:
    colour = COLOURS[series.colour % len(COLOURS)]
    name = _text(series.name)
    number = ".1%" if percent else ".3g"
    trace: dict[str, Any] = {
        "type": "scatter",
        "name": name,
        "legendgroup": name,
        "x": series.x,
        "y": [each.value for each in series.y],
        "mode": {
            "line": "lines+markers",
            "dashed": "lines",
            "points": "markers",
            "published": "lines+markers",
            "hollow": "markers",
        }[series.style],
        "line": {
            "color": colour,
            "dash": {"dashed": "dash", "published": "dot"}.get(series.style, "solid"),
            "width": 1.5 if series.style == "dashed" else 2,
        },
        "marker": {
            "color": colour,
            "size": 6,
            "symbol": "circle-open" if series.style in ("published", "hollow") else "circle",
        },
        "hovertemplate": f"%{{x}}: %{{y:{number}}}",
    }
    known = [(x, each) for x, each in zip(series.x, series.y, strict=True) if not math.isnan(each.low)]
    if not known:
        return [trace]
    if len(known) == len(series.y):
        trace["customdata"] = [[each.low, each.high] for each in series.y]
        trace["hovertemplate"] += f" (%{{customdata[0]:{number}}} … %{{customdata[1]:{number}}})"
    if series.style == "points":
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, each.high - each.value) if not math.isnan(each.high) else 0.0 for each in series.y],
            "arrayminus": [max(0.0, each.value - each.low) if not math.isnan(each.low) else 0.0 for each in series.y],
            "thickness": 1,
            "width": 2,
        }
        return [trace]
    band = {
        "type": "scatter",
        "legendgroup": name,
        "showlegend": False,
        "hoverinfo": "skip",
        "x": [x for x, _ in known] + [x for x, _ in reversed(known)],
        "y": [each.low for _, each in known] + [each.high for _, each in reversed(known)],
        "fill": "toself",
        "fillcolor": colour + "2E",
        "line": {"width": 0},
        "mode": "lines",
    }
    return [band, trace]
