"""Pruning removes dead neurons, and the model computes the same."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from actratio import ActratioError, Measurement, measure, prune
from actratio.sites.mlps import resolve
from actratio.sparse import calibrate, measure_and_prune
from actratio.sparse.saved import check_folder
from tests.conftest import ROOT
from tests.sparse.calibration_text import token_batches


def tiny(kind: str) -> Any:
    import transformers

    torch.manual_seed(0)
    size = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    configs: dict[str, Any] = {
        "opt": lambda: transformers.OPTConfig(**size, ffn_dim=64, word_embed_proj_dim=32, activation_function="relu"),
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=64, n_embd=32, n_layer=2, n_head=4, activation_function="relu"
        ),
        "llama": lambda: transformers.LlamaConfig(**size, intermediate_size=64, hidden_act="relu", mlp_bias=True),
    }
    return transformers.AutoModelForCausalLM.from_config(configs[kind]()).eval()


def silence(model: Any, number: int) -> None:
    """Let the first neurons of each layer, one more in the second, never fire."""
    for layer, projection in enumerate(first_projections(model)):
        count = number + layer
        weight = projection.weight.data if isinstance(projection, nn.Linear) else projection.weight.data.t()
        weight[:count] = 0
        projection.bias.data[:count] = -1


def first_projections(model: Any) -> list[Any]:
    """Return the linear layers that the activation functions read."""
    return [
        module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in ("fc1", "gate_proj") or name.endswith("mlp.c_fc")
    ]


IDS = {"input_ids": torch.arange(3, 11).view(1, 8)}


@pytest.mark.parametrize("kind", ["opt", "gpt2", "llama"])
def test_pruned_model_computes_the_same_and_loads_with_transformers(kind: str, tmp_path: Path) -> None:
    import transformers

    model = tiny(kind)
    silence(model, 5)
    with torch.no_grad():
        expected = model(**IDS).logits
    parameters = sum(parameter.numel() for parameter in model.parameters())
    measurement = measure(model, [IDS])
    dead = [int(row.counts.dead) for row in measurement if row.tensor == "activation"]
    pruning = prune(model, measurement, [IDS])
    before = pruning.mlps[0].before
    assert [mlp.dead for mlp in pruning.mlps] == dead
    assert all(mlp.certain == 5 + layer for layer, mlp in enumerate(pruning.mlps))
    assert {mlp.width for mlp in pruning.mlps} == {before - min(dead)}
    assert pruning.to_frame()["width"].tolist() == [before - min(dead)] * 2
    assert pruning.smaller
    assert (pruning.parameters_before, pruning.tokens) == (parameters, 8)
    assert f"{parameters:,} parameters became {pruning.parameters:,}" in pruning.verdict
    with torch.no_grad():
        torch.testing.assert_close(model(**IDS).logits, expected, rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**IDS).logits, expected, rtol=1e-4, atol=1e-5)
    assert sum(parameter.numel() for parameter in again.parameters()) == pruning.parameters


def other_architecture(kind: str) -> Any:
    import transformers

    torch.manual_seed(0)
    both = {
        f"{part}_{name}": value
        for part in ("encoder", "decoder")
        for name, value in (("layers", 2), ("attention_heads", 4))
    }
    size: Any = {"vocab_size": 64, "d_model": 32, "max_position_embeddings": 64, "activation_function": "relu", **both}
    if kind == "bart":
        config: Any = transformers.BartConfig(**size, encoder_ffn_dim=64, decoder_ffn_dim=48)
        return transformers.BartForConditionalGeneration(config).eval()
    if kind == "neo":
        config = transformers.GPTNeoConfig(
            vocab_size=64, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global"], 2]], activation_function="relu"
        )  # fmt: skip
        return transformers.GPTNeoForCausalLM(config).eval()
    if kind == "composite":
        parts = [
            transformers.BertConfig(
                vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, hidden_act="relu",
                **({"is_decoder": True, "add_cross_attention": True} if decodes else {}),
            )
            for decodes in (False, True)
        ]  # fmt: skip
        return transformers.EncoderDecoderModel(
            transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*parts)
        ).eval()
    config = transformers.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
    model = transformers.BloomForCausalLM(config).eval()
    for block in model.transformer.h:
        block.mlp.gelu_impl = nn.ReLU()
    return model


@pytest.mark.parametrize("kind", ["bart", "neo", "composite"])
def test_every_width_of_a_configuration_is_updated(kind: str, tmp_path: Path) -> None:
    model = other_architecture(kind)
    for name, module in model.named_modules():
        if name.endswith(("fc1", "mlp.c_fc", "intermediate.dense")):
            module.weight.data[:5] = 0
            module.bias.data[:5] = -1
    inputs = dict(IDS) if kind == "neo" else {**IDS, "decoder_input_ids": IDS["input_ids"]}
    with torch.no_grad():
        expected = model(**inputs).logits
    pruned = prune(model, measure(model, [inputs])).mlps  # only neurons that can't fire
    assert all(mlp.certain == 5 and mlp.width == mlp.before - 5 for mlp in pruned)
    assert len(pruned) == (2 if kind == "neo" else 4)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, expected, rtol=1e-4, atol=1e-5)


def test_configuration_that_cannot_express_the_width_is_refused() -> None:
    model = other_architecture("bloom")
    for block in model.transformer.h:
        block.mlp.dense_h_to_4h.weight.data[:5] = 0
        block.mlp.dense_h_to_4h.bias.data[:5] = -1
    shapes = [parameter.shape for parameter in model.parameters()]
    with pytest.raises(ActratioError, match="would not load again; nothing was changed"):
        prune(model, measure(model, [IDS]))
    assert [parameter.shape for parameter in model.parameters()] == shapes


def test_mlps_that_were_not_measured_keep_the_shared_width() -> None:
    model = tiny("opt")
    silence(model, 5)
    measurement = measure(model, [IDS], sites="model.decoder.layers.0*")
    pruning = prune(model, measurement, [IDS])
    assert [mlp.width for mlp in pruning.mlps] == [64]
    assert "for all these MLPs, and model.decoder.layers.1 was not measured, so" in pruning.verdict
    assert not pruning.smaller
    assert model.config.ffn_dim == 64


def test_without_a_check_only_neurons_that_cannot_fire_are_removed() -> None:
    model = tiny("llama")
    silence(model, 3)
    pruned = prune(model, measure(model, [IDS])).mlps
    assert any(mlp.dead > mlp.certain for mlp in pruned)
    assert {mlp.width for mlp in pruned} == {61}


def test_neurons_that_fire_on_the_check_undo_the_change() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
    measurement = measure(model, [torch.tensor([[1.0, -1.0]])])
    other = torch.tensor([[-1.0, 1.0]])
    expected = model(other)
    with pytest.raises(ActratioError, match="some fire there"):
        prune(model, measurement, [other])
    assert torch.equal(model(other), expected)
    assert model[0].out_features == 2
    (mlp,) = prune(model, measurement, [torch.tensor([[2.0, -1.0]])]).mlps
    assert (mlp.before, mlp.width, mlp.dead, mlp.certain) == (2, 1, 1, 0)
    assert model[0].weight.shape == (1, 2)
    assert model[2].weight.shape == (1, 1)


def test_model_without_zeros_is_not_pruned() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 1))
    pruning = prune(model, measure(model, [torch.rand(3, 2)]), [torch.rand(3, 2)])
    assert pruning.rows() == []
    assert pruning.verdict == "No neuron can be removed: gelu has no true zeros."


def test_verdict_says_which_layer_keeps_the_width_that_others_share() -> None:
    model = tiny("opt")
    projections = first_projections(model)
    projections[1].weight.data[:6] = 0
    projections[1].bias.data[:6] = -1
    projections[0].bias.data += 100  # every neuron of layer 0 fires
    pruning = prune(model, measure(model, [IDS]), [IDS])
    assert not pruning.smaller
    dead = pruning.mlps[1].dead
    assert dead >= 6
    assert pruning.verdict == (
        "No neuron can be removed: the configuration has one width, 64, for all these MLPs, and layer 0 (model.decoder.layers.0) has no "
        f"neuron that can be removed, so model.decoder.layers.1 keeps its {dead} dead neurons too."
    )


def test_verdict_says_if_one_dead_neuron_is_all_there_is() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1))
    model[0].bias.data.fill_(-10)
    pruning = prune(model, measure(model, [torch.rand(3, 2)]), [torch.rand(3, 2)])
    assert pruning.verdict == "No neuron can be removed: every MLP keeps at least one neuron."


def test_verdict_says_if_every_neuron_fired() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    model[0].bias.data.fill_(10)
    pruning = prune(model, measure(model, [torch.rand(3, 2)]), [torch.rand(3, 2)])
    assert pruning.verdict == "No neuron can be removed: every neuron fired."


def test_verdict_says_if_silent_neurons_need_a_check() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    model[0].bias.data.copy_(torch.tensor([10.0, -10.0]))
    pruning = prune(model, measure(model, [torch.rand(3, 2)]))
    assert pruning.mlps[0].dead == 1
    assert "some neurons did not fire, but could fire on other inputs; give inputs to check" in pruning.verdict


def test_verdict_says_if_neurons_were_not_counted() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU6(), nn.Linear(2, 1))
    pruning = prune(model, measure(model, [torch.rand(3, 2)], criteria=["above(0.1)"]), [torch.rand(3, 2)])
    assert pruning.verdict.endswith("were not counted; measure with the criterion nonzero.")


@pytest.mark.parametrize("whole", [False, True])
def test_model_in_training_mode_is_pruned_in_evaluation_mode(whole: bool) -> None:
    model = tiny("opt").train()
    assert model.model.decoder.layers[0].dropout > 0
    silence(model, 5)
    batches = [{"input_ids": torch.arange(3 + number, 11 + number).view(1, 8)} for number in range(4)]
    pruning = measure_and_prune(model, batches) if whole else prune(model, measure(model, batches), batches)
    assert pruning.smaller
    assert all(module.training for module in model.modules())


def test_prune_refuses_a_calibration_and_a_check_that_is_no_list(tiny_gpt2: Callable[..., Any]) -> None:
    model = tiny_gpt2()
    calibration: Any = calibrate(model, token_batches(4), ratio=0.4)
    with pytest.raises(ActratioError, match="prune got a Calibration instead of a measurement"):
        prune(model, calibration)
    for check, kind in ((IDS, "dict"), (IDS["input_ids"], "Tensor")):
        with pytest.raises(ActratioError, match=rf"check is a {kind}; give a list of inputs, such as \[inputs\]"):
            prune(model, calibration.measurement, check)
    with pytest.raises(ActratioError, match="batch 1 is a Tensor; give mappings"):
        measure_and_prune(model, [IDS["input_ids"]] * 4)  # type: ignore[list-item]


def imported_modules(module: str) -> set[str]:
    """Return the modules of actratio that a module imports when it is loaded, directly or through others.

    The packages' own ``__init__`` modules are left out: they export the whole package.
    """
    imported, waiting = {module}, [module]
    while waiting:
        spec = find_spec(waiting.pop())
        assert spec is not None
        assert spec.origin is not None
        for statement in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
            if not isinstance(statement, ast.ImportFrom) or not (statement.module or "").startswith("actratio"):
                continue
            names = [f"{statement.module}.{alias.name}" for alias in statement.names]
            for name in (statement.module or "", *names):
                path = ROOT / "src" / name.replace(".", "/")
                if path.with_suffix(".py").is_file() and name not in imported:
                    imported.add(name)
                    waiting.append(name)
    return imported


def test_pruning_imports_no_kernel() -> None:
    code = "import sys, actratio.sparse.pruning; print([name for name in ('numba', 'triton') if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
    assert "actratio.sparse.kernels.dispatch" in imported_modules("actratio.sparse.conversion")
    assert not [
        name for name in imported_modules("actratio.sparse.pruning") if name.startswith("actratio.sparse.kernels")
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_pruning_needs_no_kernel(dtype: torch.dtype) -> None:
    """No sparse product takes these types on a CPU."""
    model = tiny("opt").to(dtype)
    silence(model, 5)
    with torch.no_grad():
        expected = model(**IDS).logits
    pruning = prune(model, measure(model, [IDS]), [IDS], tolerance=0.01)
    assert pruning.smaller
    with torch.no_grad():
        torch.testing.assert_close(model(**IDS).logits, expected, rtol=0.01, atol=0.01)


def test_pruning_without_any_kernel_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise AssertionError("pruning asked for a kernel")

    monkeypatch.setattr("actratio.sparse.kernels.dispatch.has_kernel", fail)
    model = tiny("llama")
    silence(model, 5)
    assert prune(model, measure(model, [IDS]), [IDS]).smaller


def test_resolved_mlps_are_not_traced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("opt")
    silence(model, 5)
    measurement, mlps = measure(model, [IDS]), resolve(model)
    monkeypatch.setattr("actratio.sparse.pruning.trace", None)
    assert prune(model, measurement, [IDS], mlps=mlps).smaller


def test_measure_and_prune_checks_on_the_last_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("opt")
    silence(model, 5)
    batches = [{"input_ids": torch.arange(3 + number, 11 + number).view(1, 8)} for number in range(5)]
    checked: list[Any] = []

    def spy(model: nn.Module, measurement: Measurement, check: list[Any], **options: Any) -> Any:
        checked.extend(check)
        return prune(model, measurement, check, **options)

    monkeypatch.setattr("actratio.sparse.pruning.prune", spy)
    pruning = measure_and_prune(model, batches)
    assert pruning.tokens == 4 * 8
    assert [batch["input_ids"].tolist() for batch in checked] == [batches[4]["input_ids"].tolist()]
    with pytest.raises(ActratioError, match=r"makes too few batches \(3 of 4\)"):
        measure_and_prune(model, batches[:3])


def test_refused_pruning_leaves_the_configuration_unchanged() -> None:
    model = tiny("opt")
    for up in first_projections(model):
        up.weight.data.mul_(50)
        up.bias.data.fill_(-1)
    measurement = measure(model, [IDS])
    other = {"input_ids": torch.arange(11, 63).view(1, 52)}
    with torch.no_grad():
        expected = model(**other).logits
    with pytest.raises(ActratioError, match="some fire there"):
        prune(model, measurement, [other])
    assert model.config.ffn_dim == 64
    with torch.no_grad():
        assert torch.equal(model(**other).logits, expected)


def test_neurons_that_can_fire_stay_before_those_that_cannot() -> None:
    model = tiny("opt")
    first, second = first_projections(model)
    for up, number in ((first, 7), (second, 0)):
        up.bias.data.fill_(1)
        up.bias.data[number] = -1
        up.weight.data[number] = 0
    first.bias.data[3] = -1  # did not fire, and could
    pruned = prune(model, measure(model, [IDS]), [IDS]).mlps
    assert [(mlp.dead, mlp.certain, mlp.width) for mlp in pruned] == [(2, 1, 63), (1, 1, 63)]
    assert first.bias.tolist() == [1.0] * 3 + [-1.0] + [1.0] * 59
    assert bool(first.weight.any(1).all())


class OddMLP(nn.Module):
    """An MLP whose hidden state is read or written by other layers too."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.up, self.act, self.down = kind, nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 4)
        self.other = nn.LayerNorm(12) if kind == "norm" else nn.Linear(12, 4)
        self.second = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.act(self.up(x))
        if self.kind == "norm":
            h = self.other(h)
        out: torch.Tensor = x + self.down(h)
        if self.kind == "two readers":
            out = out + self.other(h)
        if self.kind == "two MLPs":
            out = out + self.second(self.act(self.up(out)))
        return out


