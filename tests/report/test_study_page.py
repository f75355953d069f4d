"""The page of a study in a headless browser: every chart is drawn, nothing is requested, no text is executed."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actratio.files import frame_checksum, read_table, write_table
from actratio.report.chart import Chart, Series
from actratio.report.findings import Findings, verdicts_table
from actratio.report.page import write_page
from actratio.report.static import save_charts
from actratio.statistics.estimate import Estimate
from actratio.statistics.verdict import YES, Verdict
from actratio.studies import MlpStudy
from actratio.studies.runner import FinishedRun, Runner
from actratio.training import ARTICLE_HIDDEN
from tests.browser import Visit

HOSTILE = '<img src=x onerror=alert(1)>$^{_it\'s "R&D"</script><b>.csv'


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the page of a small study of two datasets, one of them with a hostile name."""
    folder = tmp_path_factory.mktemp("report")
    # The slash in '</script>' separates a folder from a file.
    hostile = folder / HOSTILE
    hostile.parent.mkdir()
    rng = np.random.default_rng(0)
    rows = [",".join([*(f"{x:.3f}" for x in rng.random(6)), str(i % 3)]) for i in range(90)]
    hostile.write_text("\n".join(["a,b,c,d,e,f,label", *rows]))
    study = MlpStudy(datasets=("digits", str(hostile)), seeds=2, epochs=2)
    Runner(study, folder / "run").execute()
    return FinishedRun.read(folder / "run").write_report()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1200, "dark"),
        (390, "light"),
        pytest.param(1200, "light", marks=pytest.mark.slow),
        pytest.param(390, "dark", marks=pytest.mark.slow),
    ],
)
def test_page_draws_every_chart_without_requests_or_errors(browser: Any, report: Path, width: int, scheme: str) -> None:
    visit = Visit(browser, report, viewport={"width": width, "height": 800}, color_scheme=scheme)
    visit.page.mouse.wheel(0, 4000)
    visit.page.wait_for_timeout(200)
    assert visit.messages == []
    assert visit.requests == [report.as_uri()]
    charts = visit.page.query_selector_all(".chart")
    assert len(charts) == 2 + 4 * 2
    for chart in charts:
        assert chart.query_selector_all(".scatterlayer .trace"), chart.get_attribute("id")
    # Only tables scroll sideways, inside their own box; the page does not.
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    shade = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (shade == "rgb(255, 255, 255)") == (scheme == "light")
    visit.page.close()


def test_page_switches_its_theme(browser: Any, report: Path) -> None:
    visit = Visit(browser, report, color_scheme="light")
    visit.page.click("#theme")
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 19, 24)"
    axis = visit.page.evaluate("getComputedStyle(document.querySelector('.chart .xtitle')).fill")
    assert axis == "rgb(230, 237, 243)"
    assert visit.messages == []
    visit.page.close()


@pytest.fixture(scope="module")
def visit(browser: Any, report: Path) -> Iterator[Visit]:
    """The page, which tests that change nothing share because drawing it takes seconds."""
    visit = Visit(browser, report)
    yield visit
    visit.page.close()


def test_page_shows_a_caption_and_a_table_for_every_chart(visit: Visit) -> None:
    for chart in visit.page.query_selector_all("section:has(.chart)"):
        assert len(chart.query_selector("p").inner_text()) > 40
        chart.query_selector("summary").click()
        assert chart.query_selector("table tbody tr").is_visible()


def test_page_escapes_dataset_names(visit: Visit) -> None:
    assert HOSTILE in visit.page.inner_text("h1")
    assert HOSTILE in visit.page.text_content("#ratio-by-width .legend")
    assert visit.page.query_selector_all("img") == []
    assert visit.messages == []


def test_save_charts_writes_valid_repeatable_files(report: Path, tmp_path: Path) -> None:
    chart = Chart(
        "one",
        "a $title_",
        "how",
        "x",
        "y",
        [Series("_$s^", [1, 2], [Estimate(0.1, 0.05, 0.2), Estimate(0.3)])],
        x_log=True,
        percent=True,
    )
    expected = [path.read_bytes() for path in save_charts([chart], tmp_path / "a")]
    assert expected == [path.read_bytes() for path in save_charts([chart], tmp_path / "b")]
    assert "<svg" in expected[0].decode()
    assert expected[1].startswith(b"\x89PNG")
    for path in sorted((report.parent / "figures").glob("*.svg")):
        ET.parse(path)
    assert len(list((report.parent / "figures").iterdir())) == 2 * (2 + 4 * 2)


def test_chart_table() -> None:
    series = [Series("a", [1, 2], [Estimate(0.5), Estimate(0.25, 0.2, 0.3)]), Series("b", [2], [Estimate(1.0)])]
    header, rows = Chart("k", "t", "r", "x", "y", series, percent=True).table()
    assert header == ["x", "a", "b"]
    assert rows == [["1", "50.0%", ""], ["2", "25.0% (20.0% … 30.0%)", "100.0%"]]


