"""Empty figures, for tests of commands: drawing charts takes most of the time of a command that measures a small model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def blank_figure(chart: object) -> Figure:
    """Return a figure without content, whatever the chart is. Use it in place of ``actratio.report.static.draw_chart``."""
    from matplotlib.figure import Figure

    return Figure(figsize=(1, 1))
