"""An axis on a logarithmic scale leaves out what has no logarithm."""

from __future__ import annotations

import math

import pytest

from actratio.report.chart import Chart, Series
from actratio.report.interactive import _decades, plotly_figure
from actratio.report.static import draw_chart
from actratio.statistics.estimate import Estimate


def test_values_without_a_logarithm_have_no_ticks() -> None:
    assert _decades([0.0, -1.0, math.nan]) == {}
    assert _decades([0.0, 1.0, 9.0]) == _decades([1.0, 9.0])


def chart(*values: float, percent: bool = False) -> Chart:
    estimates = [Estimate(value) for value in values]
    series = Series("one", list(range(1, len(values) + 1)), estimates, 0)
    return Chart("key", "title", "reading", "x", "y", [series], y_log=True, percent=percent)


@pytest.mark.parametrize(
    ("values", "percent", "note"),
    [
        ((0.0, 0.0), False, "Nothing varies: every value is 0."),
        ((0.5, 0.5, math.nan), True, "Nothing varies: every value is 50.0%."),
        ((0.0, 1.0), False, None),
        ((3.0,), False, None),
        ((math.nan, math.nan), False, None),
    ],
)
def test_a_chart_says_when_nothing_varies(values: tuple[float, ...], percent: bool, note: str | None) -> None:
    drawn = chart(*values, percent=percent)
    assert drawn.note == note
    notes = [item["text"] for item in plotly_figure(drawn)["layout"].get("annotations", [])]
    texts = [text.get_text() for text in draw_chart(drawn).axes[0].texts]
    assert notes == texts == ([] if note is None else [note])


def test_zeros_alone_are_drawn_on_a_linear_scale() -> None:
    assert plotly_figure(chart(0.0, 0.0))["layout"]["yaxis"]["type"] == "linear"
    assert draw_chart(chart(0.0, 0.0)).axes[0].get_yscale() == "linear"
    assert draw_chart(chart(0.0, 1.0)).axes[0].get_yscale() == "log"
