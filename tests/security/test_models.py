"""Hostile model folders: nothing in them runs, and nothing outside of them is read."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from actratio.errors import ModelError
from actratio.models import load_model, load_tokenizer, model_fingerprint

RefusedCommand = Callable[..., str]
CODE = "import pathlib\npathlib.Path({mark!r}).write_text('ran')\nfrom transformers import LlamaConfig as Evil\n"


class Attack:
    """An object that creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def folder(tmp_path: Path, tiny_causal_lm: Callable[[str], Any]) -> Path:
    tiny_causal_lm("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What an attack creates if it succeeds."""
    return tmp_path / "ran"


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))


def test_the_attack_works_on_a_plain_pickle(mark: Path) -> None:
    pickle.loads(pickle.dumps(Attack(mark)))
    assert mark.exists()


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_a_hostile_pickle_is_not_run(folder: Path, mark: Path, allow_pickle: bool) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Attack(mark)}, folder / "pytorch_model.bin")
    words = "could not be loaded" if allow_pickle else "no weights in safetensors, .*; pass --allow-pickle"
    with pytest.raises(ModelError, match=words) as raised:
        load_model(str(folder), device="cpu", allow_pickle=allow_pickle)
    assert "\n" not in str(raised.value)
    assert not mark.exists()


def test_weights_of_other_formats_load_with_weights_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = load_model(str(folder), device="cpu").state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    asked: list[Any] = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **o: asked.append(o.get("weights_only")) or load(*a, **o))
    load_model(str(folder), device="cpu", allow_pickle=True)
    assert asked
    assert set(asked) == {True}


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("../outside.safetensors", "not in its folder"),
        ("/etc/passwd", "not in its folder"),
        ("..", "not in its folder"),
        ("a/b.safetensors", "not in its folder"),
        ("a\0.safetensors", "not in its folder"),
        ("..\\outside.safetensors", "not in its folder"),
        ("pytorch_model.bin", "not safetensors"),
    ],
)
def test_an_index_names_only_safetensors_of_its_folder(folder: Path, mark: Path, file: str, words: str) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Attack(mark)}, folder / "pytorch_model.bin")
    change(folder / "model.safetensors.index.json", metadata={}, weight_map={"model.norm.weight": file})
    with pytest.raises(ModelError, match=words):
        load_model(str(folder), device="cpu")
    assert not mark.exists()


@pytest.mark.parametrize("content", ["", "[]", '{"weight_map": []}', '{"weight_map": {"a": [1]}}', "[" * 100_000])
def test_a_damaged_index_is_a_sentence(folder: Path, content: str) -> None:
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=r"index.json is damaged; save the model again"):
        load_model(str(folder), device="cpu")


@pytest.mark.parametrize("ask", ["load", "fingerprint"])
def test_code_of_a_model_does_not_run(folder: Path, mark: Path, ask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)))
    change(
        folder / "config.json",
        model_type="evil",
        auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"},
    )
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers asks, unless it is told not to
    if ask == "load":
        with pytest.raises(
            ModelError, match="needs Python code that comes with it; if you trust it, pass --trust-remote-code"
        ):
            load_model(str(folder), device="cpu")
    else:
        model_fingerprint(str(folder))
    assert not mark.exists()


def test_code_of_a_tokenizer_does_not_run(folder: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)))
    change(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
    change(folder / "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ModelError, match="--trust-remote-code"):
        load_tokenizer(str(folder))
    assert not mark.exists()


@pytest.mark.parametrize("option", ["attn_implementation", "experts_implementation"])
def test_kernels_of_the_hub_are_not_loaded(folder: Path, option: str) -> None:
    change(folder / "config.json", **{option: "evil/kernel"})
    with pytest.raises(ModelError, match="asks for the kernel evil/kernel, which is code from the Hugging Face hub"):
        load_model(str(folder), device="cpu")
