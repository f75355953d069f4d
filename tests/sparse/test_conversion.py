"""``sparsify`` and ``densify``: which MLPs are converted, what stays as it was, and errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import actratio
from actratio import ActratioError, measure
from actratio.sparse import densify, plans, sparsify
from actratio.sparse.crossover import ALWAYS, BATCHES, RATIOS, ShapeSpeeds
from tests.sparse.models import KINDS, Gated, Plain, X, dense_model, sparse_model


@pytest.mark.parametrize("kind", KINDS)
def test_sparsify_keeps_the_state_dict_and_stores_weights_once(kind: Callable[[], nn.Module]) -> None:
    model = dense_model(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sparse_model(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in after.values()}
    assert sum(storages.values()) == sum(value.nbytes for value in before.values())
    other = dense_model(kind)
    sparse_model(other).load_state_dict(before)
    torch.testing.assert_close(other(X), model(X))


@pytest.mark.parametrize("kind", KINDS)
def test_densify_restores_the_model(kind: Callable[[], nn.Module]) -> None:
    model, untouched = dense_model(kind), dense_model(kind)
    densify(sparse_model(model))
    assert plans(model) == []
    assert torch.equal(model(X), untouched(X))
    for restored, original in zip(model.modules(), untouched.modules(), strict=True):
        assert type(restored) is type(original)
        assert set(vars(restored)) == set(vars(original))
    for restored, original in zip(model.parameters(), untouched.parameters(), strict=True):
        assert restored.stride() == original.stride()


def test_sparsify_leaves_an_mlp_without_zeros_dense() -> None:
    model = sparsify(
        dense_model(lambda: Plain(nn.GELU())), measure(dense_model(lambda: Plain(nn.GELU())), [X]), crossover=ALWAYS
    )
    assert {(plan.kind, plan.why) for plan in plans(model)} == {("dense", "gelu has no true zeros")}


def test_sparsify_also_converts_named_layers(sparse_randn: Callable[..., Tensor]) -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    x = sparse_randn(6, 16, ratio=0.2)
    with torch.no_grad():
        expected = model(x)
        sparsify(model, measure(model, [x]), crossover=ALWAYS, also={"0": 0.2})
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    assert [type(layer).__name__ for layer in model] == ["SparseLinear", "ReLU", "SparseLinear"]
    densify(model)
    assert type(model[0]) is nn.Linear
    with pytest.raises(ActratioError, match="1 is not a linear layer"):
        sparsify(model, measure(model, [x]), crossover=ALWAYS, also={"1": 0.2})


def of_all_batches(sparse: float, dense: float) -> ShapeSpeeds:
    return ShapeSpeeds(((sparse,) * len(RATIOS),) * len(BATCHES), (dense,) * len(BATCHES))


def test_sparsify_leaves_an_mlp_that_is_hardly_faster_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actratio.sparse.conversion.shape_speeds", lambda timer: of_all_batches(1.05, 1.0))
    model = sparsify(dense_model(Gated), measure(dense_model(Gated), [X]))
    assert {(plan.kind, plan.why) for plan in plans(model)} == {
        ("dense", "the dense product is faster on this machine, or hardly slower")
    }
    assert {type(module) for module in model.modules()} == {type(module) for module in dense_model(Gated).modules()}


def test_plans_name_the_batch_sizes_that_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = of_all_batches(4.0, 1.0)
    speeds = replace(speeds, sparse=(*speeds.sparse[:-1], (0.5,) * len(RATIOS)), dense=(*speeds.dense[:-1], 0.8))
    monkeypatch.setattr("actratio.sparse.conversion.shape_speeds", lambda timer: speeds)
    for plan in plans(sparsify(dense_model(Plain), measure(dense_model(Plain), [X]))):
        assert plan.kind == "down"
        assert plan.why.endswith("; slower than dense for batches of 128 (0.80×)")
        assert plan.crossover.ratios == (1.0,) * (len(BATCHES) - 1) + (0.0,)


def test_sparsify_errors() -> None:
    model = dense_model(Plain)
    with pytest.raises(ActratioError, match="no site 'nowhere'"):
        sparsify(model, measure(model, [X]), thresholds={"nowhere": torch.zeros(96)})
    with pytest.raises(ActratioError, match="does not say what it reads"):
        sparsify(nn.Linear(2, 2))
    with pytest.raises(ActratioError, match=r"has 96 neurons, and thresholds of the shape \(5,\)"):
        sparsify(model, measure(model, [X]), thresholds={"blocks.0": torch.zeros(5)})
    other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ActratioError, match="a measurement of this model"):
        sparsify(other, measure(model, [X]))
    with pytest.raises(ActratioError, match="the measurement is a list; give what"):
        sparsify(model, [X])  # type: ignore[arg-type]
    with pytest.raises(ActratioError, match="the model is of type NoneType"):
        sparsify(None)  # type: ignore[arg-type]
    with pytest.raises(ActratioError, match="also has the share 18 for head"):
        sparsify(model, measure(model, [X]), also={"head": 18})


@pytest.mark.parametrize("options", [{}, {"dense": True}, {"weights": "int8"}])
def test_a_model_built_in_inference_mode_is_refused(options: dict[str, Any]) -> None:
    with torch.inference_mode():
        model = dense_model(Plain)
    with pytest.raises(
        ActratioError, match=r"blocks\.0\.\S+ was made in torch\.inference_mode, so the model cannot be"
    ):
        sparsify(model, crossover=ALWAYS, **options)


def test_sparsify_measures_the_crossover(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACTRATIO_CACHE", str(tmp_path))
    model = sparsify(dense_model(Plain), measure(dense_model(Plain), [X]))
    (first, second) = plans(model)
    assert first.crossover == second.crossover
    assert all(0 <= ratio <= 1 for ratio in first.crossover.ratios)
    with torch.no_grad():
        torch.testing.assert_close(model(X), dense_model(Plain)(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["opt", "gpt2", "llama"])
def test_sparsified_transformers_generate_the_same_tokens(kind: str) -> None:
    import transformers

    torch.manual_seed(0)
    size = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    configs = {
        "opt": lambda: transformers.OPTConfig(**size, ffn_dim=64, word_embed_proj_dim=32, activation_function="relu"),
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=64, n_embd=32, n_layer=2, n_head=4, activation_function="relu"
        ),
        "llama": lambda: transformers.LlamaConfig(**size, intermediate_size=64, hidden_act="relu"),
    }
    model = transformers.AutoModelForCausalLM.from_config(configs[kind]()).eval()
    ids = torch.arange(3, 9).view(1, 6)
    options: Any = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        logits, tokens = model(ids).logits, model.generate(ids, **options)
        actratio.sparsify(model, measure(model, [{"input_ids": ids}]), crossover=ALWAYS)
        torch.testing.assert_close(model(ids).logits, logits, rtol=1e-4, atol=1e-5)
        assert torch.equal(model.generate(ids, **options), tokens)
    assert {plan.kind for plan in plans(model)} == {"gated" if kind == "llama" else "down"}
    densify(model)


def test_sparsified_transformer_is_saved_with_save_pretrained(tmp_path: Path) -> None:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        hidden_act="relu",
    )
    model = transformers.LlamaForCausalLM(config).eval()
    ids = torch.arange(3, 9).view(1, 6)
    sparsify(model, measure(model, [{"input_ids": ids}]), crossover=ALWAYS)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
        torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_sparsify_leaves_shared_and_computed_weights_dense() -> None:
    model = dense_model(Plain)
    nn.utils.spectral_norm(model.get_submodule("blocks.0.down"))
    tied = model.get_submodule("blocks.1")
    tied.down.weight = nn.Parameter(tied.up.weight.t())  # type: ignore[operator, union-attr]
    expected = model.eval()(X)
    sparse_model(model)
    assert [plan.why for plan in plans(model)] == [
        "its weight is computed, as by a parametrization",
        "its weight shares memory with another parameter or another process",
    ]
    torch.testing.assert_close(model(X), expected)
    assert tied.down.weight.data_ptr() == tied.up.weight.data_ptr()  # type: ignore[operator, union-attr]


def test_refused_sparsify_leaves_the_model_dense() -> None:
    model = dense_model(Gated)
    with pytest.raises(ActratioError, match="nope is not a linear layer"):
        sparse_model(model, also={"nope": 0.5})
    assert {type(module) for module in model.modules()} == {type(module) for module in dense_model(Gated).modules()}


def test_thresholds_of_an_mlp_with_a_shared_down_projection_are_refused() -> None:
    model = dense_model(lambda: Plain(nn.GELU()))
    model.get_submodule("blocks.1").down = model.get_submodule("blocks.0").down
    with pytest.raises(
        ActratioError, match=r"blocks\.0 cannot have thresholds: another MLP has the same down projection"
    ):
        sparse_model(model, thresholds={"blocks.0": torch.full((96,), 0.3)})
    assert plans(model) == []


def test_thresholds_without_a_kernel_are_refused() -> None:
    """The dense model would compute without them."""
    model, thresholds = dense_model(lambda: Plain(nn.GELU())), {"blocks.0": torch.full((96,), 0.3)}
    measurement = measure(model, [X])
    sparsify(model, measurement, thresholds=thresholds, crossover=ALWAYS)
    message = r"blocks\.0 cannot have thresholds: there is no kernel for torch\.float64 on cpu"
    with pytest.raises(ActratioError, match=message):
        sparsify(model.double(), measurement, thresholds=thresholds, crossover=ALWAYS)
    assert plans(model) == []
    assert type(model.get_submodule("blocks.0.down")) is nn.Linear


class GatedWithDropout(Gated):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = nn.functional.dropout(super().forward(x), 0.5, self.training)
        return out


def test_gated_mlp_with_dropout_is_converted_in_training_mode() -> None:
    model = dense_model(GatedWithDropout)
    model.train()
    sparse_model(model)
    assert {plan.kind for plan in plans(model)} == {"gated"}
    assert all(module.training for module in model.modules())
