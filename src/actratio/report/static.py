"""Charts as files, drawn by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from warnings import catch_warnings, filterwarnings

from actratio.files import replacing
from actratio.report.chart import COLOURS, Chart, HeatMap, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FORMATS = ("svg", "png")


def save_charts(charts: Sequence[Chart | HeatMap], folder: Path) -> list[Path]:
    """Write each chart as SVG and PNG into ``folder``; returns the files."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # not pyplot: no backend is chosen, no window, no global state

    paths = []
    for chart in charts:
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.subplots()
        # A data set's name may hold '$', which matplotlib would read as mathematics.
        axes.set_title(chart.title, loc="left", fontsize=11, parse_math=False)
        axes.set_xlabel(chart.x_label)
        axes.set_ylabel(chart.y_label)
        if isinstance(chart, HeatMap):
            _heat(figure, axes, chart)
        else:
            _lines(axes, chart)
        for ending in _FORMATS:
            path = folder / f"{chart.key}.{ending}"
            # No date and no random names in the file, so that the same data gives the same bytes.
            with replacing(path) as temporary, rc_context({"svg.hashsalt": "actratio"}), catch_warnings():
                filterwarnings("ignore", "Glyph .* missing")  # of a name in a script that the font has not
                figure.savefig(temporary, dpi=150, metadata={"Date": None} if ending == "svg" else None)
            paths.append(path)
    return paths


def _heat(figure: Figure, axes: Axes, chart: HeatMap) -> None:
    from matplotlib.ticker import PercentFormatter

    half = (chart.x[1] - chart.x[0]) / 2 if len(chart.x) > 1 else 0.5
    image = axes.imshow(
        chart.z,
        aspect="auto",
        interpolation="nearest",
        vmin=0,
        extent=(chart.x[0] - half, chart.x[-1] + half, len(chart.y) - 0.5, -0.5),
    )
    every = max(1, len(chart.y) // 12)
    axes.set_yticks(range(0, len(chart.y), every), chart.y[::every], fontsize=8, parse_math=False)
    figure.colorbar(image, ax=axes, format=PercentFormatter(1) if chart.percent else None)


def _lines(axes: Axes, chart: Chart) -> None:
    from matplotlib.ticker import FixedLocator, NullFormatter, PercentFormatter, ScalarFormatter

    for each in chart.series:
        _draw(axes, each)
    if chart.x_log:
        axes.set_xscale("log")
    if chart.y_log:
        axes.set_yscale("log")
    if chart.x_ticks is not None:
        axes.xaxis.set_major_locator(FixedLocator(list(chart.x_ticks)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
    if chart.y_log:
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter())
    elif chart.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.25, which="both" if chart.y_log else "major")
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.legend(fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _draw(axes: Axes, series: Series) -> None:
    colour = COLOURS[series.colour % len(COLOURS)]
    y = [each.value for each in series.y]
    looks = {
        "line": {"linestyle": "-", "marker": "o", "markersize": 3.5},
        "dashed": {"linestyle": "--", "marker": "", "linewidth": 1.2},
        "points": {"linestyle": "", "marker": "o", "markersize": 5, "alpha": 0.8},
        "published": {"linestyle": ":", "marker": "o", "markersize": 6, "markerfacecolor": "none"},
        "hollow": {"linestyle": "", "marker": "o", "markersize": 6, "markerfacecolor": "none"},
    }[series.style]
    label = series.name if not series.name.startswith("_") else f" {series.name}"  # matplotlib hides names with '_'
    axes.plot(series.x, y, color=colour, label=label, **looks)  # type: ignore[arg-type]
    with_interval = [(x, e) for x, e in zip(series.x, series.y, strict=True) if not math.isnan(e.low)]
    if not with_interval:
        return
    x = [pair[0] for pair in with_interval]
    if series.style == "points" or len(series.x) == 1:  # a band of one point would have no width
        errors = [[e.value - e.low for _, e in with_interval], [e.high - e.value for _, e in with_interval]]
        axes.errorbar(
            x, [e.value for _, e in with_interval], yerr=errors, fmt="none", color=colour, capsize=2, linewidth=1
        )
    else:
        axes.fill_between(
            x,
            [e.low for _, e in with_interval],
            [e.high for _, e in with_interval],
            color=colour,
            alpha=0.18,
            linewidth=0,
        )
