"""The command ``fit``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from actratio.laws.observations import at_epoch
from actratio.report.laws import epochs_sentence
from tests.cli.conftest import Actratio
from tests.conftest import ROOT

SMALL = ["--architectures", "16-10,24-8-10", "--seeds", "2", "--epochs", "2"]


def test_fit_reads_any_table_of_widths(tmp_path: Path, actratio: Actratio) -> None:
    pd.DataFrame({"width": [64, 256, 1024], "active_mean": [24.0, 48.0, 96.0]}).to_csv(tmp_path / "t.csv", index=False)
    done = actratio("fit", "t.csv", cwd=tmp_path)
    assert "F·√N" in done.stdout
    content = json.loads(actratio("fit", "t.csv", "--json", cwd=tmp_path).stdout)
    assert content["laws"][0]["laws"][0]["parameters"]["F"]["value"] == pytest.approx(3.0)
    assert len(content["rows"]) == 3
    (verdict,) = content["verdicts"]
    assert {"claim", "verdict", "figure", "estimate", "interval", "bounds", "rule", "confirmatory"} <= set(verdict)
    assert verdict["claim"] == "table: A grows as √N"
    assert content["sentences"][0].startswith("table: √N")


def test_what_fit_prints_is_as_before(tmp_path: Path, actratio: Actratio) -> None:
    """The whole of it, against a file; to change it on purpose, write the new output there."""
    widths, active = [32, 64, 128, 256, 512, 1024], [20.0, 24.0, 36.0, 47.0, 70.0, 95.0]
    pd.DataFrame({"width": widths, "active_mean": active}).to_csv(tmp_path / "t.csv", index=False)
    printed = actratio("fit", "t.csv", cwd=tmp_path).stdout
    assert printed == (ROOT / "tests" / "golden" / "fit.txt").read_text(encoding="utf-8")


def test_fit_of_the_article_s_csv_says_whether_the_root_law_holds(
    tmp_path: Path, published: Path, actratio: Actratio
) -> None:
    done = actratio("fit", str(published), cwd=tmp_path)
    assert "mnist: √N" in done.stdout
    assert "fashion_mnist: √N" in done.stdout
    assert "the output layer (logits)" in done.stdout


def test_which_epochs_were_fitted_is_said(
    tmp_path: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    def said(epochs: list[int], *options: str) -> str:
        rows = [(f"a{width}", width, width**0.5 * epoch, epoch) for width in (16, 64, 256) for epoch in epochs]
        columns = ["architecture", "width", "active_mean", "epoch"]
        pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "t.csv", index=False)
        assert run_command("fit", tmp_path / "t.csv", *options) == 0
        return " ".join(capsys.readouterr().out.split())

    assert "Of the table's 3 epochs, epoch 3 was fitted; --epoch chooses another one." in said([1, 2, 3])
    assert "Of the table's 3 epochs, epoch 2 was fitted;" in said([1, 2, 3], "--epoch", "2")
    assert "epochs" not in said([1])
    table = pd.DataFrame({"architecture": ["a", "a", "b"], "epoch": [1, 3, 2]})
    assert epochs_sentence(table, at_epoch(table, "train", None)) == (
        "Of the table's 3 epochs, the last epoch of each network was fitted; --epoch chooses another one."
    )
    uneven = pd.DataFrame({"architecture": ["a", "a", "b"], "epoch": [1, 2, 1]})
    assert "Of the table's 2 epochs, the last epoch of each network" in str(
        epochs_sentence(uneven, at_epoch(uneven, "train", None))
    )
    begun = pd.DataFrame({"architecture": ["a", "a"], "epoch": [0, 1], "split": ["val", "train"]})
    assert epochs_sentence(begun, at_epoch(begun, "train", None)) is None
    same_end = pd.DataFrame({"architecture": ["a", "b"], "epoch": [1, 3]})
    assert epochs_sentence(same_end, at_epoch(same_end, "train", None)) is None


def test_json_of_a_table_with_dates_and_infinities(tmp_path: Path, actratio: Actratio) -> None:
    frame = pd.DataFrame(
        {"width": [64, 128], "active_mean": [6.0, 9.0], "day": pd.Timestamp("2024-01-01"), "other": [np.inf, 1.0]}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    rows = json.loads(actratio("fit", "t.parquet", "--json", cwd=tmp_path).stdout)["rows"]
    assert rows[0]["other"] is None
    assert rows[0]["day"].startswith("2024-01-01")


def test_fit_refuses_a_quick_run(
    tmp_path: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("study", "mlp", *SMALL, "--quick", "--out", tmp_path / "run") == 0
    assert run_command("fit", tmp_path / "run") == 2
    assert "quick run" in " ".join(capsys.readouterr().err.split())
