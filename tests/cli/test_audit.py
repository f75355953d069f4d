"""``actratio audit``: what it says when the model can't read what it is given. The how-to's test has its output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., int]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (["--prompt", 16, "--length", 64], "input_ids of shape (4, 64)"),
        (["--length", 16, "--prompt", 100], "cannot be timed while it reads a prompt of 100 tokens"),
    ],
)
def test_what_is_too_long_is_named_with_its_option(
    numbers: list[object], said: str, tmp_path: Path, text: Path, minilm: Path, tiny_gpt2: Callable[..., Any],
    run_command: Run, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    tiny_gpt2("relu", n_positions=48).save_pretrained(tmp_path / "model")
    command = ["audit", tmp_path / "model", "--tokenizer", minilm, "--text", text, "--limit-tokens", 1024]
    assert run_command(*command, *numbers, "--out", tmp_path / "out") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert said in error
    assert f"({numbers[-2]})" in error
    assert not (tmp_path / "out").exists()


def test_sequences_for_which_a_model_raises_a_runtime_error(
    tmp_path: Path, text: Path, minilm: Path, run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """GPT-J, BERT and others do, where GPT-2 raises an ``IndexError``. The text is long enough to check the loss, which fails first."""
    from transformers import GPTJConfig, GPTJForCausalLM

    text.write_text(text.read_text() * 2)
    config = GPTJConfig(vocab_size=30522, n_embd=16, n_layer=1, n_head=2, n_positions=32, rotary_dim=4, bos_token_id=1, eos_token_id=2)  # fmt: skip
    GPTJForCausalLM(config).save_pretrained(tmp_path / "model")
    command = ["audit", tmp_path / "model", "--tokenizer", minilm, "--text", text, "--prompt", 16, "--length", 40]
    assert run_command(*command, "--out", tmp_path / "out") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "input_ids of shape (4, 40)" in error
    assert "(--length)" in error
    assert not (tmp_path / "out").exists()
