"""Models of transformers', tiny and untrained: what is found in them, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from actratio import ActratioError, cli, find_sites, measure
from actratio.models import load_model

COMMON = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "mixtral": {"num_local_experts": 4},
    "gpt_oss": {"num_local_experts": 4},
    "llama4_text": {"num_local_experts": 4, "intermediate_size_mlp": 48},
}


def tiny(kind: str) -> Any:
    """A model for text that goes on, of a type that transformers knows."""
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **COMMON, **OWN.get(kind, {}))
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder that a tiny model was saved to."""

    def save(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        tiny(kind).save_pretrained(folder)
        return folder

    return save


@pytest.mark.parametrize(
    ("kind", "name", "role", "function", "width", "gated"),
    [
        ("gpt2", "transformer.h.{}.mlp", "mlp", "newgelu", 128, False),
        ("llama", "model.layers.{}.mlp", "mlp", "silu", 48, True),
        ("opt", "model.decoder.layers.{}", "mlp", "relu", 48, False),
        ("phi3", "model.layers.{}.mlp", "mlp", "silu", 48, True),
        ("lfm2", "model.layers.{}.feed_forward", "mlp", "silu", 256, True),
        ("bert", "bert.encoder.layer.{}.intermediate", "mlp", "gelu", 48, False),
    ],
)
def test_dense_models(kind: str, name: str, role: str, function: str, width: int, gated: bool) -> None:
    found = find_sites(tiny(kind))
    assert [site.name for site in found] == [name.format(layer) for layer in range(2)]
    assert {(site.role, site.function, site.width, site.gated, site.calls) for site in found} == {
        (role, function, width, gated, 1)
    }


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_experts_are_found_however_they_are_computed(kind: str, implementation: str) -> None:
    model = tiny(kind)
    model.set_experts_implementation(implementation)
    found = find_sites(model)
    assert [site.name for site in found] == [f"model.layers.{n}.mlp.experts.{e}" for n in range(2) for e in range(4)]
    assert {(site.role, site.gated, site.calls) for site in found} == {("expert", True, 1)}


def test_a_shared_expert_is_told_from_the_routed_ones() -> None:
    roles = [site.role for site in find_sites(tiny("llama4_text"))]
    assert roles == (["expert"] * 4 + ["shared expert"]) * 2


def test_a_state_space_model_has_no_mlp() -> None:
    with pytest.raises(ActratioError, match=r"the model has no MLP; its activations are .*state-space"):
        find_sites(tiny("mamba"))


def test_the_command_lists_them(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(saved("mixtral"))
    monkeypatch.setattr(sys, "argv", ["actratio", "sites", folder, "--sites", "*.experts.0,*.experts.3", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["name"] for row in rows] == [f"model.layers.{n}.mlp.experts.{e}" for n in range(2) for e in (0, 3)]


def test_weights_in_pickle_are_loaded_only_when_asked_for(saved: Callable[[str], Path]) -> None:
    folder = saved("llama")
    model = load_model(str(folder), device="cpu")
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ActratioError, match="--allow-pickle"):
        load_model(str(folder), device="cpu")
    again = load_model(str(folder), device="cpu", allow_pickle=True)
    assert torch.equal(again.get_parameter("model.norm.weight"), model.get_parameter("model.norm.weight"))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("/nowhere", {}, "/nowhere is not a folder"),
        ("owner/name", {}, "owner/name could not be loaded"),
        (".", {"dtype": "fp8"}, "no dtype 'fp8'"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(name: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(ActratioError, match=words) as raised:
        load_model(name, **options)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_more_weights_than_free_memory_is_one_sentence_before_loading(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    folder = saved("llama")
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
            with pytest.raises(ActratioError, match=r"GB of weights and cpu has .* GB free"):
                load_model(str(folder), device="cpu", dtype=dtype)


def test_a_model_spread_by_a_device_map_is_measured_alike(saved: Callable[[str], Path]) -> None:
    folder = saved("llama")
    batch = {"input_ids": torch.arange(1, 19).view(2, 9)}
    whole = measure(load_model(str(folder), device="cpu"), [batch])
    spread = load_model(str(folder), device_map="auto")
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in spread.modules()]
    found = measure(spread, [batch])
    assert found.to_frame().equals(whole.to_frame().assign(model=found.model))
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in spread.modules()]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi3", "mixtral"])
def test_weights_that_wait_on_the_disk_are_known_when_they_come(
    kind: str, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    """Offloading puts other tensors in the place of a module's weights each time that it runs."""
    from accelerate import disk_offload

    batch = {"input_ids": torch.arange(1, 19).view(2, 9)}
    whole = measure(tiny(kind).eval(), [batch])
    offloaded = disk_offload(tiny(kind).eval(), str(tmp_path), execution_device=torch.device("cpu"))
    assert measure(offloaded, [batch]).to_frame().equals(whole.to_frame())
