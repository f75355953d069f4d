"""The report of a measurement: its numbers by hand, and its page in a real headless browser."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from actratio import Measurement, cli, load
from actratio.counting.kernels import reference
from actratio.counting.magnitudes import Magnitudes
from actratio.counting.measurement import Row
from actratio.report.chart import Chart, HeatMap
from actratio.report.measured import measurement_charts, measurement_findings, measurement_sentences, measurement_table
from actratio.report.page import write_report
from actratio.report.static import save_charts
from actratio.sites import Site
from tests.browser import Visit

HOSTILE = "<img src=x onerror=alert(1)>$^{_</script>"


def site(name: str, layer: int, width: int, expert: int | None = None) -> Site:
    role = "mlp" if expert is None else "expert"
    return Site(
        name,
        role,
        "relu",
        width,
        False,
        f"{name}.up",
        f"{name}.down",
        expert,
        layer,
        1,
        name,
        None,
        name,
        1,
        False,
        False,
    )  # type: ignore[arg-type]


def row(where: Site, active: list[list[int]], passed: int | None = None, first: Tensor | None = None) -> Row:
    mask = torch.tensor(active, dtype=torch.bool).view(-1, where.width)
    return Row(where, "activation", "positive", replace(reference.count(mask, [len(mask)], first), passed=passed))


@pytest.fixture
def found() -> Measurement:
    """Two layers: an MLP of four neurons, and two experts of two, one of which no token reached."""
    first = torch.tensor([True, False, False])
    rows = [
        row(site("dense", 0, 4), [[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]], first=first),
        row(site("moe.0", 1, 2, 0), [[1, 0], [1, 1]], passed=3),
        row(site("moe.1", 1, 2, 1), [], passed=3),
    ]
    magnitudes = {("dense", "activation"): Magnitudes.of(torch.tensor([0.0, 0.5, 1.0, 2.0]))}
    return Measurement(HOSTILE, rows, magnitudes, {"length": 8}, {"torch": torch.__version__})


def chart(found: Measurement, key: str) -> Any:
    return next(each for each in measurement_charts(found) if each.key == key)


def test_findings_by_hand(found: Measurement) -> None:
    ratio, silent, blocks, experts = measurement_sentences(found)
    # 4 + 3 active of 12 + 4 counted.
    assert ratio.startswith(
        "43.8% of the neurons are active by activation > 0, from 33.3% in layer 0 to 75.0% in layer 1"
    )
    assert silent.startswith("2 of 6 neurons were never active")
    assert "(2 were counted)" in silent
    assert "2 were active on at least 99 %" in silent  # neuron 0 of both
    assert blocks.startswith("0.0% of the blocks of 16")
    # 3 active of 2 experts × 2 neurons × 3 tokens.
    assert "25.00% are active for a token" in experts
    assert "1 of 2 experts were reached by no token" in experts


def test_charts_by_hand(found: Measurement) -> None:
    profile = chart(found, "profile")
    assert [(each.name, each.x) for each in profile.series] == [
        ("activation positive", [0.0, 1.0]),
        ("activation positive, first token", [0.0]),
    ]
    assert [each.value for each in profile.series[0].y] == pytest.approx([1 / 3, 3 / 4])
    assert profile.series[1].y[0].value == 0.5
    ranks = chart(found, "ranks")
    assert ranks.y == ["dense"]  # experts have a map of their own
    assert ranks.z[0][0] == 1.0
    assert ranks.z[0][-1] == 0.0
    thresholds = chart(found, "thresholds").series[0]
    assert dict(zip(thresholds.x, (each.value for each in thresholds.y), strict=True))[1.0] == 0.5
    unions = {each.name: each for each in chart(found, "unions").series}
    assert unions["dense"].x == [1, 2]
    assert [each.value for each in unions["dense"].y] == pytest.approx([1 / 3, 2 / 4])
    assert unions["dense, if independent"].y[1].value == pytest.approx((1 + 1 - (2 / 3) ** 2) / 4)
    silent = chart(found, "silent")
    assert [each.value for each in silent.series[0].y] == [0.5, 0.0]
    assert [each.value for each in silent.series[1].y] == [0.25, 0.5]
    assert chart(found, "experts").z[0][0] == 0.75
    assert math.isnan(chart(found, "experts").z[0][1])
    assert chart(found, "routing").z == [[pytest.approx(2 / 3), 0.0]]


def test_the_share_of_routed_tokens_survives_merging_and_saving(found: Measurement, tmp_path: Path) -> None:
    both = found | found
    assert both.to_frame()["routed_share"].tolist()[1:] == [pytest.approx(2 / 3), 0.0]
    assert [each.counts.passed for each in both] == [None, 6, 6]
    both.save(tmp_path / "m")
    again = load(tmp_path / "m")
    assert [each.counts.passed for each in again] == [None, 6, 6]
    assert again.settings == {"length": 8}
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "m" / "sites.parquet"), again.to_frame())


def test_the_table_names_what_differs(found: Measurement) -> None:
    made = measurement_table(found)
    assert made.title == f"Activation ratios of {HOSTILE}, activation, positive"
    assert made.header[:3] == ["site", "tokens", "ratio"]
    assert made.rows[0][:3] == ["dense", "3", "33.33%"]
    assert made.rows[2][:3] == ["moe.1", "0", ""]


def test_what_was_not_counted_is_not_drawn() -> None:
    mask = torch.ones(3, 4, dtype=torch.bool)
    alone = Row(site("one", 0, 4), "activation", "positive", reference.count(mask, [3], co_activation=False))
    found = Measurement("m", [alone], {}, {}, {})
    assert [each.key for each in measurement_charts(found)] == ["profile", "ranks", "silent"]
    assert len(measurement_sentences(found)) == 2


@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_draws_every_chart_and_shows_a_hostile_name_as_text(
    browser: Any, found: Measurement, tmp_path: Path, width: int
) -> None:
    page = write_report(measurement_findings(found), tmp_path)
    visit = Visit(browser, page, viewport={"width": width, "height": 800})
    visit.page.mouse.wheel(0, 4000)
    visit.page.wait_for_timeout(200)
    assert visit.messages == []
    assert visit.requests == [page.as_uri()]
    assert len(visit.page.query_selector_all(".chart")) == 7
    for each in visit.page.query_selector_all(".chart"):
        assert each.query_selector_all(".scatterlayer .trace, .heatmaplayer image"), each.get_attribute("id")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert HOSTILE in visit.page.inner_text("h1")
    assert visit.page.query_selector_all("img") == []
    visit.page.close()


def test_static_heat_maps_and_their_tables(tmp_path: Path) -> None:
    heat = HeatMap("h", "t", "r", "x", "y", [0.0, 1.0], ["$a_", "b"], [[0.5, math.nan], [0.25, 1.0]])
    svg, png = save_charts([heat, Chart("c", "t", "r", "x", "y")][:1], tmp_path)
    assert "<svg" in svg.read_text()
    assert png.read_bytes().startswith(b"\x89PNG")
    assert heat.table() == (["y", "0", "1"], [["$a_", "50.0%", ""], ["b", "25.0%", "100.0%"]])


def test_the_report_is_drawn_again_by_a_command(
    found: Measurement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found.save(tmp_path / "m")
    monkeypatch.setattr(sys, "argv", ["actratio", "report", str(tmp_path / "m"), "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert said["settings"] == {"length": 8}
    assert [each["site"] for each in said["rows"]] == ["dense", "moe.0", "moe.1"]
    assert len(said["verdicts"]) == 4
    assert (tmp_path / "m" / "report.html").is_file()
