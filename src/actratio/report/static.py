"""Draw charts as SVG and PNG files with matplotlib."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from warnings import catch_warnings, filterwarnings

from actratio.files import replacing
from actratio.report.chart import COLOURS, Chart, ForestChart, HeatMap, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FORMATS = ("svg", "png")


def save_charts(charts: Sequence[Chart | ForestChart | HeatMap], folder: Path) -> list[Path]:
    """Write each chart as SVG and PNG into ``folder``, and return the paths."""
    paths = []
    for chart in charts:
        if not re.fullmatch(r"[\w.-]+", chart.key):
            raise ValueError(f"the key {chart.key!r} isn't a valid file name")
        figure = draw_chart(chart)
        for extension in _FORMATS:
            path = folder / f"{chart.key}.{extension}"
            with replacing(path) as temporary:
                _save(figure, temporary, extension)
            paths.append(path)
    return paths


def svg_bytes(chart: Chart | ForestChart | HeatMap) -> bytes:
    """Return a chart as SVG."""
    buffer = io.BytesIO()
    _save(draw_chart(chart), buffer, "svg")
    return buffer.getvalue()


def draw_chart(chart: Chart | ForestChart | HeatMap) -> Figure:
    """Return a chart as a figure of matplotlib."""
    from matplotlib.figure import Figure  # unlike pyplot, has no global state and opens no window

    height = 1.6 + 0.3 * len(chart.rows) if isinstance(chart, ForestChart) else 4.6
    figure = Figure(figsize=(7.2, height), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(chart.x_label)
    # A dataset's name may contain '$', which matplotlib would read as mathematics.
    if isinstance(chart, ForestChart):  # the names of the rows would push a title of the axes out of the figure
        figure.suptitle(chart.title, x=0.01, ha="left", fontsize=11, parse_math=False)
        _draw_forest(figure, axes, chart)
        return figure
    axes.set_title(chart.title, loc="left", fontsize=11, parse_math=False)
    axes.set_ylabel(chart.y_label)
    if isinstance(chart, HeatMap):
        _draw_heat_map(figure, axes, chart)
    else:
        _draw_chart(axes, chart)
    return figure


def _save(figure: Figure, place: Path | io.BytesIO, extension: str) -> None:
    from matplotlib import rc_context

    # Without a date and random names, the same data gives the same bytes.
    with rc_context({"svg.hashsalt": "actratio"}), catch_warnings():
        filterwarnings("ignore", "Glyph .* missing")  # for names in a script that the font lacks
        metadata = {"Date": None} if extension == "svg" else None
        figure.savefig(place, format=extension, dpi=150, metadata=metadata)


def _draw_forest(figure: Figure, axes: Axes, chart: ForestChart) -> None:
    if chart.band is not None:
        axes.axvspan(*chart.band, color=COLOURS[-1], alpha=0.15, linewidth=0)
    if chart.reference is not None:
        axes.axvline(chart.reference, color=COLOURS[-1], linestyle="--", linewidth=1.2)
    for colour, (series, places) in enumerate(chart.places().items()):
        for name, place in places.items():
            estimate = chart.series[series][name]
            label = f" {series}" if name == next(iter(places)) else "_"  # a label that starts with '_' is left out
            if not math.isnan(estimate.low):
                axes.plot(
                    [estimate.low, estimate.high], [place, place], color=COLOURS[colour % len(COLOURS)], linewidth=1.4
                )
            axes.plot(estimate.value, place, "s", color=COLOURS[colour % len(COLOURS)], markersize=5, label=label)
    axes.set_yticks(range(len(chart.rows)), chart.rows, fontsize=9, parse_math=False)
    axes.set_ylim(len(chart.rows) - 0.5, -0.5)
    axes.grid(alpha=0.25, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    if len(chart.series) > 1:
        legend = figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=len(chart.series))
        for text in legend.get_texts():
            text.set_parse_math(False)


def _draw_heat_map(figure: Figure, axes: Axes, chart: HeatMap) -> None:
    from matplotlib.ticker import PercentFormatter

    half = (chart.x[1] - chart.x[0]) / 2 if len(chart.x) > 1 else 0.5
    image = axes.imshow(
        chart.z,
        aspect="auto",
        interpolation="nearest",
        vmin=0,
        extent=(chart.x[0] - half, chart.x[-1] + half, len(chart.y) - 0.5, -0.5),
    )
    step = max(1, len(chart.y) // 12)
    axes.set_yticks(range(0, len(chart.y), step), chart.y[::step], fontsize=8, parse_math=False)
    figure.colorbar(image, ax=axes, format=PercentFormatter(1) if chart.percent else None)


def _draw_chart(axes: Axes, chart: Chart) -> None:
    from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, PercentFormatter, ScalarFormatter

    for series in chart.series:
        _draw_series(axes, series)
    if chart.x_log:
        axes.set_xscale("log")
    if chart.has_log_y:
        axes.set_yscale("log")
    if chart.x_ticks is not None:
        axes.xaxis.set_major_locator(FixedLocator(list(chart.x_ticks)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
    if chart.has_log_y:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif chart.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.25, which="both" if chart.has_log_y else "major")
    axes.spines[["top", "right"]].set_visible(False)
    if chart.note is not None:
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85}
        axes.text(0.5, 0.75, chart.note, transform=axes.transAxes, ha="center", va="center", bbox=box, parse_math=False)
    legend = axes.legend(fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _draw_series(axes: Axes, series: Series) -> None:
    colour = COLOURS[series.colour % len(COLOURS)]
    y = [estimate.value for estimate in series.y]
    styles = {
        "line": {"linestyle": "-", "marker": "o", "markersize": 3.5},
        "dashed": {"linestyle": "--", "marker": "", "linewidth": 1.2},
        "points": {"linestyle": "", "marker": "o", "markersize": 5, "alpha": 0.8},
        "published": {"linestyle": ":", "marker": "o", "markersize": 6, "markerfacecolor": "none"},
        "hollow": {"linestyle": "", "marker": "o", "markersize": 6, "markerfacecolor": "none"},
    }[series.style]
    # Matplotlib leaves names that start with '_' out of the legend.
    label = f" {series.name}" if series.name.startswith("_") else series.name
    axes.plot(series.x, y, color=colour, label=label, **styles)  # type: ignore[arg-type]
    bounded = [(x, estimate) for x, estimate in zip(series.x, series.y, strict=True) if not math.isnan(estimate.low)]
    if not bounded:
        return
    x, values = [x for x, _ in bounded], [estimate.value for _, estimate in bounded]
    low, high = [estimate.low for _, estimate in bounded], [estimate.high for _, estimate in bounded]
    if series.style == "points" or len(series.x) == 1:  # a band over one point has no width
        below = [value - bound for value, bound in zip(values, low, strict=True)]
        above = [bound - value for value, bound in zip(values, high, strict=True)]
        axes.errorbar(x, values, yerr=[below, above], fmt="none", color=colour, capsize=2, linewidth=1)
    else:
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
