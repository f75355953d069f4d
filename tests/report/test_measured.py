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
from actratio.report.conclusions import measurement_sentences
from actratio.report.measured import measurement_findings
from actratio.report.measured_charts import measurement_charts
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
    useful, ratio, skip, silent, experts = measurement_sentences(measurement)
    assert useful == "Useful ratio: unknown, because it isn't counted for experts."
    # 4 + 3 active of 12 + 4 counted.
    assert ratio == (
        "Sign ratio: 43.8% of the activations are above zero (ReLU), from 33.3% in layer 0 to 75.0% in layer 1. "
        "The others are exactly zero, so their neurons add nothing to the output."
    )
    # One token uses 4 of 12 neurons of the MLP, and 3 of 4 of the expert: (1/3 × 4 + 3/4 × 2) / 6 of them.
    assert skip == "Skipping: a kernel could skip 52.8% of the neurons for one token."
    assert silent.startswith(
        "Dead: 2 of 6 neurons were never active (activation > 0) on 2 tokens. Always on (active on at least 99% of the tokens): 2. "
    )
    assert "2 tokens at the site with the fewest are too few to tell: such a neuron may behave differently" in silent
    assert "on up to 77.6% of other tokens. Measure a longer text, with at least 299 tokens" in silent  # 1 − 0.05^(1/2)
    # 3 active of 2 experts × 2 neurons × 3 tokens.
    assert "25.00% of the neurons of all experts of a layer are active for a token" in experts
    assert "1 of 2 experts received no token" in experts