@pytest.mark.parametrize("kind", ["norm", "two readers", "two MLPs"])
def test_model_that_fails_without_the_neurons_is_unchanged(kind: str) -> None:
    torch.manual_seed(0)
    model = OddMLP(kind)
    model.up.weight.data[3:6] = 0
    model.up.bias.data[3:6] = -1
    x = torch.randn(3, 4)
    measurement = measure(model, [x])
    with torch.no_grad():
        expected = model(x)
    with pytest.raises(ActratioError, match="nothing was changed"):
        prune(model, measurement, [x])
    with torch.no_grad():
        assert torch.equal(model(x), expected)


def test_refused_pruning_leaves_consecutive_mlps_unchanged() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 2))
    measurement, other = measure(model, [torch.randn(1, 4)]), torch.randn(50, 4)
    with torch.no_grad():
        expected = model(other)
    with pytest.raises(ActratioError, match="some fire there"):
        prune(model, measurement, [other])
    with torch.no_grad():
        assert torch.equal(model(other), expected)


def test_model_without_a_check_or_known_inputs_is_refused() -> None:
    model = OddMLP("")
    model.up.weight.data[3:6] = 0
    model.up.bias.data[3:6] = -1
    with pytest.raises(ActratioError, match="does not say what it reads"):
        prune(model, measure(model, [torch.randn(3, 4)]))


def test_folder_that_cannot_be_replaced_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "real")
    for folder in (tmp_path / "file" / "x", tmp_path / "link", Path(".")):
        with pytest.raises(ActratioError, match="choose another "):
            check_folder(folder, "pruned.json")
