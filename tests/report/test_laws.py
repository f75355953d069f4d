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
    return fit(WIDTHS, 0.5 * WIDTHS, resamples=0)


def test_laws_table_of_one_dataset_has_one_row_per_law(laws: Laws) -> None:
    table = laws_table([DatasetLaws("digits", laws, {}, "")])
    assert table.title == "Scaling laws of active neurons A against layer width N: digits"
    assert table.header == ["law", "F", "α or K", "AICc", "left-out error"]
    assert [row[0].removesuffix(" *") for row in table.rows] == [law.formula for law in LAWS.values()]
    assert [row[0] for row in table.rows if row[0].endswith("*")] == ["F·N^α *"]
    assert table.rows[1][1:3] == ["0.5", "1"]
    assert table.rows[2][1:3] == ["not determined", "not determined"]
    assert all(len(row) == len(table.header) for row in table.rows)
    assert "layer number" not in table.reading


def test_laws_table_names_datasets_and_layers_if_there_are_several(laws: Laws) -> None:
    table = laws_table([DatasetLaws("a", laws, {0: laws}, ""), DatasetLaws("b", laws, {}, "")])
    assert table.header == ["dataset", "layer", "law", "F", "α or K", "AICc", "left-out error"]
    assert [row[:2] for row in table.rows] == [["a", "all"]] * len(LAWS) + [["a", "0"]] * 2 + [["b", "all"]] * len(LAWS)
    assert "layer number" in table.reading


@pytest.mark.parametrize(
    ("depth", "text"),
    [
        (Estimate(0.8, 0.7, 0.9), "a: deeper layers have fewer active neurons: at equal width, each additional layer"),
        (Estimate(1.2, 1.1, 1.3), "a: deeper layers have more active neurons: at equal width, each additional layer"),
        (Estimate(0.9, 0.7, 1.1), "a: whether deeper layers have fewer active neurons is not settled:"),
    ],
)
def test_law_sentences_about_depth(laws: Laws, depth: Estimate, text: str) -> None:
    fitted = DatasetLaws(
        "a", replace(laws, depth=depth, alpha_at_depth=Estimate(0.5, 0.4, 0.6)), {}, "the output layer"
    )
    verdict, depth_sentence, alpha_sentence = law_sentences(fitted)
    assert verdict.startswith("a: √N")
    assert verdict.endswith("Not fitted: the output layer.")
    assert depth_sentence.startswith(text)
    assert depth.format("{:.2f}") in depth_sentence
    assert alpha_sentence == "a: at equal depth, α is 0.500 (0.400 … 0.600)."


def test_law_sentences_without_depth_are_the_verdict(laws: Laws) -> None:
    assert law_sentences(DatasetLaws("a", laws, {}, "")) == [f"a: {laws.verdict}"]
