"""CSV files: no cell is a formula of a spreadsheet, numbers stay numbers, and our readers give back what was written."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actratio.files import write_csv
from actratio.laws.observations import read_observations
from actratio.report.chart import Chart, Series
from actratio.report.findings import Findings
from actratio.report.page import write_page
from actratio.spreadsheets import as_text, from_text
from actratio.statistics.estimate import Estimate
from actratio.studies.transformer.profiles import read_gpt
from tests.browser import Visit

from .names import FORMULAS, HTML

STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # fmt: skip


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_text(text: str) -> None:
    assert as_text(text) == f"'{text}"
    assert from_text(as_text(text)) == text


@pytest.mark.parametrize(
    "value", ["-1", "+1.5", "-1e-3", "-.5", "-inf", "1", -1, -1.5, math.inf, None, True, "a=1", "'a"]
)
def test_numbers_and_other_text_do_not_change(value: Any) -> None:
    assert as_text(value) is value
    assert from_text(value) is value


@given(st.text(alphabet="'=+-@\t\r\n\uff1d1.e ainf,\""))
@example("'-1")
def test_every_text_comes_back_and_none_is_a_formula(text: str) -> None:
    written = as_text(text)
    assert from_text(written) == text
    assert not written.startswith(STARTS) or is_number(written)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_reader_of_tables_gives_back_the_names(name: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    frame = pd.DataFrame({"dataset": [name, "b"], "width": [16, 64], "active_mean": [4.5, 8.0], name: ["-1", name]})
    write_csv(path, frame)
    with path.open(newline="", encoding="utf-8") as file:
        header, first, second = csv.reader(file)
    assert header == ["dataset", "width", "active_mean", f"'{name}"]
    assert first == [f"'{name}", "16", "4.5", "-1"]
    assert second[3] == f"'{name}"
    read = read_observations(path)
    assert read["dataset"].tolist() == [name, "b"]
    assert read["active_mean"].tolist() == [4.5, 8.0]
    assert read[name].tolist() == ["-1", name]


def test_the_reader_of_published_profiles_gives_back_the_names(tmp_path: Path) -> None:
    path = tmp_path / "gpt.csv"
    write_csv(
        path, pd.DataFrame({"model": ["=1+1"] * 2, "layer": [0, 1], "input": [0, 0], "activation_ratio": [0.04, 0.14]})
    )
    assert "'=1+1" in path.read_text()
    assert set(read_gpt(path)["model"]) == {"=1+1"}


def test_downloads_of_the_page_have_no_formula(browser: Any, tmp_path: Path) -> None:
    names = [*FORMULAS, *HTML]
    series = [Series(name, [1.0], [Estimate(-0.5)]) for name in names]
    frame = pd.DataFrame({"site": names, "=1": range(len(names))})
    page = write_page(
        Findings("t", "l", charts=[Chart("one", "t", "r", "x", "y", series)], frame=frame), tmp_path / "p.html"
    )
    visit = Visit(browser, page)
    for selector, column in (("#data", "site"), ("a.numbers[data-chart=one]", "series")):
        with visit.page.expect_download() as download:
            visit.page.click(selector)
        with Path(download.value.path()).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [from_text(row[column]) for row in rows] == names
        assert not any(cell.startswith(STARTS) and not is_number(cell) for row in rows for cell in row.values())
        assert not any(key.startswith(STARTS) for row in rows for key in row)
    visit.page.close()
