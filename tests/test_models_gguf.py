"""GGUF files are models: the same counts as the original, and clear errors for damaged files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import pytest
import torch

from actratio import ActratioError, measure
from actratio.models import find_source, load_model, load_tokenizer, model_fingerprint, weights_note
from actratio.studies import TransformerStudy
from actratio.studies.runner import Runner

from .gguf_files import TOKENS, tiny_llama, write_gguf

BATCH = {"input_ids": torch.arange(3, 43).view(2, 20)}
F32 = "dequantised from GGUF (F32)"


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama()


@pytest.fixture(scope="module")
def path(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", model)


def test_counts_of_a_gguf_file_equal_those_of_the_original(model: Any, path: Path, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved")
    original = measure(load_model(str(tmp_path / "saved"), device="cpu"), [BATCH])
    measured = measure(load_model(str(path), device="cpu"), [BATCH])
    assert measured.model == str(path)
    assert measured.to_frame().equals(original.to_frame().assign(model=str(path)))


def test_quantised_weights_are_dequantised(model: Any, tmp_path: Path) -> None:
    quantised = write_gguf(tmp_path / "tiny.gguf", model, "Q4_1")
    assert weights_note(str(quantised)) == "dequantised from GGUF (Q4_1, F32)"
    loaded = load_model(str(quantised), device="cpu")
    for name, weight in model.state_dict().items():
        expected = weight.numpy()
        if weight.ndim == 2 and not name.endswith(
            ("q_proj.weight", "k_proj.weight")
        ):  # whose rows are in another order
            kind = gguf.GGMLQuantizationType.Q4_1
            expected = gguf.quants.dequantize(gguf.quants.quantize(expected, kind), kind)
        if "q_proj" not in name and "k_proj" not in name:
            assert torch.equal(loaded.state_dict()[name], torch.from_numpy(expected)), name


def test_the_tokenizer_is_in_the_same_file(path: Path) -> None:
    ids = load_tokenizer(str(path))("A king")["input_ids"]
    assert [TOKENS[number] for number in ids] == ["A", "Ġ", "ki", "ng"]


def test_measure_and_sites_say_that_weights_are_dequantised(
    path: Path, tmp_path: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run_command("measure", path, "--prompt", "A king.", "--out", out, "--device", "cpu", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["settings"]["weights"] == F32
    assert f"weights {F32}" in " ".join(printed.err.split())
    assert F32 in (out / "report.html").read_text(encoding="utf-8")
    assert run_command("sites", path, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["settings"]["weights"] == F32
    assert [row["width"] for row in said["rows"]] == [64, 64]


def test_the_study_of_transformers_reads_gguf_files(path: Path, tmp_path: Path) -> None:
    study = TransformerStudy(models=(str(path),), prompts=("A king.",), device="cpu")
    runner = Runner(study, tmp_path / "run")
    runner.execute()
    assert runner.folder.settings["weights"] == {str(path): F32}
    assert any(F32 in line for line in study.announce())
    assert runner.frame()["layer"].tolist() == [0, 1]


def test_a_pruned_gguf_file_is_an_ordinary_model(
    path: Path, tmp_path: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("a king had a fox and a hound " * 20)
    command = ["prune", path, "--text", tmp_path / "text.txt", "--length", "16", "--device", "cpu", "--out"]
    assert run_command(*command, tmp_path / "slim", "--json") == 0
    assert json.loads(capsys.readouterr().out)["settings"]["weights"] == F32
    loaded = load_model(str(path), device="cpu")
    loaded.save_pretrained(tmp_path / "saved")
    again = load_model(str(tmp_path / "saved"), device="cpu")
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    assert torch.equal(again(**BATCH).logits, loaded(**BATCH).logits)


def test_a_folder_with_one_gguf_file_is_that_file(model: Any, path: Path, tmp_path: Path) -> None:
    assert find_source(str(path.parent)).gguf_path == path
    model.save_pretrained(tmp_path)
    (tmp_path / "tiny.gguf").symlink_to(path)
    assert find_source(str(tmp_path)).gguf_file is None  # safetensors come first
    assert weights_note(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[: len(content) // 2], "is not a complete GGUF file"),
        (lambda content: content[:100], "is not a complete GGUF file"),
        (lambda content: b"PK\x03\x04" + content[4:], "is not a complete GGUF file"),
        (lambda content: b"", "is not a complete GGUF file"),
    ],
)
def test_a_damaged_file_is_one_clear_sentence(
    damage: Callable[[bytes], bytes],
    words: str,
    path: Path,
    tmp_path: Path,
    run_command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(damage(path.read_bytes()))
    assert run_command("measure", damaged, "--out", tmp_path / "run") == 2
    printed = capsys.readouterr()
    assert words in " ".join(printed.err.split())
    assert "Traceback" not in printed.err
    assert not (tmp_path / "run").exists()
    with pytest.raises(ActratioError, match=words):
        load_model(str(damaged), device="cpu")


def test_other_architectures_and_missing_files_are_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "astrology")
    writer.add_tensor("weight", torch.zeros(32, 32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ActratioError, match="an architecture that transformers reads"):
        load_model(str(tmp_path / "other.gguf"), device="cpu")
    # Commands load the tokenizer first. Another one would not help, so its error must not ask for one.
    with pytest.raises(ActratioError, match="an architecture that transformers reads"):
        load_tokenizer(str(tmp_path / "other.gguf"))
    with pytest.raises(ActratioError, match=r"missing\.gguf is not a file; pass a GGUF file"):
        load_model(str(tmp_path / "missing.gguf"))


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "vocabulary.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ActratioError, match=r"has no weights|is not a complete GGUF file"):
        weights_note(str(tmp_path / "vocabulary.gguf"))


def test_the_missing_extra_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ActratioError, match=r"package 'gguf'.*actratio\[gguf\]"):
        load_model(str(path), device="cpu")


def test_the_memory_of_dequantised_weights_is_checked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    weights = sum(parameter.numel() for parameter in load_model(str(path), device="cpu").parameters())
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=4 * weights - 1))
    with pytest.raises(ActratioError, match="of free memory"):
        load_model(str(path), device="cpu")
    assert load_model(str(path), device="cpu", dtype="bf16").dtype == torch.bfloat16


def test_the_fingerprint_covers_the_file_and_nothing_beside_it(model: Any, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", model)
    before = model_fingerprint(str(path))
    (tmp_path / "notes.txt").write_text("beside it")
    assert model_fingerprint(str(path)) == before
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert model_fingerprint(str(path)) != before


def test_a_file_with_few_of_its_weights_is_refused_before_memory_is_filled(tmp_path: Path, model: Any) -> None:
    """Without the number of layers, transformers would build 32 of them with random weights."""
    path = write_gguf(tmp_path / "tiny.gguf", model)
    path.write_bytes(path.read_bytes().replace(b"llama.block_count", b"llama.block_coun_"))
    with pytest.raises(ActratioError, match=r"describes a model of [\d,]+ weights, and has [\d,]+; download it again"):
        load_model(str(path))
