"""Charts of named estimates with intervals."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from actratio.report.chart import ForestChart
from actratio.report.findings import Findings
from actratio.report.interactive import plotly_figure
from actratio.report.page import write_page
from actratio.report.static import save_charts
from actratio.statistics.estimate import Estimate
from tests.browser import Visit

HOSTILE = "<b>$x_</b>"


@pytest.fixture
def chart() -> ForestChart:
    series = {
        "all widths": {"letter": Estimate(0.6, 0.5, 0.7), HOSTILE: Estimate(0.4), "mean": Estimate(0.5, 0.45, 0.55)},
        "from N = 64": {"letter": Estimate(0.55, 0.4, 0.65), HOSTILE: Estimate(0.3, 0.2, 0.4)},
    }
    return ForestChart(
        "forest", "title", "how to read it", "α", series, reference=0.5, band=(0.4, 0.6), row_label="task"
    )


def test_rows_keep_their_order_and_shared_rows_are_drawn_apart(chart: ForestChart) -> None:
    assert chart.rows == ["letter", HOSTILE, "mean"]
    places = chart.places()
    assert places["all widths"]["letter"] < 0 < places["from N = 64"]["letter"]
    assert places["all widths"]["mean"] == 2


def test_table_has_one_row_for_each_name(chart: ForestChart) -> None:
    header, rows = chart.table()
    assert header == ["task", "all widths", "from N = 64"]
    assert rows[0] == ["letter", "0.6 (0.5 … 0.7)", "0.55 (0.4 … 0.65)"]
    assert rows[2] == ["mean", "0.5 (0.45 … 0.55)", ""]


def test_files_are_valid_and_repeatable(chart: ForestChart, tmp_path: Path) -> None:
    first, second = (save_charts([chart], tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    ET.parse(first[0])


def test_the_page_gets_errors_reference_and_escaped_names(chart: ForestChart) -> None:
    figure = plotly_figure(chart)
    json.dumps(figure, allow_nan=False)
    band, reference, first, _ = figure["data"]
    assert (min(band["x"]), max(band["x"])) == (0.4, 0.6)
    assert reference["x"] == [0.5, 0.5]
    assert first["error_x"]["array"] == pytest.approx([0.1, 0.0, 0.05])
    assert figure["layout"]["yaxis"]["ticktext"][1] == "&lt;b&gt;$x_&lt;/b&gt;"
    one = ForestChart("one", "t", "r", "x", {"only": {"a": Estimate(1.0)}})
    assert [trace["showlegend"] for trace in plotly_figure(one)["data"]] == [False]


def test_a_browser_draws_it(chart: ForestChart, browser: Any, tmp_path: Path) -> None:
    visit = Visit(browser, write_page(Findings("t", "l", charts=[chart]), tmp_path / "p.html"))
    assert visit.messages == []
    assert len(visit.page.query_selector_all("#forest .scatterlayer .trace")) == 4
    assert HOSTILE in visit.page.text_content("#forest .yaxislayer-above")
    visit.page.close()
