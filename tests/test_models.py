"""Loading models of transformers, and the sites of tiny models with random weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from actratio import ActratioError, Measurement, find_sites, measure
from actratio.models import (
    check_model,
    load_model,
    load_tokenizer,
    model_fingerprint,
    most_tokens,
    weights_fingerprint,
    with_decoder_inputs,
)

from .conftest import make_tiny_causal_lm as tiny  # noqa: F401, other test modules import it from here

TinyCausalLM = Callable[[str], Any]
SaveModel = Callable[[str], Path]
BATCH = {"input_ids": torch.arange(1, 19).view(2, 9)}


@pytest.fixture(scope="session")
def save_model(tmp_path_factory: pytest.TempPathFactory, tiny_causal_lm: TinyCausalLM) -> SaveModel:
    """Save a tiny model and return the folder: ``save_model("llama")``."""

    def save(model_type: str) -> Path:
        folder = tmp_path_factory.mktemp(model_type)
        tiny_causal_lm(model_type).save_pretrained(folder)
        return folder

    return save


@pytest.mark.parametrize(
    ("model_type", "name", "role", "function", "width", "gated"),
    [
        ("gpt2", "transformer.h.{}.mlp", "mlp", "newgelu", 128, False),
        ("llama", "model.layers.{}.mlp", "mlp", "silu", 48, True),
        ("opt", "model.decoder.layers.{}", "mlp", "relu", 48, False),
        ("phi3", "model.layers.{}.mlp", "mlp", "silu", 48, True),
        ("lfm2", "model.layers.{}.feed_forward", "mlp", "silu", 256, True),
        ("bert", "bert.encoder.layer.{}.intermediate", "mlp", "gelu", 48, False),
    ],
)
def test_sites_of_dense_models(
    model_type: str, name: str, role: str, function: str, width: int, gated: bool, tiny_causal_lm: TinyCausalLM
) -> None:
    sites = find_sites(tiny_causal_lm(model_type))
    assert [site.name for site in sites] == [name.format(layer) for layer in range(2)]
    assert {(site.role, site.function, site.width, site.gated, site.calls) for site in sites} == {
        (role, function, width, gated, 1)
    }


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_experts_are_sites_in_every_implementation(
    model_type: str, implementation: str, tiny_causal_lm: TinyCausalLM
) -> None:
    model = tiny_causal_lm(model_type)
    model.set_experts_implementation(implementation)
    sites = find_sites(model)
    assert [site.name for site in sites] == [f"model.layers.{n}.mlp.experts.{e}" for n in range(2) for e in range(4)]
    assert {(site.role, site.gated, site.calls) for site in sites} == {("expert", True, 1)}


def test_shared_expert_has_its_own_role(tiny_causal_lm: TinyCausalLM) -> None:
    roles = [site.role for site in find_sites(tiny_causal_lm("llama4_text"))]
    assert roles == (["expert"] * 4 + ["shared expert"]) * 2


def test_state_space_model_has_no_mlp(tiny_causal_lm: TinyCausalLM) -> None:
    with pytest.raises(ActratioError, match=r"the model has no MLP; its activations are .*state-space"):
        find_sites(tiny_causal_lm("mamba"))


def test_sites_command_lists_the_selected_experts(
    save_model: SaveModel, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("sites", save_model("mixtral"), "--sites", "*.experts.0,*.experts.3", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["name"] for row in rows] == [f"model.layers.{n}.mlp.experts.{e}" for n in range(2) for e in (0, 3)]


def test_pickle_weights_need_allow_pickle(save_model: SaveModel) -> None:
    folder = save_model("llama")
    model = load_model(str(folder), device="cpu")
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ActratioError, match="--allow-pickle"):
        load_model(str(folder), device="cpu")
    unpickled = load_model(str(folder), device="cpu", allow_pickle=True)
    assert torch.equal(unpickled.get_parameter("model.norm.weight"), model.get_parameter("model.norm.weight"))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("/nowhere", {}, "/nowhere is not a folder"),
        (
            "owner/name",
            {},
            "there is no folder owner/name, no model of this name in the local cache, and the Hugging Face hub .*; check the path or the name",
        ),
        (".", {"dtype": "fp8"}, "no dtype 'fp8'"),
    ],
)
def test_load_model_rejects_missing_models_and_unknown_dtypes(name: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(ActratioError, match=words) as raised:
        load_model(name, **options)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_load_model_checks_the_free_memory(save_model: SaveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    folder = save_model("llama")
    weights = sum(parameter.numel() for parameter in load_model(str(folder), device="cpu").parameters())
    for free, dtype, fits in (
        (4 * weights, "auto", True),
        (4 * weights - 1, "auto", False),
        (2 * weights, "bf16", True),
    ):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        if fits:
            load_model(str(folder), device="cpu", dtype=dtype)
        else:
            with pytest.raises(ActratioError, match=r"GB of weights but cpu has .* GB of free memory"):
                load_model(str(folder), device="cpu", dtype=dtype)


def count_hooks(model: torch.nn.Module) -> list[int]:
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


def without_useful(measurement: Measurement) -> Any:
    """Return the tidy frame without the useful ratio, which isn't known if weights aren't in memory."""
    return measurement.to_frame().drop(columns="useful_ratio")


def test_measurement_is_the_same_with_a_device_map(save_model: SaveModel) -> None:
    folder = save_model("llama")
    expected = measure(load_model(str(folder), device="cpu"), [BATCH])
    model = load_model(str(folder), device_map="auto")
    hooks = count_hooks(model)
    measurement = measure(model, [BATCH])
    assert measurement.to_frame().equals(expected.to_frame().assign(model=measurement.model))
    assert count_hooks(model) == hooks


def test_a_model_that_does_not_fit_into_memory_is_offloaded(
    save_model: SaveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is as large as two thirds of the weights, as far as transformers and accelerate know; the rest stays on the disk."""
    folder = save_model("llama")
    alone = load_model(str(folder), device="cpu")
    weights = sum(parameter.numel() * parameter.element_size() for parameter in alone.parameters())
    for place in ("accelerate.utils.modeling", "transformers.integrations.accelerate"):
        monkeypatch.setattr(f"{place}.get_max_memory", lambda max_memory=None: {"cpu": weights * 2 // 3})
    model = load_model(str(folder), device_map="auto")
    in_memory = [parameter for parameter in model.parameters() if parameter.device.type != "meta"]
    assert 0 < sum(parameter.numel() * parameter.element_size() for parameter in in_memory) < weights
    assert "disk" in model.hf_device_map.values()
    measurement, expected = measure(model, [BATCH]), measure(alone, [BATCH])
    assert without_useful(measurement).equals(without_useful(expected).assign(model=measurement.model))


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "phi3", "mixtral"])
def test_measurement_is_the_same_with_disk_offload(
    model_type: str, tiny_causal_lm: TinyCausalLM, tmp_path: Path
) -> None:
    """Offloading replaces the weights of a module by other tensors each time that the module runs."""
    from accelerate import disk_offload

    expected = measure(tiny_causal_lm(model_type).eval(), [BATCH])
    offloaded = disk_offload(tiny_causal_lm(model_type).eval(), str(tmp_path), execution_device=torch.device("cpu"))
    assert without_useful(measure(offloaded, [BATCH])).equals(without_useful(expected))


