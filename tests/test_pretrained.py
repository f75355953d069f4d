"""The measure command with MiniLM, a pretrained encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from actratio import load
from actratio.data.text import ARTICLE_PROMPTS, token_batches
from actratio.models import load_model, load_tokenizer


def test_counts_of_minilm_match_the_outputs_of_its_gelu(
    minilm: Path,
    tmp_path: Path,
    run_command: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command("measure", minilm, "--out", tmp_path / "m", "--json", "--device", "cpu") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    # Record the same outputs with a patched GELU, which needs no sites or hooks.
    outputs: list[Tensor] = []
    gelu = torch.nn.functional.gelu

    def recording_gelu(x: Tensor, *arguments: object) -> Tensor:
        outputs.append(gelu(x, *arguments))  # type: ignore[arg-type]
        return outputs[-1]

    model, tokenizer = load_model(str(minilm), device="cpu"), load_tokenizer(str(minilm))
    (batch,) = token_batches(tokenizer, ARTICLE_PROMPTS, length=256, batch_size=4, packed=False)
    for module in model.modules():
        if type(module).__name__ == "GELUActivation":
            monkeypatch.setattr(module, "act", recording_gelu)
    with torch.no_grad():
        model(**batch)
    assert len(outputs) == len(rows) == 6
    mask = batch["attention_mask"].bool()
    measurement = load(tmp_path / "m")
    for row, output in zip(rows, outputs, strict=True):
        counts = measurement.counts(row["site"])
        assert counts.tokens == row["tokens"] == int(mask.sum())
        assert torch.equal(counts.active, (output[mask] > 0).sum(0))
        assert 0.05 < row["activation_ratio"] < 0.45  # plausible for a trained GELU network
