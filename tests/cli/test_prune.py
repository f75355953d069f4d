"""`actratio prune`: the smaller model that it writes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.sparse.test_pruning import IDS, silence

Run = Callable[..., int]


def test_prune_writes_a_smaller_model(
    tmp_path: Path, text: Path, minilm: Path, run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    config = transformers.OPTConfig(
        vocab_size=30522, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=64, word_embed_proj_dim=16,
        activation_function="relu", max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.OPTForCausalLM(config).eval()
    silence(model, 5)
    model.save_pretrained(tmp_path / "model")
    options = ["--text", text, "--length", 16, "--out", tmp_path / "out"]
    command = ["prune", tmp_path / "model", "--tokenizer", minilm, *options]
    assert run_command(*command, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed["rows"][0]) == {"site", "before", "width", "dead", "certain"}
    assert "parameters became" in printed["verdicts"][0]
    least = min(row["dead"] for row in printed["rows"])
    assert [row["certain"] for row in printed["rows"]] == [5, 6]
    assert all(row["width"] == 64 - least for row in printed["rows"])
    smaller = transformers.AutoModelForCausalLM.from_pretrained(printed["path"]).eval()
    assert sum(parameter.numel() for parameter in smaller.parameters()) == printed["settings"]["parameters"]
    assert printed["settings"]["tokens"] % (4 * 16) == 0
    with torch.no_grad():
        torch.testing.assert_close(smaller(**IDS).logits, model(**IDS).logits, rtol=1e-4, atol=1e-5)
    assert run_command(*command) == 2  # again
    assert "holds an earlier result; choose another folder with --out" in " ".join(capsys.readouterr().err.split())
    assert run_command(*command, "--force") == 0
    assert "parameters became" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    assert run_command(*command[:-1], tmp_path / "other") == 2
    assert "holds something else" in capsys.readouterr().err
    assert run_command(*command, "--force", "--length", 500) == 2
    assert "too few batches (1 of 4)" in " ".join(capsys.readouterr().err.split())


def test_prune_says_if_no_neuron_can_be_removed(
    tmp_path: Path,
    text: Path,
    tiny_gpt2: Callable[..., Any],
    minilm: Path,
    run_command: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_gpt2("gelu_new").save_pretrained(tmp_path / "model")
    options = ["--text", text, "--length", 16, "--out", tmp_path / "out"]
    assert run_command("prune", tmp_path / "model", "--tokenizer", minilm, *options) == 0
    assert "No neuron can be removed: newgelu has no true zeros." in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "out").exists()