def test_encoder_decoder_batches_get_shifted_decoder_inputs() -> None:
    import transformers

    sizes = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0))
    batch = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    (shifted,) = with_decoder_inputs(model, [batch])
    assert shifted["input_ids"].tolist() == [[5, 6, 7]]
    assert shifted["decoder_input_ids"].tolist() == [[0, 5, 6]]
    assert shifted["decoder_attention_mask"].tolist() == [[1, 1, 0]]


def test_other_batches_get_no_decoder_inputs(tiny_causal_lm: TinyCausalLM) -> None:
    assert list(with_decoder_inputs(tiny_causal_lm("gpt2"), [BATCH])) == [BATCH]


def test_a_missing_tokenizer_is_told_from_a_missing_model(save_model: SaveModel, tmp_path: Path) -> None:
    with pytest.raises(ActratioError, match=r"has no tokenizer; name the model or folder that has it with --tokenizer"):
        load_tokenizer(str(save_model("gpt2")))
    with pytest.raises(ActratioError, match=r"holds neither a model nor a tokenizer; pass a folder"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(ActratioError, match=r"holds no model: it has no config\.json and no GGUF file"):
        load_model(str(tmp_path))
    for check in (load_model, load_tokenizer, check_model):
        with pytest.raises(ActratioError, match="'' names no model"):
            check("")
    with pytest.raises(
        ActratioError, match=r"^there is no folder owner/name, no model of this name in the local cache"
    ):
        load_tokenizer("owner/name")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("RepositoryNotFoundError", "and none on the Hugging Face hub; check the path or the name"),
        ("GatedRepoError", "is a gated model of the Hugging Face hub; ask for access"),
        ("ConnectError", r"and the Hugging Face hub can't be reached \(ConnectionError: no route\); check"),
    ],
)
def test_a_hub_id_is_asked_once_and_what_was_tried_is_said(
    error: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import constants, errors

    asked = []

    def model_info(self: Any, name: str, *, revision: str | None, timeout: float) -> None:
        asked.append((name, timeout))
        kind = getattr(errors, error, None)
        if kind is None:
            raise ConnectionError("no route. Please check your network")
        raise kind.__new__(kind)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for load in (load_model, load_tokenizer):
        with pytest.raises(ActratioError, match=words):
            load("owner/nosuch")
    assert asked == [("owner/nosuch", 10.0)] * 2


def test_offline_mode_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ActratioError, match="was not asked because HF_HUB_OFFLINE is set"):
        load_model("owner/nosuch")


