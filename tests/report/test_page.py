"""The page of a measurement of 30 layers, in a headless browser: what it holds, hover texts, downloads, and on a phone."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from actratio import Measurement
from actratio.report import page as page_module
from actratio.report.chart import Chart, HeatMap, Series
from actratio.report.findings import Findings, settings_shown
from actratio.report.measured import measurement_findings
from actratio.report.page import write_page
from actratio.statistics.estimate import Estimate
from tests.browser import Visit
from tests.cli.test_tables import make_measurement

ASSETS = Path(page_module.__file__).parent / "assets"
SETTINGS = {
    "text": ["corpus.txt"],
    "prompts": [],
    "length": 256,
    "packed": True,
    "limit_tokens": None,
    "dtype": "bf16",
    "criteria": ["positive", "nonzero"],
    "left_out": {"other": 3},
    "fingerprint": "0123",
}


@pytest.fixture(scope="module")
def measurement() -> Measurement:
    made = make_measurement("llama-30")
    return Measurement("llama-30", made.rows, made.magnitudes, SETTINGS, {"torch": "2"})


@pytest.fixture(scope="module")
def report(measurement: Measurement, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(measurement_findings(measurement), tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def visit(browser: Any, report: Path) -> Iterator[Visit]:
    """The page, which tests share because drawing it takes seconds: they hover, fold out and download, and change nothing else."""
    visit = Visit(browser, report)
    yield visit
    visit.page.close()


def downloaded(visit: Visit, selector: str) -> list[list[str]]:
    with visit.page.expect_download() as download:
        visit.page.click(selector)
    text = Path(download.value.path()).read_text(encoding="utf-8")
    return list(csv.reader(io.StringIO(text)))


def hovered(visit: Visit, chart: str, point: int) -> str:
    """Hover over a point of the first series of a chart and return what is shown."""
    visit.page.locator(f"#{chart}").scroll_into_view_if_needed()
    box = visit.page.locator(f"#{chart} .scatterlayer .trace").first.locator(".point").nth(point).bounding_box()
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    visit.page.wait_for_selector(f"#{chart} .hovertext")
    return " ".join(visit.page.locator(f"#{chart} .hovertext text").all_text_contents())


def test_page_is_small_and_names_no_other_address(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert report.stat().st_size < 1_600_000
    bundle = (ASSETS / "plotly-cartesian.min.js").read_text(encoding="utf-8")
    assert text.count(bundle) == 1
    own = text.replace(bundle, "")
    assert "://" not in own
    assert not re.search(r"cloud|plotlyServerURL|sendChart", own, re.IGNORECASE)


def test_bundle_is_the_file_that_its_readme_names() -> None:
    digest = hashlib.sha256((ASSETS / "plotly-cartesian.min.js").read_bytes()).hexdigest()
    assert digest in (ASSETS / "README.md").read_text(encoding="utf-8")
    assert "MIT" in (ASSETS / "LICENSE-plotly").read_text(encoding="utf-8")


def test_buttons_of_figures_upload_nothing(visit: Visit) -> None:
    titles = visit.page.eval_on_selector_all(
        "#profile .modebar-btn", "buttons => buttons.map(button => button.getAttribute('data-title'))"
    )
    assert len(titles) == 6
    assert not any(re.search("share|cloud|plotly", title, re.IGNORECASE) for title in titles)


def test_conclusions_come_first_then_settings_figures_and_tables(visit: Visit) -> None:
    order = visit.page.eval_on_selector_all(
        ".findings, .settings, .chart, section > .scroll, section > details > .scroll",
        "all => all.map(element => element.classList[0])",
    )
    charts = ["chart", "scroll"] * 5  # each with its numbers, folded away
    assert order == ["findings", "settings", *charts, "scroll", "scroll"]  # the last one has the versions
    assert visit.page.is_hidden("section:has-text('Show all 30 rows') table")
    assert not visit.page.is_hidden("section:last-of-type table")
    shown = visit.page.inner_text(".settings").split("\n")
    shown = dict(zip(shown[::2], shown[1::2], strict=True))
    assert shown == {
        "tokens": "64", "text": "corpus.txt", "length": "256", "packed": "yes", "dtype": "bf16",
        "criteria": "positive, nonzero",
    }  # fmt: skip


def test_settings_shown_skips_what_people_do_not_read() -> None:
    assert list(settings_shown(SETTINGS)) == ["text", "length", "packed", "dtype", "criteria"]


def test_hover_texts_name_the_layer_and_the_quantity(visit: Visit) -> None:
    text = hovered(visit, "profile", 14)
    assert "layer 14" in text
    assert re.search(r"share of the neuron outputs: \d+\.\d%", text)
    text = hovered(visit, "silent", 3)
    assert "layer: 3" in text
    assert "share of the layer's neurons: 0.0%" in text
    assert visit.messages == []


def test_hover_text_of_a_heat_map_names_the_layer(visit: Visit) -> None:
    visit.page.locator("#ranks").scroll_into_view_if_needed()
    box = visit.page.locator("#ranks .nsewdrag").bounding_box()
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 60)
    visit.page.wait_for_selector("#ranks .hovertext")
    text = " ".join(visit.page.locator("#ranks .hovertext text").all_text_contents())
    assert "layer 0" in text
    assert "rank of the neuron: 0.5" in text


def test_data_are_downloaded_from_the_page_itself(visit: Visit, measurement: Measurement) -> None:
    header, *rows = downloaded(visit, "#data")
    frame = measurement.to_frame()
    assert header == list(frame.columns)
    assert len(rows) == 60
    ratios = [float(row[header.index("activation_ratio")]) for row in rows]
    assert ratios == pytest.approx(frame["activation_ratio"].tolist(), rel=1e-7)
    header, *rows = downloaded(visit, "a.numbers[data-chart=profile]")
    assert header == [
        "series",
        "point",
        "relative depth (0: first layer, 1: last layer)",
        "share of the neuron outputs",
        "low",
        "high",
    ]
    assert [rows[14][:3], rows[44][:3]] == [
        ["useful ratio", "layer 14", "0.482759"],
        ["activation > 0 (SiLU)", "layer 14", "0.482759"],
    ]
    assert float(rows[44][3]) == pytest.approx(ratios[28], rel=1e-5)
    header, *rows = downloaded(visit, "a.numbers[data-chart=ranks]")
    assert header == ["row", "rank of the neuron (share of the width)", "value"]
    assert len(rows) == 30 * 101
    assert rows[101][:2] == ["layer 1", "0"]
    assert {url.split(":")[0] for url in visit.requests} <= {"file", "blob"}
    assert visit.messages == []


def test_download_of_names_and_intervals(browser: Any, tmp_path: Path) -> None:
    hostile = 'a "quoted", <b>name</b> & more'
    series = [
        Series(hostile, [1, 2], [Estimate(0.5, 0.25, 0.75), Estimate(1.0)]),
        Series("two", [1], [Estimate(2.0)]),
    ]
    charts = [
        Chart("one", "t", "r", "x", "y", series),
        HeatMap("map", "t", "r", "x", "y", [0.0], ["a"], [[float("nan")]]),
    ]
    frame = pd.DataFrame({"name": ["</script><b>"]})
    visit = Visit(browser, write_page(Findings("t", "l", charts=charts, frame=frame), tmp_path / "p.html"))
    assert downloaded(visit, "a.numbers[data-chart=one]") == [
        ["series", "point", "x", "y", "low", "high"],
        [hostile, "", "1", "0.5", "0.25", "0.75"],
        [hostile, "", "2", "1", "", ""],
        ["two", "", "1", "2", "", ""],
    ]
    assert downloaded(visit, "a.numbers[data-chart=map]") == [["row", "x", "value"], ["a", "0", ""]]
    assert downloaded(visit, "#data") == [["name"], ["</script><b>"]]
    visit.page.close()


def test_page_without_a_table_offers_none(browser: Any, tmp_path: Path) -> None:
    visit = Visit(browser, write_page(Findings("t", "l"), tmp_path / "p.html"))
    assert visit.page.query_selector("#data") is None
    assert visit.messages == []
    visit.page.close()


_OUTSIDE = """() => [...document.querySelectorAll(".chart")].flatMap(chart => {
  const frame = chart.getBoundingClientRect();
  const texts = chart.querySelectorAll(".xtitle, .ytitle, .xtick text, .ytick text, .colorbar text");
  return [...texts].filter(text => {
    const box = text.getBoundingClientRect();
    return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
  }).map(text => `${chart.id}: ${text.textContent}`);
})"""


@pytest.mark.parametrize("width", [1100, pytest.param(390, marks=pytest.mark.slow), 320])
def test_titles_and_ticks_of_axes_are_inside_their_figure(browser: Any, report: Path, width: int) -> None:
    visit = Visit(browser, report, viewport={"width": width, "height": 800})
    assert visit.page.query_selector(".chart .xtick text") is not None
    assert visit.page.evaluate(_OUTSIDE) == []
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.page.close()


def test_tables_name_points_by_their_labels() -> None:
    labelled = Series("a", [0.0, 1.0], [Estimate(0.5), Estimate(0.25)], labels=["layer 0", "layer 3"])
    chart = Chart("k", "t", "r", "depth", "y", [labelled])
    assert [row[0] for row in chart.table()[1]] == ["layer 0", "layer 3"]
    other = Series("b", [1.0], [Estimate(0.5)], labels=["layer 9"])
    chart = Chart("k", "t", "r", "depth", "y", [labelled, other])
    assert [row[0] for row in chart.table()[1]] == ["layer 0", "1"]  # two layers are at depth 1
