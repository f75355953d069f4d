"""The example scripts, run for a few steps, and the commands in their docstrings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

TEXT = "The quick brown fox jumps over the lazy dog, and the king of a faraway land laughs.\n"


@pytest.mark.parametrize(("model_type", "activation", "gated"), [("gpt2", "gelu_new", False), ("llama", "relu", True)])
def test_train_small_saves_a_model_that_can_be_measured(
    model_type: str, activation: str, gated: bool, tmp_path: Path
) -> None:
    corpus, model = tmp_path / "corpus.txt", tmp_path / "model"
    corpus.write_text(TEXT * 40)
    sizes = ["--steps", "3", "--width", "32", "--layers", "2", "--length", "16", "--vocabulary", "300"]
    script = [sys.executable, str(ROOT / "examples" / "train_small.py"), str(corpus), "--out", str(model)]
    result = subprocess.run(
        [*script, "--type", model_type, "--activation", activation, *sizes], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert "held-out loss" in result.stdout
    measure = [sys.executable, "-m", "actratio", "measure", str(model), "--text", str(corpus), "--packed", "--json"]
    measure += ["--length", "16", "--limit-tokens", "64", "--out", str(tmp_path / "m"), "--csv"]
    result = subprocess.run(measure, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert len(rows) == 2 * (1 + gated)
    assert {row["tokens"] for row in rows} == {64}
    header, *lines = (tmp_path / "m" / "gpt.csv").read_text().splitlines()
    assert header == "model,layer,input,activation_ratio"
    assert len(lines) == 2