@pytest.mark.parametrize(
    ("name", "dtype"), [("bfloat16", torch.bfloat16), ("bf16", torch.bfloat16), ("float16", torch.float16)]
)
def test_dtypes_have_the_names_of_torch_and_short_ones(name: str, dtype: torch.dtype, save_model: SaveModel) -> None:
    assert (
        load_model(str(save_model("llama")), device="cpu", dtype=name).get_parameter("model.norm.weight").dtype == dtype
    )


def test_weights_fingerprint_changes_with_one_bit_and_with_an_order(tiny_causal_lm: TinyCausalLM) -> None:
    model = tiny_causal_lm("gpt2")
    before = weights_fingerprint(model)
    assert weights_fingerprint(tiny_causal_lm("gpt2")) == before
    weight = model.get_parameter("transformer.h.1.mlp.c_fc.bias").data
    weight.view(torch.int32)[3] ^= 1
    assert weights_fingerprint(model) != before
    weight.view(torch.int32)[3] ^= 1
    assert weights_fingerprint(model) == before
    rows = model.get_parameter("transformer.h.1.mlp.c_proj.weight").data
    rows.copy_(rows.flip(0))
    assert weights_fingerprint(model) != before
    assert weights_fingerprint(model.half()) is not None
    assert weights_fingerprint(model.to("meta")) is None


def test_model_fingerprint_changes_with_one_byte(save_model: SaveModel) -> None:
    folder = save_model("gpt2")
    before = model_fingerprint(str(folder))
    assert model_fingerprint(str(folder)) == before
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    assert model_fingerprint(str(folder)) != before


@pytest.mark.parametrize("package", ["transformers", "psutil"])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"loading a model by name needs the package '{package}'.*run pip install \"actratio\[hf\]\""
    with pytest.raises(ActratioError, match=message):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("GPT2", {"n_positions": 20}, 20),
        ("OPT", {"max_position_embeddings": 20, "ffn_dim": 32, "word_embed_proj_dim": 16}, 20),
        ("Roberta", {"max_position_embeddings": 20, "intermediate_size": 32}, 18),  # its table begins with padding
        ("Llama", {"max_position_embeddings": 20, "intermediate_size": 32}, None),  # it rotates
    ],
)
def test_the_longest_sequence_that_a_model_reads(kind: str, options: dict[str, Any], expected: int | None) -> None:
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=50, **options
    )
    model = getattr(transformers, f"{kind}Model")(config).eval()
    assert most_tokens(model) == expected
    with torch.no_grad():
        model(torch.full((1, expected or 40), 5))
        if expected is not None:
            with pytest.raises((IndexError, RuntimeError)):
                model(torch.full((1, expected + 1), 5))


def test_the_longest_sequence_of_other_modules_is_unknown() -> None:
    assert most_tokens(torch.nn.Embedding(4, 2)) is None


def test_the_positions_of_images_are_not_those_of_text() -> None:
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**size, "vocab_size": 50, "max_position_embeddings": 30},
        vision_config={**size, "image_size": 8, "patch_size": 4},
    )
    assert most_tokens(transformers.CLIPModel(config)) == 30