def test_chart_table_lists_repeated_points_and_curves_at_measured_places() -> None:
    points = Series("a", [1, 1, 2], [Estimate(5.0), Estimate(6.0), Estimate(7.0)], style="points")
    curve = Series("law", [1, 1.5, 2], [Estimate(1.0), Estimate(1.5), Estimate(2.0)], style="dashed")
    header, rows = Chart("k", "t", "r", "x", "y", [points, curve]).table()
    assert header == ["x", "series", "y"]
    assert rows == [["1", "a", "5"], ["1", "a", "6"], ["1", "law", "1"], ["2", "a", "7"], ["2", "law", "2"]]
    assert Chart("k", "t", "r", "x", "y", [curve]).table()[1] == [["1", "1"], ["1.5", "1.5"], ["2", "2"]]


def test_page_on_a_phone_keeps_the_plot_above_a_long_legend(browser: Any, tmp_path: Path) -> None:
    names = ["-".join(map(str, (784, *hidden, 10))) for hidden in ARTICLE_HIDDEN]
    series = [Series(name, [1, 2], [Estimate(0.1), Estimate(0.3)], colour) for colour, name in enumerate(names)]
    series += [Series(f"{name}, published", [1, 2], [Estimate(0.2), Estimate(0.2)]) for name in names]
    page = write_page(Findings("t", "l", charts=[Chart("one", "t", "r", "epoch", "y", series)]), tmp_path / "p.html")
    visit = Visit(browser, page, viewport={"width": 390, "height": 800})

    def box(selector: str) -> dict[str, float]:
        return dict(visit.page.query_selector(selector).bounding_box())

    plot, axis, legend = box("#one .nsewdrag"), box("#one .xtitle"), box("#one .legend .bg")
    assert plot["height"] > 200
    assert axis["y"] + axis["height"] <= legend["y"]
    shown = visit.page.query_selector_all("#one .legend .traces")
    assert len(shown) == 12
    last = shown[-1].bounding_box()
    assert last["y"] + last["height"] <= legend["y"] + legend["height"] + 1  # the whole legend is visible
    visit.page.close()


@pytest.mark.parametrize("width", [1100, 390])
def test_verdicts_wrap_so_that_their_estimates_are_in_sight(browser: Any, tmp_path: Path, width: int) -> None:
    claim = (
        "the claim of a verdict, which is as long as claims are that say exactly what was measured and on which data"
    )
    verdict = Verdict(claim, YES, Estimate(0.512, 0.488, 0.533), "a rule", figure="change of the accuracy")
    page = write_page(Findings("t", "l", tables=[verdicts_table([verdict])]), tmp_path / "p.html")
    visit = Visit(browser, page, viewport={"width": width, "height": 800})
    box = visit.page.query_selector("table.text td:last-child").bounding_box()
    assert box["x"] + box["width"] <= width
    visit.page.close()


def test_study_charts_show_published_points(tmp_path: Path, published: Path) -> None:
    """The table of a quick study is edited to name a dataset of the article, because training on that takes too long."""
    study = MlpStudy(architectures=("32-10", "128-64-10"), seeds=2, epochs=2)
    runner = Runner(study, tmp_path / "run")
    runner.execute()
    table = runner.folder.table_path
    frame, metadata = read_table(table)
    frame = frame.replace({"dataset": {"digits": "mnist"}, "architecture": {"64-128-64-10": "784-128-64-10"}})
    write_table(table, frame, {**metadata, "checksum": frame_checksum(frame)})
    findings = FinishedRun.read(tmp_path / "run", study.read_published(published)).findings
    for chart in findings.charts:
        assert isinstance(chart, Chart)
        assert any("published" in series.name for series in chart.series), chart.key
    widths = next(table for table in findings.tables if "published ratio" in table.header)
    row = next(row for row in widths.rows if row[1] == "32")
    assert row[-1] == "74.7%"  # the published file has one MNIST layer of 32 neurons


def test_save_charts_draws_names_in_any_script_without_warnings(tmp_path: Path) -> None:
    series = Series("数", [1, 2], [Estimate(0.5, 0, 1), Estimate(0.5, 0, 1)])
    save_charts([Chart("one", "手写数字", "r", "x", "y", [series])], tmp_path)


def test_what_was_looked_at_afterwards_has_a_section_of_its_own(tmp_path: Path) -> None:
    page = write_page(Findings("t", "l", ["The answer."], afterwards=["<later>"]), tmp_path / "p.html").read_text(
        encoding="utf-8"
    )
    section = page[page.index("<h2>Looked at afterwards</h2>") :]
    assert "&lt;later&gt;" in section
    assert "The answer." not in section
    assert "Looked at afterwards" not in write_page(Findings("t", "l"), tmp_path / "q.html").read_text(encoding="utf-8")