def make_gated(function: str, values: list[list[float]], useful: int | None, layer: int = 0) -> Measurement:
    """A measurement of a gated MLP with these activations, half of which are made negative by the up projection."""
    site = replace(make_site(f"layers.{layer}", layer, len(values[0])), function=function, gated=True)
    a = torch.tensor(values)
    rows, magnitudes = [], {}
    for tensor, x in (("activation", a), ("hidden", a * torch.tensor([1.0, -1.0] * (a.shape[1] // 2)))):
        counts = replace(reference.count(x > 0, [len(a)]), useful=useful, useful_tokens=len(a))
        rows.append(Row(site, tensor, "positive", counts))
        magnitudes[site.name, tensor] = Magnitudes.of(x)
    return Measurement("m", rows, magnitudes, {}, {})


def test_sentences_of_a_function_that_is_almost_never_zero() -> None:
    useful, ratio, skip, _ = measurement_sentences(make_gated("silu", [[1.0, -0.1, -0.2, -0.3]] * 300, 900))
    assert useful == (
        "Useful ratio: 75.0% of the neuron outputs are enough to give each MLP's output with a mean error of at most 20% (300 tokens). "
        "You can compare this share between ReLU, GELU and SiLU."
    )
    assert ratio == (
        "Sign ratio: 25.0% of the activations are above zero (SiLU, gated). Outputs below zero are small, not zero; 0.0% are exact zeros. "
        "So the sign doesn't tell you how much work is wasted."
    )
    assert skip.startswith(
        "Skipping: no neuron can be skipped exactly. Skipping needs thresholds, which could drop 25.0% of the outputs"
    )


def test_sentences_of_a_function_some_of_whose_outputs_are_zeros() -> None:
    """Such as a top-k before GELU, or ReLU in some of the MLPs."""
    _, ratio, skip, _ = measurement_sentences(make_gated("gelu", [[1.0, -0.1, 0.0, 0.0]] * 300, 900))
    assert ratio.endswith("(GELU, gated). 50.0% are exact zeros; the others below zero are small, not zero.")
    assert (
        skip
        == "Skipping: 50.0% of the activations are exact zeros, which a kernel could skip; the others need thresholds."
    )


def test_the_profile_has_the_useful_ratio_and_the_sign_and_its_title_says_both() -> None:
    parts = [make_gated("silu", [[1.0, -0.1, -0.2, 0.0]] * 2, useful, layer) for layer, useful in enumerate((6, 2))]
    profile = find_chart(replace(parts[0], rows=[*parts[0].rows, *parts[1].rows]), "profile")
    assert profile.title == "50% of the neuron outputs are useful, 25% of the SiLU outputs are above zero"
    assert [series.name for series in profile.series] == ["useful ratio", "activation > 0 (SiLU)"]
    assert [[y.value for y in series.y] for series in profile.series] == [[0.75, 0.25], [0.25, 0.25]]


def test_sentences_of_relu_tell_what_several_tokens_together_skip() -> None:
    values = [[1.0, 0.0, 0.0, 0.0] if token % 8 else [0.0, 0.0, 1.0, 0.0] for token in range(64)]
    useful, ratio, skip, _ = measurement_sentences(make_gated("relu", values, 64))
    assert useful.startswith("Useful ratio: 25.0% of the neuron outputs")
    assert ratio.endswith("(ReLU, gated). The others are exactly zero, so their neurons add nothing to the output.")
    assert skip == (
        "Skipping: a kernel could skip 75.0% of the neurons for one token, 50.0% for 8 successive tokens together, "
        "50.0% for 64 successive tokens together."
    )


def test_without_magnitudes_the_name_of_the_function_tells_whether_it_has_zeros() -> None:
    measured = [replace(make_gated(name, [[1.0, 0.0]], None), magnitudes={}) for name in ("relu", "gelutanh")]
    assert measurement_sentences(measured[0])[0].endswith("so their neurons add nothing to the output.")
    assert measurement_sentences(measured[1])[0].endswith("Outputs of GELU below zero are small, not zero.")


def test_the_sign_of_the_hidden_product_is_in_the_full_table_only() -> None:
    measurement = make_gated("silu", [[1.0, -0.1, -0.2, 0.0]], 3)
    (short,), (full,) = measurement_tables(measurement), measurement_tables(measurement, full=True)
    assert short.title == "Activation ratios of m, activation, positive, 1 token"
    assert short.header[:3] == ["site", "useful", "ratio"]
    assert short.rows[0][:3] == ["layers.0", "75.00%", "25.00%"]
    assert full.header[:4] == ["site", "useful", "activation ratio", "hidden ratio"]
    assert full.rows[0][:4] == ["layers.0", "75.00%", "25.00%", "50.00%"]
    hidden = replace(measurement, rows=measurement.rows[1:])
    assert measurement_tables(hidden)[0].header[2] == "ratio"  # shown if nothing else was measured


def test_measurement_charts_by_hand(measurement: Measurement) -> None:
    profile = find_chart(measurement, "profile")
    assert [(series.name, series.x) for series in profile.series] == [
        ("activation > 0 (ReLU)", [0.0, 1.0]),
    ]
    assert [y.value for y in profile.series[0].y] == pytest.approx([1 / 3, 3 / 4])
    assert profile.title == "44% of the ReLU outputs are above zero"
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
    assert table.header[:4] == ["site", "useful", "ratio", "tokens"]
    assert [row[1:4] for row in table.rows] == [["", "33.33%", "3"], ["", "75.00%", "2"], ["", "", "0"]]


def test_measurement_tables_put_tensors_side_by_side_and_criteria_below_each_other() -> None:
    site = make_site("one", 0, 4)
    rows = [
        replace(make_row(site, [mask]), tensor=tensor, criterion=criterion)
        for tensor, mask in (("activation", [1, 1, 0, 0]), ("hidden", [1, 0, 0, 0]))
        for criterion in ("positive", "nonzero")
    ]
    positive, nonzero = measurement_tables(Measurement("m", rows, {}, {}, {}))
    assert positive.title == "Activation ratios of m, activation, positive, 1 token"
    assert nonzero.title == "Activation ratios of m, nonzero, 1 token"
    assert nonzero.header[:5] == ["site", "activation ratio", "hidden ratio", "activation dead", "hidden dead"]
    assert nonzero.rows[0][:5] == ["one", "50.00%", "25.00%", "2", "3"]


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
    assert [sentence.partition(":")[0] for sentence in measurement_sentences(measurement)] == ["Sign ratio", "Dead"]


@pytest.mark.parametrize("width", [pytest.param(1200, marks=pytest.mark.slow), 390])
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
