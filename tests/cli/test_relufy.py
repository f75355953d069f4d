"""``actratio relufy``: its output, what it writes, and going on after ``kill -9``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults.processes import Command

Run = Callable[..., int]
KILLED = -9


@pytest.fixture
def command(tmp_path: Path, text: Path, minilm: Path, tiny_gpt2: Callable[..., Any]) -> list[object]:
    """Return the arguments that fine-tune a small GPT-2 for a moment; the folder of the result comes last."""
    tiny_gpt2("gelu_new").save_pretrained(tmp_path / "model")
    numbers = ["--length", 16, "--limit-tokens", 640, "--steps", 10, "--evaluations", 10, "--lr", 0.003, "--loss", 50]
    return ["relufy", tmp_path / "model", "--tokenizer", minilm, "--text", text, *numbers, "--target", 0.3, "--out"]


def test_relufy_writes_a_model_that_transformers_loads(
    tmp_path: Path, command: list[object], run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    out = tmp_path / "out"
    assert run_command(*command, out) == 0
    said = capsys.readouterr().out
    assert "of the neuron outputs are not zero on text that was not used" in " ".join(said.split())
    assert f"actratio audit {out} --text" in " ".join(said.split())
    assert not (tmp_path / "out.training").exists()
    assert {"config.json", "model.safetensors", "relufy.json", "report.html", "tokenizer.json"} <= {
        path.name for path in out.iterdir()
    }
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert type(model.transformer.h[0].mlp.act).__name__ == "ReLU"
    assert run_command(*command, out) == 2
    assert "holds an earlier result" in " ".join(capsys.readouterr().err.split())
    assert run_command(*command, out, "--force", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in printed["rows"]] == [*range(11)]
    assert printed["rows"] == json.loads((out / "relufy.json").read_text())["evaluations"]
    again = transformers.AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_relufy_keeps_no_model_whose_loss_is_too_high(
    tmp_path: Path, command: list[object], run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    unmet = ["--loss", 0, "--lr", 1e-9, "--steps", 1]
    for _ in range(2):  # the second time, nothing is trained again
        assert run_command(*command, out, *unmet) == 1
        said = capsys.readouterr()
        assert "No model was kept" in " ".join(said.out.split())
        assert "out.training" in said.err
        assert not out.exists()
    assert run_command(*command, out) == 2
    assert "holds a training with other settings" in " ".join(capsys.readouterr().err.split())


def test_relufy_goes_on_after_it_was_killed(tmp_path: Path, command: list[object]) -> None:
    assert Command([*command, tmp_path / "expected"], tmp_path / "log").finish() == 0
    moments = [(1, "halfway"), (3, "after")]
    for dies_at in moments:  # each time it gets a little further
        assert Command([*command, tmp_path / "out"], tmp_path / "log", dies_at=dies_at).finish() == KILLED
        assert not (tmp_path / "out").exists()
    assert Command([*command, tmp_path / "out"], tmp_path / "log").finish() == 0
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    results = [json.loads((tmp_path / name / "relufy.json").read_text()) for name in ("out", "expected")]
    assert results[0]["evaluations"] == results[1]["evaluations"]
    assert {path.name for path in tmp_path.iterdir() if "out" in path.name} == {"out"}
