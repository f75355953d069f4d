"""The findings of a measurement: numbers computed by hand, and the page in a headless browser."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from actratio import Measurement, load
from actratio.counting.kernels import reference
from actratio.counting.magnitudes import Magnitudes
from actratio.counting.measurement import Row
from actratio.report.chart import HeatMap
from actratio.report.measured import measurement_charts, measurement_findings, measurement_sentences
from actratio.report.measured_tables import measurement_tables
from actratio.report.page import write_report
from actratio.report.static import save_charts
from actratio.sites import Site
from tests.browser import Visit

HOSTILE = "<img src=x onerror=alert(1)>$^{_</script>"


def make_site(name: str, layer: int, width: int, expert: int | None = None) -> Site:
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


def make_row(site: Site, active: list[list[int]], passed: int | None = None, first: Tensor | None = None) -> Row:
    mask = torch.tensor(active, dtype=torch.bool).view(-1, site.width)
    return Row(site, "activation", "positive", replace(reference.count(mask, [len(mask)], first), passed=passed))


@pytest.fixture
def measurement() -> Measurement:
    """A measurement of two layers: an MLP of four neurons, and two experts of two neurons, one of them without tokens."""
    first = torch.tensor([True, False, False])
    rows = [
        make_row(make_site("dense", 0, 4), [[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]], first=first),
        make_row(make_site("moe.0", 1, 2, 0), [[1, 0], [1, 1]], passed=3),
        make_row(make_site("moe.1", 1, 2, 1), [], passed=3),
    ]
    magnitudes = {("dense", "activation"): Magnitudes.of(torch.tensor([0.0, 0.5, 1.0, 2.0]))}
    return Measurement(HOSTILE, rows, magnitudes, {"length": 8}, {"torch": torch.__version__})


def find_chart(measurement: Measurement, key: str) -> Any:
    return next(chart for chart in measurement_charts(measurement) if chart.key == key)


def test_measurement_sentences_by_hand(measurement: Measurement) -> None:
    ratio, silent, few, blocks, experts = measurement_sentences(measurement)
    # 4 + 3 active of 12 + 4 counted.
    assert ratio.startswith(
        "43.8% of the neurons are active (activation > 0), from 33.3% in layer 0 to 75.0% in layer 1"
    )
    assert silent.startswith("2 of 6 neurons were never active")
    assert "(2 tokens were counted)" in silent
    assert "2 neurons were active on at least 99% of the tokens" in silent  # neuron 0 of both
    assert few.startswith("2 tokens at the site with the fewest are too few to call a neuron dead or always on")
    assert "on 77.6% of other tokens. Count at least 299 tokens" in few  # 1 − 0.05^(1/2)
    assert blocks.startswith("0.0% of the blocks of 16")
    # 3 active of 2 experts × 2 neurons × 3 tokens.
    assert "25.00% of the neurons of all experts of a layer are active for a token" in experts
    assert "1 of 2 experts received no token" in experts


def test_measurement_charts_by_hand(measurement: Measurement) -> None:
    profile = find_chart(measurement, "profile")
    assert [(series.name, series.x) for series in profile.series] == [
        ("activation positive", [0.0, 1.0]),
        ("activation positive, first token", [0.0]),
    ]
    assert [y.value for y in profile.series[0].y] == pytest.approx([1 / 3, 3 / 4])
    assert profile.series[1].y[0].value == 0.5
    ranks = find_chart(measurement, "ranks")
    assert ranks.y == ["dense"]  # experts have their own map
    assert ranks.z[0][0] == 1.0
    assert ranks.z[0][-1] == 0.0
    thresholds = find_chart(measurement, "thresholds").series[0]
    assert dict(zip(thresholds.x, (y.value for y in thresholds.y), strict=True))[1.0] == 0.5
    unions = {series.name: series for series in find_chart(measurement, "unions").series}
    assert unions["dense"].x == [1, 2]
    assert [y.value for y in unions["dense"].y] == pytest.approx([1 / 3, 2 / 4])
    assert unions["dense, if independent"].y[1].value == pytest.approx((1 + 1 - (2 / 3) ** 2) / 4)
    silent = find_chart(measurement, "silent")
    assert [y.value for y in silent.series[0].y] == [0.5, 0.0]
    assert [y.value for y in silent.series[1].y] == [0.25, 0.5]
    assert find_chart(measurement, "experts").z[0][0] == 0.75
    assert math.isnan(find_chart(measurement, "experts").z[0][1])
    assert find_chart(measurement, "routing").z == [[pytest.approx(2 / 3), 0.0]]


def test_routed_share_after_merge_and_save(measurement: Measurement, tmp_path: Path) -> None:
    merged = measurement | measurement
    assert merged.to_frame()["routed_share"].tolist()[1:] == [pytest.approx(2 / 3), 0.0]
    assert [row.counts.passed for row in merged] == [None, 6, 6]
    merged.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert [row.counts.passed for row in loaded] == [None, 6, 6]
    assert loaded.settings == {"length": 8}
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "m" / "sites.parquet"), loaded.to_frame())


def test_measurement_table_by_hand(measurement: Measurement) -> None:
    (table,) = measurement_tables(measurement)
    assert table.title == f"Activation ratios of {HOSTILE}, activation, positive, 3 tokens"
    assert table.header == ["site", "ratio", "dead", "always on", "first token", "rest", "± over tokens", "overlap"]
    # ± over tokens: the ratios of the tokens are 1/2, 1/4 and 1/4. Overlap: 1/2 and 1/1 of the active neurons.
    assert table.rows[0] == ["dense", "33.33%", "2", "1", "50.00%", "25.00%", "11.79%", "0.67"]
    # Both experts: 3 active of 2 tokens × 2 neurons; the neurons of the expert without tokens are not called dead.
    assert table.rows[1] == ["moe", "75.00%", "0", "1", "", "", "", ""]


def test_full_measurement_table_has_each_expert_and_every_reading(measurement: Measurement) -> None:
    (table,) = measurement_tables(measurement, full=True)
    assert table.title == f"Activation ratios of {HOSTILE}, activation, positive"
    assert table.header[:3] == ["site", "ratio", "tokens"]
    assert [row[:3] for row in table.rows] == [["dense", "33.33%", "3"], ["moe.0", "75.00%", "2"], ["moe.1", "", "0"]]


def test_measurement_tables_put_tensors_side_by_side_and_criteria_below_each_other() -> None:
    site = make_site("one", 0, 4)
    rows = [
        replace(make_row(site, [mask]), tensor=tensor, criterion=criterion)
        for tensor, mask in (("activation", [1, 1, 0, 0]), ("hidden", [1, 0, 0, 0]))
        for criterion in ("positive", "nonzero")
    ]
    tables = measurement_tables(Measurement("m", rows, {}, {}, {}))
    assert [table.title for table in tables] == [
        f"Activation ratios of m, {criterion}, 1 token" for criterion in ("positive", "nonzero")
    ]
    assert tables[0].header[:5] == ["site", "activation ratio", "hidden ratio", "activation dead", "hidden dead"]
    assert tables[0].rows[0][:5] == ["one", "50.00%", "25.00%", "2", "3"]


def test_pooled_ratios_of_experts_leave_out_first_tokens() -> None:
    first = torch.tensor([True, False])
    rows = [make_row(make_site(f"moe.{n}", 0, 2, n), [[1, 1], [n, 0]], passed=2, first=first) for n in range(2)]
    (table,) = measurement_tables(Measurement("m", rows, {}, {}, {}))
    cells = dict(zip(table.header, table.rows[0], strict=True))
    assert cells["first token"] == "100.00%"
    assert cells["rest"] == "25.00%"


def test_measurement_charts_without_co_activation() -> None:
    mask = torch.ones(3, 4, dtype=torch.bool)
    row = Row(make_site("one", 0, 4), "activation", "positive", reference.count(mask, [3], co_activation=False))
    measurement = Measurement("m", [row], {}, {}, {})
    assert [chart.key for chart in measurement_charts(measurement)] == ["profile", "ranks", "silent"]
    assert len(measurement_sentences(measurement)) == 3


@pytest.mark.parametrize("width", [1200, 390])
def test_measurement_page_draws_every_chart_and_escapes_names(
    browser: Any, measurement: Measurement, tmp_path: Path, width: int
) -> None:
    page = write_report(measurement_findings(measurement), tmp_path)
    visit = Visit(browser, page, viewport={"width": width, "height": 800})
    visit.page.mouse.wheel(0, 4000)
    visit.page.wait_for_timeout(200)
    assert visit.messages == []
    assert visit.requests == [page.as_uri()]
    assert len(visit.page.query_selector_all(".chart")) == 7
    for chart in visit.page.query_selector_all(".chart"):
        assert chart.query_selector_all(".scatterlayer .trace, .heatmaplayer image"), chart.get_attribute("id")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert HOSTILE in visit.page.inner_text("h1")
    assert visit.page.query_selector_all("img") == []
    visit.page.close()


def test_heat_map_files_and_table(tmp_path: Path) -> None:
    heat_map = HeatMap("h", "t", "r", "x", "y", [0.0, 1.0], ["$a_", "b"], [[0.5, math.nan], [0.25, 1.0]])
    svg, png = save_charts([heat_map], tmp_path)
    assert "<svg" in svg.read_text()
    assert png.read_bytes().startswith(b"\x89PNG")
    assert heat_map.table() == (["y", "0", "1"], [["$a_", "50.0%", ""], ["b", "25.0%", "100.0%"]])


def test_report_command_redraws_a_measurement(
    measurement: Measurement, tmp_path: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    measurement.save(tmp_path / "m")
    assert run_command("report", tmp_path / "m", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["settings"] == {"length": 8}
    assert [row["site"] for row in printed["rows"]] == ["dense", "moe.0", "moe.1"]
    assert len(printed["verdicts"]) == 5
    assert (tmp_path / "m" / "report.html").is_file()
