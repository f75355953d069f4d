"""Convert charts to plotly figures for the page."""

from __future__ import annotations

import html
import math
from typing import Any

from actratio.report.chart import COLOURS, Chart, ForestChart, HeatMap, Series


def plotly_figure(chart: Chart | ForestChart | HeatMap) -> dict[str, Any]:
    """Return the traces and axes of a chart as plotly's JSON, with all text escaped."""
    if isinstance(chart, ForestChart):
        return _forest(chart)
    return _heat_map(chart) if isinstance(chart, HeatMap) else _figure(chart)


def _short(value: float) -> float | None:
    """Return the value with six digits, which a chart and its data need at most."""
    return None if math.isnan(value) else float(f"{value:.6g}")


def _quantity(label: str) -> str:
    """Return the label of an axis without its explanation in parentheses."""
    return _text(label.partition(" (")[0])


def _text(text: str) -> str:
    """Return the text escaped for plotly, which reads a subset of HTML in its labels."""
    return html.escape(text, quote=False)  # plotly would show an escaped quote as an entity


def _figure(chart: Chart) -> dict[str, Any]:
    traces = [trace for series in chart.series for trace in _traces(series, chart)]
    x_axis: dict[str, Any] = {"title": {"text": _text(chart.x_label)}, "type": "log" if chart.x_log else "linear"}
    if chart.x_ticks is not None:
        x_axis |= {"tickvals": list(chart.x_ticks), "ticktext": [f"{tick:g}" for tick in chart.x_ticks]}
    elif chart.x_log:
        x_axis |= _decades([x for series in chart.series for x in series.x])
    y_axis: dict[str, Any] = {"title": {"text": _text(chart.y_label)}, "type": "log" if chart.has_log_y else "linear"}
    if chart.has_log_y:
        y_axis |= _decades([y.value for series in chart.series for y in series.y])
    if chart.percent:
        y_axis["tickformat"] = "~%"
    layout: dict[str, Any] = {"xaxis": x_axis, "yaxis": y_axis}
    if chart.note is not None:
        place = {"xref": "paper", "yref": "paper", "x": 0.5, "y": 0.75, "showarrow": False}
        layout["annotations"] = [{"text": _text(chart.note), **place}]
    return {"key": chart.key, "data": traces, "layout": layout}


def _decades(values: list[float]) -> dict[str, Any]:
    """Return ticks at 1, 2 and 5 of each decade, or at 1 only if there are more than three decades."""
    values = [value for value in values if 0 < value < math.inf]
    if not values:  # no axis on a logarithmic scale has a place for them
        return {}
    low, high = min(values), max(values)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [step * 10.0**decade for decade in range(first, last + 1) for step in steps]
    ticks = [tick for tick in ticks if low / 2 <= tick <= high * 2]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _traces(series: Series, chart: Chart) -> list[dict[str, Any]]:
    colour = COLOURS[series.colour % len(COLOURS)]
    name = _text(series.name)
    number = ".1%" if chart.percent else ".3g"
    place = "%{text}" if series.labels is not None else f"{_quantity(chart.x_label)}: %{{x}}"
    trace: dict[str, Any] = {
        "type": "scatter",
        "meta": "data",
        "name": name,
        "legendgroup": name,
        "x": [_short(x) for x in series.x],
        "y": [_short(y.value) for y in series.y],
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
        "hovertemplate": f"{place}<br>{_quantity(chart.y_label)}: %{{y:{number}}}",
    }
    if series.labels is not None:
        trace["text"] = [_text(label) for label in series.labels]
    bounded = [(x, y) for x, y in zip(series.x, series.y, strict=True) if not math.isnan(y.low)]
    if not bounded:
        return [trace]
    trace["customdata"] = [[_short(y.low), _short(y.high)] for y in series.y]
    if len(bounded) == len(series.y):
        trace["hovertemplate"] += f" (%{{customdata[0]:{number}}} … %{{customdata[1]:{number}}})"
    if series.style == "points" or len(series.x) == 1:  # a band over one point has no width
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, y.high - y.value) if not math.isnan(y.high) else 0.0 for y in series.y],
            "arrayminus": [max(0.0, y.value - y.low) if not math.isnan(y.low) else 0.0 for y in series.y],
            "thickness": 1,
            "width": 2,
        }
        return [trace]
    band = {
        "type": "scatter",
        "legendgroup": name,
        "showlegend": False,
        "hoverinfo": "skip",
        "x": [_short(x) for x, _ in bounded] + [_short(x) for x, _ in reversed(bounded)],
        "y": [_short(y.low) for _, y in bounded] + [_short(y.high) for _, y in reversed(bounded)],
        "fill": "toself",
        "fillcolor": colour + "2E",
        "line": {"width": 0},
        "mode": "lines",
    }
    return [band, trace]


