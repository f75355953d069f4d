"""The example scripts, run as a user runs them or for fewer steps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from .conftest import ROOT
from .scripts import printed_by

TEXT = "The quick brown fox jumps over the lazy dog, and the king of a faraway land laughs.\n"


@pytest.mark.parametrize(
    ("model_type", "activation", "gated"),
    [pytest.param("gpt2", "gelu_new", False, marks=pytest.mark.slow), ("llama", "relu", True)],
)
def test_train_small_saves_a_model_that_can_be_measured(
    model_type: str,
    activation: str,
    gated: bool,
    tmp_path: Path,
    run_command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus, model = tmp_path / "corpus.txt", tmp_path / "model"
    corpus.write_text(TEXT * 40)
    sizes = ["--steps", "3", "--width", "32", "--layers", "2", "--length", "16", "--vocabulary", "300"]
    sizes += ["--type", model_type, "--activation", activation, "--out", str(model)]
    assert "held-out loss" in run("train_small.py", tmp_path, corpus, *sizes)
    options = ["--length", "16", "--limit-tokens", "64", "--out", str(tmp_path / "m"), "--csv"]
    assert run_command("measure", model, "--text", corpus, "--packed", "--json", *options) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 2 * (1 + gated)
    assert {row["tokens"] for row in rows} == {64}
    header, *lines = (tmp_path / "m" / "gpt.csv").read_text().splitlines()
    assert header == "model,layer,input,activation_ratio"
    assert len(lines) == 2


def run(name: str, place: Path, *options: object) -> str:
    """Run an example with a folder for its output, and return what it prints."""
    file = ROOT / "examples" / name
    return printed_by(
        file.read_text(encoding="utf-8"), *options, folder=file.parent, place=place, file=str(file), draws=True
    )


def test_measure_hugging_face_writes_counts_figures_and_a_page(tmp_path: Path) -> None:
    printed = run("measure_hugging_face.py", tmp_path, "--tokens", 512, "--out", tmp_path)
    assert len(re.findall(r"^encoder\.layer\.\d\.intermediate +positive +512 ", printed, re.MULTILINE)) == 6
    assert "of the activations are above zero (GELU)" in printed
    written = {path.name for path in tmp_path.rglob("*")}
    assert {"profile.svg", "report.html"} <= written


def test_track_lightning_logs_what_the_table_has(tmp_path: Path) -> None:
    printed = run("track_lightning.py", tmp_path, "--epochs", 2, "--out", tmp_path)
    (metrics,) = tmp_path.rglob("metrics.csv")
    logged = pd.read_csv(metrics).dropna(subset="actratio/ratio")
    assert logged["step"].tolist() == [20, 40]
    step, site, width, tokens, ratio, *_ = printed.splitlines()[1].split()
    assert (step, site, width, tokens) == ("40", "1", "256", "64")
    assert float(ratio) == pytest.approx(logged["actratio/1/ratio"].iloc[-1], abs=1e-6)
    assert {path.name for path in (tmp_path / "figures").iterdir()} >= {"ratio.svg", "dead.svg"}


def test_track_trainer_logs_what_the_table_has(tmp_path: Path) -> None:
    printed = run("track_trainer.py", tmp_path, "--steps", 100, "--out", tmp_path)
    rows = re.findall(r"^ +(\d+) bert\.encoder\.layer\.(\d)\.intermediate +256 +(\d+) +([\d.]+)", printed, re.MULTILINE)
    assert [(int(step), int(layer)) for step, layer, *_ in rows] == [
        (step, layer) for step in (50, 100) for layer in range(3)
    ]
    assert all(32 * 4 <= int(tokens) < 32 * 16 for *_, tokens, _ in rows)  # without padding
    logged = re.findall(r"'actratio/bert\.encoder\.layer\.\d\.intermediate/ratio': '([\d.]+)'", printed)
    assert [float(value) for value in logged] == pytest.approx([float(ratio) for *_, ratio in rows], abs=1e-4)


def test_make_faster_keeps_the_outputs(tmp_path: Path) -> None:
    printed = run("make_faster.py", tmp_path, "--width", 128, "--layers", 2, "--new-tokens", 4)
    active = re.search(r"^([\d.]+)% of the neurons are active", printed, re.MULTILINE)
    assert active is not None
    assert 1 < float(active[1]) < 6
    assert re.findall(r"^Batch (\d): (?:yes|no)", printed, re.MULTILINE) == ["1", "8"]
    difference = re.search(r"largest difference of an output: (\S+) of", printed)
    assert difference is not None
    assert float(difference[1]) < 1e-5
    assert re.search(r"^dense [\d.]+ ms per token, sparse [\d.]+ ms: ", printed, re.MULTILINE)
