"""Charts as data; ``static`` draws them with matplotlib, ``interactive`` with plotly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from actratio.statistics.estimate import Estimate

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F7F7F")
"""Okabe and Ito's palette for colour-blind readers, without yellow and black, which are hard to see on a white or dark page."""


@dataclass(frozen=True)
class Series:
    """A named series of points, with or without intervals.

    Attributes:
        name: text in the legend.
        x, y: coordinates of the points, of equal length.
        colour: index into ``COLOURS``; related series share a colour.
        style: ``line`` (solid line, markers), ``dashed`` (dashed line, no markers), ``points`` (markers only), ``published``
            (dotted line, hollow markers) or ``hollow`` (hollow markers only).
        labels: what each point is, such as ``layer 3``, if its x does not say so; for hover texts and tables.
    """

    name: str
    x: list[float]
    y: list[Estimate]
    colour: int = 0
    style: str = "line"
    labels: Sequence[str] | None = None


@dataclass(frozen=True)
class Chart:
    """Series over common axes, with a title and a caption.

    Attributes:
        key: name of the image files, unique in a report.
        title: heading, which says what is shown.
        reading: caption, one to three sentences on how to read the chart.
        x_label, y_label: labels of the axes, with units.
        series: what is drawn, in the order of the legend.
        x_log, y_log: whether an axis is logarithmic.
        percent: whether y is a share, to be shown as a percentage.
        x_ticks: places of the ticks of the x axis; chosen automatically if ``None``.
    """

    key: str
    title: str
    reading: str
    x_label: str
    y_label: str
    series: list[Series] = field(default_factory=list)
    x_log: bool = False
    y_log: bool = False
    percent: bool = False
    x_ticks: Sequence[float] | None = None

    @property
    def note(self) -> str | None:
        """A sentence to write into a chart that would look empty, because nothing varies; ``None`` for other charts."""
        values = [y.value for series in self.series for y in series.y if math.isfinite(y.value)]
        if len(values) < 2 or min(values) < max(values):
            return None
        return f"Nothing varies: every value is {values[0]:{'.1%' if self.percent else '.3g'}}."

    @property
    def has_log_y(self) -> bool:
        """Whether the y axis is drawn on a logarithmic scale, which has no place for zeros alone."""
        return self.y_log and any(y.value > 0 for series in self.series for y in series.y)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the chart's numbers as a header and rows.

        There is one column per series and one row per x. If a series has several points at one x, there is one row per point
        instead. Dashed curves are listed only at the x of other series, if there are any. A label stands for the x that it
        belongs to, if no other point there has another label.
        """
        number = "{:.1%}" if self.percent else "{:.3g}"
        measured = {x for series in self.series if series.style != "dashed" for x in series.x}
        places = sorted(measured or {x for series in self.series for x in series.x})
        if any(len(set(series.x)) < len(series.x) for series in self.series):
            points = [
                (x, series.name, y.format(number))
                for series in self.series
                for x, y in zip(series.x, series.y, strict=True)
                if x in places
            ]
            return [self.x_label, "series", self.y_label], [
                [self._place(x), *cells] for x, *cells in sorted(points, key=lambda point: point[0])
            ]
        columns = [dict(zip(series.x, series.y, strict=True)) for series in self.series]
        rows = [
            [self._place(x), *(column[x].format(number) if x in column else "" for column in columns)] for x in places
        ]
        return [self.x_label, *(series.name for series in self.series)], rows

    def _place(self, x: float) -> str:
        labels = {
            label
            for series in self.series
            for place, label in zip(series.x, series.labels or [""] * len(series.x), strict=True)
            if place == x and label
        }
        return labels.pop() if len(labels) == 1 else f"{x:g}"


@dataclass(frozen=True)
class ForestChart:
    """Estimates with horizontal intervals, one named row below the other.

    Attributes:
        key, title, reading, x_label: as for ``Chart``.
        series: the estimates of each series, by the name of the row; rows come in the order of their first occurrence.
        reference: place of a vertical line, such as the value under a hypothesis.
        band: range that is shaded, such as the values that count as equivalent.
        row_label: what a row is, in the table.
    """

    key: str
    title: str
    reading: str
    x_label: str
    series: Mapping[str, Mapping[str, Estimate]]
    reference: float | None = None
    band: tuple[float, float] | None = None
    row_label: str = ""

    @property
    def rows(self) -> list[str]:
        """Names of the rows, from top to bottom."""
        return list(dict.fromkeys(name for estimates in self.series.values() for name in estimates))

    def places(self) -> dict[str, dict[str, float]]:
        """Return where each estimate of each series is drawn: the index of its row, moved a little if rows are shared."""
        rows, placed = self.rows, {}
        for index, (series, estimates) in enumerate(self.series.items()):
            shift = 0.3 * (index - (len(self.series) - 1) / 2) / max(1, len(self.series) - 1)
            shared = {name for other, names in self.series.items() if other != series for name in names}
            placed[series] = {name: rows.index(name) + (shift if name in shared else 0.0) for name in estimates}
        return placed

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the chart's numbers as a header and rows."""
        rows = [
            [
                name,
                *(estimates[name].format("{:.3g}") if name in estimates else "" for estimates in self.series.values()),
            ]
            for name in self.rows
        ]
        return [self.row_label, *self.series], rows


@dataclass(frozen=True)
class HeatMap:
    """A grid of coloured cells, with a title and a caption.

    Attributes:
        key, title, reading, x_label, y_label: as for ``Chart``.
        x: places along the x axis.
        y: names of the rows, from top to bottom.
        z: values of shape (rows, places); ``nan`` leaves a cell blank.
        percent: whether z is a share, to be shown as a percentage.
    """

    key: str
    title: str
    reading: str
    x_label: str
    y_label: str
    x: list[float]
    y: list[str]
    z: list[list[float]]
    percent: bool = True

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the map's numbers as a header and rows, at about ten places per row."""
        step = max(1, (len(self.x) - 1) // 10)
        number = "{:.1%}" if self.percent else "{:.3g}"
        rows = [
            [name, *("" if math.isnan(value) else number.format(value) for value in values[::step])]
            for name, values in zip(self.y, self.z, strict=True)
        ]
        return [self.y_label, *(f"{place:g}" for place in self.x[::step])], rows