def _forest(chart: ForestChart) -> dict[str, Any]:
    rows = chart.rows
    top, bottom = -0.5, len(rows) - 0.5
    behind: dict[str, Any] = {"type": "scatter", "mode": "lines", "showlegend": False, "hoverinfo": "skip"}
    traces: list[dict[str, Any]] = []
    if chart.band is not None:
        low, high = chart.band
        corners = {"x": [low, high, high, low], "y": [top, top, bottom, bottom]}
        traces.append(behind | corners | {"fill": "toself", "fillcolor": COLOURS[-1] + "26", "line": {"width": 0}})
    if chart.reference is not None:
        line = {"color": COLOURS[-1], "dash": "dash", "width": 1.5}
        traces.append(behind | {"x": [chart.reference] * 2, "y": [top, bottom], "line": line})
    for colour, (series, places) in enumerate(chart.places().items()):
        estimates = [chart.series[series][name] for name in places]
        traces.append(
            {
                "type": "scatter",
                "meta": "data",
                "mode": "markers",
                "name": _text(series),
                "x": [estimate.value for estimate in estimates],
                "y": list(places.values()),
                "text": [_text(name) for name in places],
                "customdata": [[_short(item.low), _short(item.high), item.format("{:.3g}")] for item in estimates],
                "hovertemplate": "%{text}<br>%{customdata[2]}<extra></extra>",
                "marker": {"color": COLOURS[colour % len(COLOURS)], "size": 8, "symbol": "square"},
                "showlegend": len(chart.series) > 1,
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [0.0 if math.isnan(item.high) else item.high - item.value for item in estimates],
                    "arrayminus": [0.0 if math.isnan(item.low) else item.value - item.low for item in estimates],
                    "thickness": 1.5,
                    "width": 0,
                },
            }
        )
    x_axis = {"title": {"text": _text(chart.x_label)}}
    y_axis = {
        "range": [bottom, top],
        "tickvals": list(range(len(rows))),
        "ticktext": [_text(name) for name in rows],
        "zeroline": False,
    }
    height = 120 + 24 * len(rows)
    return {"key": chart.key, "data": traces, "height": height, "layout": {"xaxis": x_axis, "yaxis": y_axis}}


def _heat_map(chart: HeatMap) -> dict[str, Any]:
    number = ".1%" if chart.percent else ".3g"
    trace = {
        "type": "heatmap",
        "meta": "data",
        "x": chart.x,
        "y": [_text(name) for name in chart.y],
        "z": [[_short(value) for value in row] for row in chart.z],
        "colorscale": "Viridis",
        "zmin": 0,
        "colorbar": {"thickness": 12, "tickformat": "~%" if chart.percent else ""},
        "hovertemplate": f"%{{y}}<br>{_quantity(chart.x_label)}: %{{x}}<br>%{{z:{number}}}<extra></extra>",
    }
    x_axis = {"title": {"text": _text(chart.x_label)}}
    # The names of the rows need the space of a title.
    y_axis = {"type": "category", "autorange": "reversed"}
    return {"key": chart.key, "data": [trace], "layout": {"xaxis": x_axis, "yaxis": y_axis}}
