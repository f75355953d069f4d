"""A report's tables and figures for notebooks and terminals."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actratio.errors import RunError
from actratio.report.chart import Chart, ForestChart, HeatMap
from actratio.report.findings import Table
from actratio.unseen import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Figures:
    """Figures of a report. A notebook shows them with their captions.

    Attributes:
        charts: what is drawn.

    Examples:
        >>> figures = m.plot("profile", "ranks")           # doctest: +SKIP
        >>> figures["profile"].savefig("profile.pdf")      # doctest: +SKIP
        >>> figures.interactive("ranks").show()            # doctest: +SKIP
    """

    charts: Sequence[Chart | ForestChart | HeatMap]

    @classmethod
    def of(cls, charts: Sequence[Chart | ForestChart | HeatMap], names: Sequence[str]) -> Figures:
        """Return the figures with these names, in this order; without names, all.

        Raises:
            RunError: there is no figure of this name.
        """
        figures = cls(charts)
        return cls([figures._find(name) for name in names]) if names else figures

    @property
    def names(self) -> list[str]:
        """Names of the figures."""
        return [chart.key for chart in self.charts]

    def __len__(self) -> int:
        return len(self.charts)

    def __getitem__(self, name: str) -> Figure:
        """Return a figure of matplotlib.

        Raises:
            RunError: there is no figure of this name.
        """
        from actratio.report.static import draw_chart

        return draw_chart(self._find(name))

    def interactive(self, name: str) -> Any:
        """Return a figure of plotly.

        Raises:
            RunError: there is no figure of this name.
        """
        from plotly.graph_objects import Figure

        from actratio.report.interactive import plotly_figure

        chart = self._find(name)
        drawn = plotly_figure(chart)
        figure = Figure(data=drawn["data"], layout={**drawn["layout"], "template": "plotly_white"})
        return figure.update_layout(title={"text": html.escape(chart.title, quote=False)}, height=drawn.get("height"))

    def save(self, folder: str | Path) -> list[Path]:
        """Write each figure as SVG and PNG into a folder, and return the paths."""
        from actratio.report.static import save_charts

        return save_charts(self.charts, Path(folder))

    def _find(self, name: str) -> Chart | ForestChart | HeatMap:
        found = next((chart for chart in self.charts if chart.key == name), None)
        if found is None:
            raise RunError(f"there is no figure {name!r}; there are {', '.join(self.names)}")
        return found

    def __repr__(self) -> str:
        return f"<Figures: {', '.join(self.names)}>"

    def _repr_html_(self) -> str:
        from actratio.report.static import svg_bytes

        shown = []
        for chart in self.charts:
            image = base64.b64encode(svg_bytes(chart)).decode()
            shown.append(
                f'<figure style="max-width:46em;margin:1em 0"><img alt="{html.escape(chart.title)}" style="width:100%;background:white" '
                f'src="data:image/svg+xml;base64,{image}"><figcaption>{html.escape(chart.reading)}</figcaption></figure>'
            )
        return "".join(shown)


def table_text(table: Table, max_rows: int) -> str:
    """Return a table as text in columns, with at most ``max_rows`` rows."""
    cells = [[visible(cell) for cell in row] for row in (table.header, *_shortened(table.rows, max_rows))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if number == 0 or table.text else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([visible(table.title), *lines])


def findings_html(tables: Sequence[Table], sentences: Sequence[str], max_rows: int) -> str:
    """Return sentences and tables with at most ``max_rows`` rows each as HTML, all text escaped."""
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return f"<div><ul>{items}</ul>{''.join(_table_html(table, max_rows) for table in tables)}</div>"


def _table_html(table: Table, max_rows: int) -> str:
    def cell(number: int, text: str, tag: str) -> str:
        side = "left" if table.text or number == 0 else "right"
        return f'<{tag} style="text-align:{side};padding:0.1em 0.6em">{html.escape(text)}</{tag}>'

    head = "".join(cell(number, name, "th") for number, name in enumerate(table.header))
    rows = [
        f"<tr>{''.join(cell(number, text, 'td') for number, text in enumerate(row))}</tr>"
        for row in _shortened(table.rows, max_rows)
    ]
    return (
        f"<strong>{html.escape(table.title)}</strong>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _shortened(rows: Sequence[list[str]], max_rows: int) -> list[list[str]]:
    """Return at most ``max_rows`` rows; dots stand for those in the middle."""
    if len(rows) <= max_rows:
        return list(rows)
    half = max_rows // 2
    return [*rows[:half], ["…"] * len(rows[0]), *rows[-half:]]
