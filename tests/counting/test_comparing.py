"""Comparing two measurements: what belongs together, and what changed, by hand."""

from __future__ import annotations

import html
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from actratio import ActratioError, Measurement, measure
from actratio.report.compared import comparison_table
from tests.conftest import make_tiny_causal_lm as tiny
from tests.report.test_measured import HOSTILE, make_gated, make_row, make_site

IDS = {"input_ids": torch.arange(1, 19).view(2, 9)}


def made(model: str, *rows: Any, **settings: Any) -> Measurement:
    return Measurement(model, list(rows), {}, settings, {})


@pytest.fixture
def before() -> Measurement:
    return made(
        "before",
        make_row(make_site("l.0", 0, 4), [[1, 1, 0, 0], [1, 0, 0, 0]]),
        make_row(make_site("l.1", 1, 2), [[1, 1], [1, 1]]),
        text=["a.txt"],
    )


@pytest.fixture
def after() -> Measurement:
    return made(
        "after",
        make_row(make_site("l.0", 0, 4), [[1, 0, 0, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]),
        make_row(make_site("l.1", 1, 2), [[1, 1]]),
        text=["b.txt"],
    )


def test_comparison_by_hand(before: Measurement, after: Measurement) -> None:
    comparison = before.compare(after)
    first, second = comparison.to_frame().to_dict(orient="records")
    assert (first["site"], first["tokens_a"], first["tokens_b"]) == ("l.0", 2, 4)
    assert (first["ratio_a"], first["ratio_b"]) == (3 / 8, 5 / 16)
    assert first["change"] == 5 / 16 - 3 / 8
    assert (first["dead_a"], first["dead_b"], first["died"], first["revived"]) == (2, 2, 1, 1)
    assert first["frequency_change"] == (0 + 0.5 + 0 + 0.25) / 4
    assert (second["change"], second["died"], second["always_on_b"]) == (0, 0, 2)
    summary = comparison.summary()
    # A: 3 + 4 active of 8 + 4. B: 5 + 2 active of 16 + 2.
    assert "Active neurons (activation > 0): 58.3% in before, 38.9% in after (-19.4 percentage points)." in summary
    assert "The largest changes of activation > 0: layer 0 (-6.2 percentage points), layer 1 (+0.0" in summary
    assert (
        "2 of 6 neurons were never active in after, 2 of 6 in before; 1 were active in before only, and 1 in after only."
        in summary
    )
    assert "different settings (text), which may explain part" in summary
    assert "2 tokens are too few" in summary


def test_useful_ratios_are_compared_over_sites_for_which_both_are_known() -> None:
    a = Measurement(
        "a",
        [*make_gated("silu", [[1.0, 1.0]] * 2, 1).rows, *make_gated("silu", [[1.0, 1.0]] * 2, 4, 1).rows],
        {},
        {},
        {},
    )
    b = Measurement(
        "b",
        [*make_gated("relu", [[1.0, 0.0]] * 2, 3).rows, *make_gated("relu", [[1.0, 0.0]] * 2, None, 1).rows],
        {},
        {},
        {},
    )
    comparison = a.compare(b)
    assert comparison.to_frame()["useful_a"].tolist() == [0.25, 0.25, 1.0, 1.0]
    assert comparison.to_frame()["useful_b"].isna().tolist() == [False, False, True, True]
    useful, ratio = comparison.summary().splitlines()[:2]
    assert useful.startswith(
        "Useful ratio: 25.0% in a, 75.0% in b (+50.0 percentage points). This share of the neuron outputs"
    )
    assert ratio == "Active neurons (activation > 0): 100.0% in a, 50.0% in b (-50.0 percentage points)."
    assert "(hidden > 0)" not in comparison.summary()
    assert "Shares above zero of ReLU and SiLU say little about each other" in comparison.summary()
    table = comparison_table(comparison)
    assert [row[:5] for row in table.rows] == [
        ["layers.0", "25.00%", "75.00%", "100.00%", "50.00%"],
        ["layers.1", "100.00%", "", "100.00%", "50.00%"],
    ]
    profile = comparison.plot("profile").charts[0]
    assert profile.title == "Useful neuron outputs: 25% in a, 75% in b"
    assert [(series.name, series.style, [y.value for y in series.y]) for series in profile.series] == [
        ("a, useful ratio", "line", [0.25, 1.0]),
        ("b, useful ratio", "line", [0.75]),
        ("a, activation > 0", "dashed", [1.0, 1.0]),
        ("b, activation > 0", "dashed", [0.5, 0.5]),
    ]


def test_checkpoints_of_one_model_and_two_texts() -> None:
    model = tiny("llama")
    a, b = measure(model, [IDS]), measure(model, [{"input_ids": IDS["input_ids"][:1]}])
    comparison = a.compare(b)
    assert len(comparison.rows) == len(a.rows)
    assert not comparison.only_a
    assert comparison.names == ("A", "B")
    assert comparison.title == "LlamaForCausalLM: A and B compared"
    assert comparison.same_weights
    assert "Both have the same weights" in comparison.summary()
    same = a.compare(a).to_frame()
    assert (same["change"] == 0).all()
    assert (same[["died", "revived"]] == 0).all(axis=None)
    model.model.layers[0].mlp.down_proj.weight.data += 1
    assert not a.compare(measure(model, [IDS])).same_weights


def test_different_models_are_matched_by_layer_and_role() -> None:
    gpt2, llama = measure(tiny("gpt2"), [IDS]), measure(tiny("llama"), [IDS])
    comparison = gpt2.compare(llama)
    frame = comparison.to_frame()
    assert list(zip(frame["site"], frame["site_b"], frame["tensor"], strict=True)) == [
        (f"transformer.h.{layer}.mlp", f"model.layers.{layer}.mlp", "activation") for layer in range(2)
    ]
    assert frame[["width_a", "width_b"]].to_numpy().tolist() == [[128, 48]] * 2
    assert frame[["died", "revived", "frequency_change"]].isna().all(axis=None)
    assert "never active in" in comparison.summary()
    assert "A only" not in comparison.summary()


def test_experts_are_matched_by_number_and_the_rest_is_named(before: Measurement) -> None:
    experts = [make_row(make_site(f"a.{number}", 1, 2, number), [[1, 0]], passed=1) for number in range(3)]
    others = [make_row(make_site(f"b.{number}", 1, 2, number), [[1, 1]], passed=1) for number in (2, 0)]
    comparison = made("a", *before.rows[:1], *experts).compare(made("b", before.rows[0], *others))
    assert [(row.site_a.name, row.site_b.name) for row in comparison.rows] == [
        ("l.0", "l.0"), ("a.0", "b.0"), ("a.2", "b.2")
    ]  # fmt: skip
    assert comparison.only_a == ["a.1"]
    assert "Only in a: a.1." in comparison.summary()


def test_what_only_one_measurement_counted_is_named(before: Measurement, after: Measurement) -> None:
    more = made("b", *after.rows, *(replace(row, criterion="nonzero") for row in after.rows))
    comparison = before.compare(more)
    assert comparison.only_counted == ("", "activation nonzero")
    assert "Counted only in b, so not compared: activation nonzero." in comparison.summary()
    assert more.compare(before).only_counted == ("activation nonzero", "")
    assert "not compared" not in before.compare(after).summary()


def test_what_cannot_be_compared_is_refused(before: Measurement) -> None:
    other = made("o", *(replace(row, criterion="nonzero") for row in before.rows))
    with pytest.raises(ActratioError, match="before was measured by activation positive and o by activation nonzero"):
        before.compare(other)
    with pytest.raises(ActratioError, match="no site of before has the layer and role of a site of o"):
        before.compare(made("o", make_row(make_site("x", 7, 2), [[1, 1]])))


def test_comparison_shows_itself(before: Measurement, after: Measurement, tmp_path: Path) -> None:
    comparison = replace(before, model=HOSTILE).compare(after)
    shown = repr(comparison)
    assert shown.startswith(f"<Comparison: 2 rows>\n{HOSTILE} (A) and after (B) compared, activation, positive\n")
    assert "37.50%" in shown
    assert "-6.25" in shown
    page = comparison._repr_html_()
    assert HOSTILE not in page
    assert html.escape(HOSTILE) in page
    figures = comparison.plot()
    assert figures.names == ["profile", "change", "dead"]
    assert [point.value for point in figures.charts[1].series[0].y] == [5 / 16 - 3 / 8, 0]
    assert comparison.report(tmp_path / "r") == tmp_path / "r" / "report.html"
    assert pd.read_csv(tmp_path / "r" / "comparison.csv")["change"].tolist() == [5 / 16 - 3 / 8, 0]
    assert (tmp_path / "r" / "figures" / "change.svg").is_file()


def test_a_mixture_with_several_tensors_is_drawn(tmp_path: Path) -> None:
    measured = measure(tiny("mixtral"), [IDS], criteria=["positive", "nonzero"])
    comparison = measured.compare(measured)
    assert "useful" not in repr(comparison)  # it isn't known for experts
    assert len(comparison.plot().save(tmp_path)) == 6
    assert json.loads(comparison.to_frame().to_json(orient="records"))[0]["change"] == 0
    assert "tensor" in repr(comparison)


def test_plain_modules_are_compared() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    batches = [torch.randn(16, 4, generator=torch.Generator().manual_seed(0))]
    a = measure(model, batches)
    model[0].bias.data -= 100
    change = a.compare(measure(model, batches))
    frame = change.to_frame()
    assert frame["dead_b"].item() == 8
    assert frame["died"].item() == 8 - frame["dead_a"].item()
