"""Fitted laws as a table and as sentences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from actratio import Laws, fit
from actratio.laws.law import LAWS
from actratio.laws.observations import DatasetLaws
from actratio.report.laws import law_sentences, laws_table
from actratio.statistics.estimate import Estimate

WIDTHS = np.array([32.0, 64, 128, 256, 512, 1024])


@pytest.fixture(scope="module")
def laws() -> Laws:
    return fit(WIDTHS, 0.5 * WIDTHS)


def test_laws_table_of_one_dataset_has_one_row_per_law(laws: Laws) -> None:
    table = laws_table([DatasetLaws("digits", laws, {}, "")])
    assert table.title == "Scaling laws of active neurons A against layer width N: digits"
    assert table.header == ["law", "α", "A at 128", "AICc", "left-out width", "F", "K", "left-out network"]
    assert [row[0].removesuffix(" *") for row in table.rows] == [law.formula for law in LAWS.values()]
    assert [row[0] for row in table.rows if row[0].endswith("*")] == ["F·N^α *"]
    cells = {row[0].removesuffix(" *"): dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert (cells["F·N^α"]["F"], cells["F·N^α"]["α"], cells["F·N^α"]["K"]) == ("0.5 (0.5 … 0.5)", "1 (1 … 1)", "")
    assert cells["F·N^α"]["A at 128"] == "64 (64 … 64)"
    assert cells["F·N/(N+K)"]["F"] == cells["F·N/(N+K)"]["K"] == "not determined"
    assert all(len(row) == len(table.header) for row in table.rows)
    assert "layer number" not in table.reading


def test_laws_table_names_datasets_and_layers_if_there_are_several(laws: Laws) -> None:
    table = laws_table([DatasetLaws("a", laws, {0: laws}, ""), DatasetLaws("b", laws, {}, "")])
    assert table.header[:4] == ["dataset", "layer", "law", "α"]
    assert [row[:2] for row in table.rows] == [["a", "all"]] * len(LAWS) + [["a", "0"]] * 2 + [["b", "all"]] * len(LAWS)
    assert "layer number" in table.reading


def test_laws_table_marks_all_laws_that_are_not_ranked() -> None:
    widths = np.tile(WIDTHS, 4)
    laws = fit(widths, 15 * np.log1p(widths / 15) * np.exp(np.random.default_rng(0).normal(0, 0.1, 24)))
    assert len(laws.best) > 1
    marked = [row[0] for row in laws_table([DatasetLaws("a", laws, {}, "")]).rows if row[0].endswith("*")]
    assert marked == [f"{law_fit.law.formula} *" for law_fit in laws.best]
    assert law_sentences(DatasetLaws("a", laws, {}, ""))[-1].startswith("a: not ranked, because they are within 2 AICc")


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (Estimate(0.8, 0.7, 0.9), "a: at equal width, depth changes the number of active neurons: "),
        (Estimate(0.9, 0.7, 1.1), "a: at equal width, depth does not clearly change the number of active neurons: "),
    ],
)
def test_law_sentences_about_depth(laws: Laws, factor: Estimate, text: str) -> None:
    exponent = replace(laws.exponent, equal_depth=True, layers={0: Estimate(1.0, 1.0, 1.0), 1: factor})
    verdict, depth = law_sentences(DatasetLaws("a", replace(laws, exponent=exponent), {}, "the output layer"))
    assert verdict.startswith("a: √N does not hold")
    assert verdict.endswith("Seeds are not in the interval: there is one. Not fitted: the output layer.")
    assert depth == f"{text}as a multiple of layer 0 it is {factor.format('{:.2f}')} in layer 1."


def test_law_sentences_without_depth_are_the_verdict() -> None:
    laws = fit(np.tile(WIDTHS, 2), 0.5 * np.tile(WIDTHS, 2), seeds=[0] * 6 + [1] * 6)
    assert law_sentences(DatasetLaws("a", laws, {}, "")) == [f"a: {laws.reason}"]
