"""The example scripts, run as a user runs them or for fewer steps."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from .conftest import ROOT

TEXT = "The quick brown fox jumps over the lazy dog, and the king of a faraway land laughs.\n"


@pytest.mark.parametrize(
    ("model_type", "activation", "gated"),
    [pytest.param("gpt2", "gelu_new", False, marks=pytest.mark.slow), ("llama", "relu", True)],
)
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


def run(name: str, *options: object) -> str:
    """Run an example, and return what it prints."""
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, options)]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_measure_hugging_face_writes_counts_figures_and_a_page(tmp_path: Path) -> None:
    printed = run("measure_hugging_face.py", "--tokens", 512, "--out", tmp_path)
    assert len(re.findall(r"^encoder\.layer\.\d\.intermediate +positive +512 ", printed, re.MULTILINE)) == 6
    assert "of the activations are above zero (GELU)" in printed
    written = {path.name for path in tmp_path.rglob("*")}
    assert {"profile.svg", "report.html"} <= written


def test_track_lightning_logs_what_the_table_has(tmp_path: Path) -> None:
    printed = run("track_lightning.py", "--epochs", 2, "--out", tmp_path)
    (metrics,) = tmp_path.rglob("metrics.csv")
    logged = pd.read_csv(metrics).dropna(subset="actratio/ratio")
    assert logged["step"].tolist() == [20, 40]
    step, site, width, tokens, ratio, *_ = printed.splitlines()[1].split()
    assert (step, site, width, tokens) == ("40", "1", "256", "64")
    assert float(ratio) == pytest.approx(logged["actratio/1/ratio"].iloc[-1], abs=1e-6)
    assert {path.name for path in (tmp_path / "figures").iterdir()} >= {"ratio.svg", "dead.svg"}


def test_track_trainer_logs_what_the_table_has(tmp_path: Path) -> None:
    printed = run("track_trainer.py", "--steps", 100, "--out", tmp_path)
    rows = re.findall(r"^ +(\d+) bert\.encoder\.layer\.(\d)\.intermediate +256 +(\d+) +([\d.]+)", printed, re.MULTILINE)
    assert [(int(step), int(layer)) for step, layer, *_ in rows] == [
        (step, layer) for step in (50, 100) for layer in range(3)
    ]
    assert all(32 * 4 <= int(tokens) < 32 * 16 for *_, tokens, _ in rows)  # without padding
    logged = re.findall(r"'actratio/bert\.encoder\.layer\.\d\.intermediate/ratio': '([\d.]+)'", printed)
    assert [float(value) for value in logged] == pytest.approx([float(ratio) for *_, ratio in rows], abs=1e-4)


def test_make_faster_keeps_the_outputs() -> None:
    printed = run("make_faster.py", "--width", 128, "--layers", 2, "--new-tokens", 4)
    active = re.search(r"^([\d.]+)% of the neurons are active", printed, re.MULTILINE)
    assert active is not None
    assert 1 < float(active[1]) < 6
    assert re.findall(r"^batch (\d): (?:yes|no)", printed, re.MULTILINE) == ["1", "8"]
    difference = re.search(r"largest difference of an output: (\S+) of", printed)
    assert difference is not None
    assert float(difference[1]) < 1e-5
    assert re.search(r"^dense [\d.]+ ms per token, sparse [\d.]+ ms: ", printed, re.MULTILINE)
