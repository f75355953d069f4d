"""`actratio compare` and `actratio merge` on measurements of plain models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from actratio import load, measure

Run = Callable[..., int]
X = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Save three measurements: of two halves of a text, and of a later checkpoint."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    measure(model, [X[:200]], settings={"text": "a"}).save(tmp_path / "a")
    measure(model, [X[200:]], settings={"text": "b"}).save(tmp_path / "b")
    measure(model, [X]).save(tmp_path / "whole")
    model[0].bias.data -= 100
    measure(model, [X], settings={"text": "a"}).save(tmp_path / "later")
    return [tmp_path / name for name in ("a", "b", "later")]


def test_compare_prints_what_changed(runs: list[Path], run_command: Run, capsys: pytest.CaptureFixture[str]) -> None:
    a, _, later = runs
    assert run_command("compare", a, later) == 0
    printed = capsys.readouterr().out
    assert "percentage points" in printed
    assert "change" in printed
    assert run_command("compare", a, later, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    expected = load(a).compare(load(later))
    assert [row["change"] for row in content["rows"]] == expected.to_frame()["change"].tolist()
    assert content["rows"][0]["dead_b"] == 8
    assert content["rows"][0]["died"] == 8 - content["rows"][0]["dead_a"]
    assert content["verdicts"] == expected.summary().splitlines()
    assert content["path"] is None


def test_compare_writes_a_page_and_no_result_is_replaced(
    runs: list[Path], tmp_path: Path, run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, later = runs
    command = ["compare", a, later, "--out", tmp_path / "out"]
    assert run_command(*command) == 0
    assert "report.html" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "out" / "comparison.csv")) == 2
    assert run_command(*command) == 2
    assert "holds an earlier result" in capsys.readouterr().err
    assert run_command(*command, "--force") == 0
    assert run_command("compare", a, later, "--out", b, "--force") == 2
    assert "holds something else" in capsys.readouterr().err
    assert run_command("compare", a, tmp_path / "nowhere") == 2
    assert "holds no measurement" in capsys.readouterr().err


def test_merged_halves_equal_the_whole(
    runs: list[Path], tmp_path: Path, run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, later = runs
    command = ["merge", a, b, "--out", tmp_path / "both"]
    assert run_command(*command, "--json") == 0
    assert json.loads(capsys.readouterr().out)["settings"]["merged"] == [{"text": "a"}, {"text": "b"}]
    merged, whole = load(tmp_path / "both"), load(tmp_path / "whole")
    for mine, theirs in zip(merged, whole, strict=True):
        assert mine.counts.tokens == theirs.counts.tokens == 400
        assert torch.equal(mine.counts.active, theirs.counts.active)
    assert (tmp_path / "both" / "report.html").is_file()
    assert run_command(*command) == 2
    assert "replace it with --force" in capsys.readouterr().err
    assert run_command(*command, "--force") == 0
    capsys.readouterr()
    for arguments, words in (
        ([a], "name at least two measurements"),
        ([a, b, a], "is given twice, so its text would count twice"),
        ([a, later], "with different weights do not merge"),
    ):
        assert run_command("merge", *arguments, "--out", tmp_path / "no") == 2
        assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "no").exists()


def test_a_text_is_merged_once(tmp_path: Path, run_command: Run, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    settings = {"text_fingerprint": "0123456789abcdef", "prompts": []}
    folders = [tmp_path / name for name in ("one", "other", "again", "longer")]
    for folder, prompts in zip(folders, (["a"], ["b"], ["a"], ["a", "b"]), strict=True):
        measure(model, [X], settings={**settings, "prompts": prompts}).save(folder)
    one, other, again, longer = folders
    assert run_command("merge", one, other, longer, "--out", tmp_path / "both") == 0
    for first in (one, tmp_path / "both"):
        assert run_command("merge", first, again, "--out", tmp_path / "no") == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "are of the same text, which would count twice" in said
    assert not (tmp_path / "no").exists()
