"""`actratio speed`: of a model, of a measurement, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actratio.sparse import prediction
from actratio.sparse.contention import BUSY, CPUWait

Run = Callable[..., int]
TinyGPT2 = Callable[..., Any]


def test_speed_of_a_model_and_of_its_measurement(
    tmp_path: Path, tiny_gpt2: TinyGPT2, minilm: Path, run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "relu"
    tiny_gpt2("relu").save_pretrained(folder)
    assert run_command("speed", folder, "--tokenizer", minilm, "--batch", "1,2", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["batch"] for row in printed["rows"]] == [1, 2]
    assert printed["verdicts"][:2] == [f"Batch {row['batch']}: {row['verdict']}." for row in printed["rows"]]
    assert set(printed["settings"]) == {
        "model", "revision", "dtype", "batch", "prompt", "length", "weights", "dense", "bandwidth_gbs", "matmul_gflops"
    }  # fmt: skip
    assert set(printed["rows"][0]) == {
        "batch", "prompt", "needed", "dense_ms", "dense_bytes", "sparse_bytes", "dense_flops", "sparse_flops", "ideal_mlp", "ideal",
        "expected", "faster", "verdict",
    }  # fmt: skip
    assert run_command("measure", folder, "--tokenizer", minilm, "--out", tmp_path / "m", "--json") == 0
    capsys.readouterr()
    assert run_command("speed", tmp_path / "m") == 0
    printed = capsys.readouterr().out
    assert "Batch 1: " in printed
    assert "GB/s" in printed


@pytest.mark.parametrize("waited", [0.33, 0.01])
def test_speed_warns_on_a_busy_machine(
    waited: float,
    tmp_path: Path,
    tiny_gpt2: TinyGPT2,
    minilm: Path,
    run_command: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CPUWait, "share", lambda self: waited)
    monkeypatch.setattr(prediction, "_expected", lambda *_: 1.3)
    tiny_gpt2("relu").save_pretrained(tmp_path / "relu")
    command = "speed", tmp_path / "relu", "--tokenizer", minilm
    assert run_command(*command) == 0
    sentence = "These figures may be wrong: this process waited for a CPU for 33% of the time"
    assert (sentence in " ".join(capsys.readouterr().out.split())) == (waited > BUSY)
    assert run_command(*command, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["waited"] == waited
    assert (printed["warning"] is not None) == (waited > BUSY)


def test_speed_of_a_measurement_refuses_text(
    tmp_path: Path, text: Path, tiny_gpt2: TinyGPT2, minilm: Path, run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_gpt2("relu").save_pretrained(tmp_path / "relu")
    measure = ["measure", tmp_path / "relu", "--tokenizer", minilm, "--out", tmp_path / "m", "--json"]
    assert run_command(*measure) == 0
    capsys.readouterr()
    assert run_command("speed", tmp_path / "m", "--text", text) == 2
    assert "which already has counts; omit --text, --length and --tokenizer" in " ".join(
        capsys.readouterr().err.split()
    )
    assert run_command("speed", tmp_path / "m", "--length", 64) == 2
    capsys.readouterr()
    (tmp_path / "relu" / "thresholds.json").write_text("{}")
    assert run_command("speed", tmp_path / "m") == 2
    assert "has thresholds, which the measurement" in " ".join(capsys.readouterr().err.split())


def test_sequences_of_a_text_fit_a_short_model(
    tmp_path: Path, text: Path, tiny_gpt2: TinyGPT2, minilm: Path, run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_gpt2("relu", n_positions=48).save_pretrained(tmp_path / "model")
    command = ["speed", tmp_path / "model", "--tokenizer", minilm, "--text", text, "--json"]
    assert run_command(*command) == 2
    assert "(--length)" in " ".join(capsys.readouterr().err.split())
    assert run_command(*command, "--length", 32) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["length"] == 32


def test_speed_refuses_a_model_that_does_not_decode(
    tmp_path: Path, minilm: Path, run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    config = transformers.BertConfig(
        vocab_size=30522, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    assert run_command("speed", tmp_path / "bert", "--tokenizer", minilm) == 2
    assert "cannot be timed while it decodes" in " ".join(capsys.readouterr().err.split())
