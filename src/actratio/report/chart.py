"""A chart as data, which ``static`` draws with matplotlib and ``page`` with plotly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from actratio.laws.estimate import Estimate

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F7F7F")
"""Okabe and Ito's palette, which colour-blind readers can tell apart, without the yellow and the
black that vanish on a white or a dark page."""


@dataclass(frozen=True)
class Series:
    """Points of one name, with intervals or without.

    Attributes:
        colour: index into ``COLOURS``; series that belong together share it.
        style: ``line`` (solid, with markers), ``dashed`` (no markers: a law), ``points`` (no line),
            ``published`` (hollow markers, dotted), ``hollow`` (hollow markers, no line).
    """

    name: str
    x: list[float]
    y: list[Estimate]
    colour: int = 0
    style: str = "line"


@dataclass(frozen=True)
class Chart:
    """Series over common axes, with the words that a reader needs.

    Attributes:
        key: name of the files, unique in a report.
        title: what is shown, as a heading.
        reading: one or two sentences on how to read it.
        percent: y is a share, shown in per cent.
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

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The chart's numbers: a column a series or, where one has several points at a place, a row a point.

        Of a curve (dashed), the places that other series have; all of them, if there is no other.
        """
        number = "{:.1%}" if self.percent else "{:.3g}"
        measured = {x for each in self.series if each.style != "dashed" for x in each.x}
        places = sorted(measured or {x for each in self.series for x in each.x})
        if any(len(set(each.x)) < len(each.x) for each in self.series):
            points = [
                (place, each.name, y.format(number))
                for each in self.series
                for place, y in zip(each.x, each.y, strict=True)
                if place in places
            ]
            return [self.x_label, "series", self.y_label], [
                [f"{place:g}", *rest] for place, *rest in sorted(points, key=lambda point: point[0])
            ]
        rows = []
        for place in places:
            cells = [dict(zip(each.x, each.y, strict=True)).get(place) for each in self.series]
            rows.append([f"{place:g}", *("" if cell is None else cell.format(number) for cell in cells)])
        return [self.x_label, *(each.name for each in self.series)], rows


@dataclass(frozen=True)
class HeatMap:
    """A colour a cell, with the words that a reader needs.

    Attributes:
        key, title, reading: as a chart's.
        x: places along the x axis; y: names of the rows, the first at the top.
        z: (rows, places), ``nan`` where there is nothing.
        percent: z is a share, shown in per cent.
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
        """The map's numbers, at about ten places of each row."""
        every = max(1, (len(self.x) - 1) // 10)
        number = "{:.1%}" if self.percent else "{:.3g}"
        rows = [
            [name, *("" if math.isnan(value) else number.format(value) for value in row[::every])]
            for name, row in zip(self.y, self.z, strict=True)
        ]
        return [self.y_label, *(f"{place:g}" for place in self.x[::every])], rows
