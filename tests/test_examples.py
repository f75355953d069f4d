"""The example scripts, a few steps of them, and the commands that they lead to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

TEXT = "The quick brown fox jumps over the lazy dog, and the king of a faraway land laughs.\n"


@pytest.mark.parametrize(("kind", "activation", "gated"), [("gpt2", "gelu_new", False), ("llama", "relu", True)])
def test_a_small_model_is_trained_and_measured(kind: str, activation: str, gated: bool, tmp_path: Path) -> None:
    corpus, model = tmp_path / "corpus.txt", tmp_path / "model"
    corpus.write_text(TEXT * 40)
    small = ["--steps", "3", "--width", "32", "--layers", "2", "--length", "16", "--vocabulary", "300"]
    script = [sys.executable, str(ROOT / "examples" / "train_small.py"), str(corpus), "--out", str(model)]
    ran = subprocess.run(
        [*script, "--type", kind, "--activation", activation, *small], capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    assert "held-out loss" in ran.stdout
    measure = [sys.executable, "-m", "actratio.cli", "measure", str(model), "--text", str(corpus), "--packed", "--json"]
    measure += ["--length", "16", "--limit-tokens", "64", "--out", str(tmp_path / "m"), "--csv"]
    ran = subprocess.run(measure, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(ran.stdout)["rows"]
    assert len(rows) == 2 * (1 + gated)
    assert {row["tokens"] for row in rows} == {64}
    header, *lines = (tmp_path / "m" / "gpt.csv").read_text().splitlines()
    assert header == "model,layer,input,activation_ratio"
    assert len(lines) == 2
