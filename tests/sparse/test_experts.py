"""Experts with stacked weights that skip their inactive neurons."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actratio import ActratioError, find_sites, measure, predict_speed
from actratio.sites.experts import StackedExperts, stacked_experts
from actratio.sparse import calibrate, densify, plans, sparsify
from actratio.sparse.autotune import LayerTimer
from actratio.sparse.crossover import ALWAYS, NEVER
from actratio.sparse.experts import SparseExperts
from tests.sparse.test_gated_gates import assert_same

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
IDS = torch.arange(3, 27).view(2, 12)
INPUTS = {"input_ids": IDS}
GATED = "neurons whose gate is zero are skipped in the up and the down projection"
SHARED = "experts share one weight, which is not supported"


def mixtral(dtype: torch.dtype = torch.float32, activation: str = "relu") -> Any:
    import transformers

    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, num_local_experts=4,
        num_key_value_heads=4, hidden_act=activation, pad_token_id=0,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config).to(dtype).eval()


def sparse(model: Any, **options: Any) -> Any:
    return sparsify(model, measure(model, [INPUTS], criteria=["nonzero"]), **{"crossover": ALWAYS, **options})


def experts_of(model: nn.Module, layer: int = 0) -> Any:
    return model.get_submodule(f"model.layers.{layer}.mlp.experts")


def routed(tokens: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, the experts of each, of which the last one has none, and their weights."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(tokens, 32, generator=generator)
    index = torch.rand(tokens, 3, generator=generator).topk(2).indices
    return x.to(dtype), index, torch.rand(tokens, 2, generator=generator).to(dtype)


@contextmanager
def no_dense_experts(model: nn.Module) -> Iterator[None]:
    """Fail if the dense module of the first layer's experts is called."""
    experts = experts_of(model)
    kind = type("Refusing", (), {"forward": lambda *_: pytest.fail("the dense experts were called")})
    before = type(experts)._dense_class
    type(experts)._dense_class = kind
    try:
        yield
    finally:
        type(experts)._dense_class = before


@BOTH
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@torch.no_grad()
def test_sparse_mixtral_computes_what_the_dense_one_does(dtype: torch.dtype, implementation: str) -> None:
    model, dense = mixtral(dtype), mixtral(dtype)
    for network in (model, dense):
        network.set_experts_implementation(implementation)
    sparse(model)
    assert {(plan.kind, plan.why) for plan in plans(model)} == {("gated", GATED)}
    assert [plan.site.name for plan in plans(model)][:2] == [f"model.layers.0.mlp.experts.{n}" for n in range(2)]
    assert all(0.3 < plan.ratio < 0.7 for plan in plans(model))
    with no_dense_experts(model):
        for ids in (IDS, IDS[:1], IDS[:1, :1]):
            assert_same(model(ids).logits, dense(ids).logits)
    options: Any = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(IDS)}
    assert torch.equal(model.generate(IDS, **options), dense.generate(IDS, **options))


@BOTH
@pytest.mark.parametrize("tokens", [0, 1, 2, 50])
@pytest.mark.parametrize("crossover", [ALWAYS, NEVER])
@torch.no_grad()
def test_experts_match_for_any_number_of_tokens(dtype: torch.dtype, tokens: int, crossover: Any) -> None:
    model, arguments = sparse(mixtral(dtype), crossover=crossover), routed(tokens, dtype)
    dense = experts_of(mixtral(dtype))
    dense.config._experts_implementation = "eager"  # the others refuse to have no tokens
    with no_dense_experts(model):
        found = experts_of(model)(*arguments)
    assert found.dtype == dtype
    assert_same(found, dense(*arguments))


@BOTH
@torch.no_grad()
def test_weights_of_inactive_neurons_are_not_read(dtype: torch.dtype) -> None:
    model, (x, index, weights) = sparse(mixtral(dtype)), routed(5, dtype)
    experts: Any = experts_of(model)
    expected = experts_of(mixtral(dtype))(x, index, weights)
    poisoned = 0
    for expert in range(4):
        gates = x[(index == expert).any(1)] @ experts.gate_up_proj[expert, :48].t()
        silent = (gates <= 0).all(0)
        poisoned += int(silent.sum())
        experts.gate_up_proj[expert, 48:][silent] = torch.nan
        experts.down_proj[expert][:, silent] = torch.nan
    assert poisoned > 48  # the expert without tokens, and neurons of others
    assert_same(experts(x, index, weights), expected)
    assert densify(model).get_submodule("model.layers.0.mlp.experts")(x, index, weights).isnan().any()


def test_densify_and_state_dict() -> None:
    model, untouched = mixtral(), mixtral()
    sparse(model)
    assert isinstance(experts_of(model), SparseExperts)
    assert type(experts_of(model)).__name__ == "SparseMixtralExperts"
    before, after = untouched.state_dict(), model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert after["model.layers.0.mlp.experts.down_proj"].transpose(1, 2).is_contiguous()
    densify(model)
    assert plans(model) == []
    for restored, original in zip(model.modules(), untouched.modules(), strict=True):
        assert type(restored) is type(original)
        assert set(vars(restored)) == set(vars(original))
    for restored, original in zip(model.parameters(), untouched.parameters(), strict=True):
        assert restored.stride() == original.stride()
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, untouched(IDS).logits)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_match(training: bool) -> None:
    model, dense = sparse(mixtral()).train(training), mixtral().train(training)
    for network in (model, dense):
        network(IDS, labels=IDS).loss.backward()
    for actual, expected in zip(model.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-4, atol=1e-5)
    densify(model)
    experts = experts_of(model)
    assert experts.down_proj.grad.stride() == experts.down_proj.stride()


@torch.no_grad()
def test_weights_that_move_or_are_replaced() -> None:
    model = sparse(mixtral())
    model(IDS)
    assert_same(model.to(torch.bfloat16)(IDS).logits, mixtral(torch.bfloat16)(IDS).logits)
    for network in (model.half(), other := mixtral(torch.bfloat16).half()):
        network.set_experts_implementation("eager")
    assert_same(model(IDS).logits.bfloat16(), other(IDS).logits.bfloat16())  # no kernel reads float16
    model, other = sparse(mixtral()), mixtral()
    model(IDS)
    torch.manual_seed(5)
    for parameter in other.parameters():
        parameter.normal_(std=0.1)
    model.load_state_dict({name: value.clone() for name, value in other.state_dict().items()}, assign=True)
    with no_dense_experts(model):
        assert_same(model(IDS).logits, other(IDS).logits)


@torch.no_grad()
def test_copies_and_saved_models(tmp_path: Path) -> None:
    import transformers

    model, expected = sparse(mixtral()), mixtral()(IDS).logits
    model(IDS)
    copied = copy.deepcopy(model)
    with no_dense_experts(copied):
        assert_same(copied(IDS).logits, expected)
    model.save_pretrained(tmp_path)
    assert_same(transformers.AutoModelForCausalLM.from_pretrained(tmp_path)(IDS).logits, expected)


@torch.no_grad()
def test_sites_and_measurements_of_a_sparse_mixtral_match_the_dense_one() -> None:
    model, dense = sparse(mixtral()), mixtral()
    assert find_sites(model) == find_sites(dense)
    found, expected = (measure(network, [INPUTS], criteria=["nonzero"]) for network in (model, dense))
    assert [row.counts.active.tolist() for row in found] == [row.counts.active.tolist() for row in expected]


def test_compiled_experts_match() -> None:
    model, arguments = sparse(mixtral()), routed(5)
    for network in (model, mixtral()):
        network.set_experts_implementation("batched_mm")
    with torch.no_grad():
        expected = experts_of(mixtral())(*arguments)
        compiled = torch.compile(experts_of(model), backend="eager", fullgraph=True)
        assert_same(compiled(*arguments), expected)


@torch.no_grad()
def test_arguments_that_are_not_understood_go_to_the_dense_module() -> None:
    model, (x, index, weights) = sparse(mixtral()), routed(5)
    expected = experts_of(mixtral())(x, index, weights)
    assert_same(experts_of(model)(x, top_k_index=index, top_k_weights=weights), expected)
    foreign = torch.where(index == 2, 4, index)  # 4 stands for an expert of another device
    dense = experts_of(mixtral())
    for network in (dense, experts_of(model)):
        network.config._experts_implementation = "eager"
    assert_same(experts_of(model)(x, foreign, weights), dense(x, foreign, weights))


def test_experts_without_zeros_stay_dense() -> None:
    model = sparse(mixtral(activation="silu"))
    why = "silu has no true zeros, and experts that share one weight cannot have thresholds"
    assert {(plan.kind, plan.why) for plan in plans(model)} == {("dense", why)}
    assert not isinstance(experts_of(model), SparseExperts)


@pytest.mark.parametrize(
    "name", ["qwen3_moe.Qwen3Moe", "olmoe.Olmoe", "granitemoe.GraniteMoe", "deepseek_v3.DeepseekV3"]
)
def test_experts_of_other_models_are_recognised(name: str) -> None:
    module, _, model = name.partition(".")
    kind = getattr(importlib.import_module(f"transformers.models.{module}.modeling_{module}"), f"{model}Experts")
    config = mixtral().config
    config.update({"num_experts": 4, "num_local_experts": 4, "moe_intermediate_size": 48})
    experts = kind(config).eval()
    for parameter in experts.parameters():
        nn.init.normal_(parameter)
    model_site = find_sites(mixtral())[0]
    site = replace(model_site, up="gate_up_proj", down="down_proj")
    found = stacked_experts(experts, site, experts.act_fn)
    assert found is not None
    assert (found.gated, found.width) == (True, 48)


def test_experts_without_a_gate_skip_the_down_projection() -> None:
    """Nemotron-H's experts have no gate and a squared ReLU."""
    from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHConfig, NemotronHExperts

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            config = NemotronHConfig(
                hidden_size=32, moe_intermediate_size=48, n_routed_experts=4, mlp_hidden_act="relu2"
            )
            config._experts_implementation = "eager"
            self.experts, self.router = NemotronHExperts(config), nn.Linear(32, 4)
            for parameter in self.experts.parameters():
                nn.init.normal_(parameter)

        def forward(self, x: Tensor) -> Tensor:
            weights, index = self.router(x).softmax(-1).topk(2)
            out: Tensor = self.experts(x, index, weights)
            return out

    x = torch.randn(13, 32, generator=torch.Generator().manual_seed(1))
    model, dense = Block().eval(), Block().eval()
    with torch.no_grad():
        sparsify(model, measure(model, [x], criteria=["nonzero"]), crossover=ALWAYS)
        assert {(plan.kind, plan.why) for plan in plans(model)} == {
            ("down", "neurons that are zero are skipped in the down projection")
        }
        torch.testing.assert_close(model(x), dense(x), rtol=1e-4, atol=1e-3)


class Experts(nn.Module):
    """Experts with a ReLU gate that do something else too, which ``change`` says."""

    def __init__(self, change: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.change, self.act_fn = change, nn.ReLU()
        self.gate_up_proj = nn.Parameter(torch.randn(4, 2 * 48, 32, generator=generator) / 5)
        self.down_proj = nn.Parameter(torch.randn(4, 32, 48, generator=generator) / 5)

    def forward(self, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        out = x if self.change == "adds its input" else torch.zeros_like(x)
        for expert in index.unique():
            token, place = torch.where(index == expert)
            gate, up = (x[token] @ self.gate_up_proj[expert].t()).chunk(2, -1)
            if self.change == "clamps up":
                up = up.clamp(-7, 7)
            elif self.change == "adds to up":
                up = up + 1
            elif self.change == "gate uses up":
                gate = gate + up
            hidden = self.act_fn(gate) * up
            if self.change == "second half first":
                hidden = self.act_fn(up) * gate
            out = out.index_add(0, token, hidden @ self.down_proj[expert].t() * weights[token, place, None])
        return out


class Mixture(nn.Module):
    def __init__(self, change: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.experts, self.router = Experts(change), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        weights, index = self.router(x).softmax(-1).topk(2)
        out: Tensor = self.experts(x, index, weights)
        return out


@pytest.mark.parametrize(
    "change", ["", "adds its input", "clamps up", "adds to up", "gate uses up", "second half first"]
)
@torch.no_grad()
def test_experts_that_compute_something_else_are_refused(change: str) -> None:
    x = torch.randn(13, 32, generator=torch.Generator().manual_seed(1))
    model, dense = Mixture(change).eval(), Mixture(change).eval()
    sparsify(model, measure(model, [x], criteria=["nonzero"]), crossover=ALWAYS)
    planned = {(plan.kind, plan.why) for plan in plans(model)}
    assert planned == {("dense", SHARED) if change else ("gated", GATED)}
    for scale in (1, 100):
        torch.testing.assert_close(model(scale * x), dense(scale * x), rtol=1e-4, atol=1e-3 * scale)


def test_shared_memory_is_refused() -> None:
    model = Mixture("").eval()
    model.experts.tied = nn.Parameter(model.experts.down_proj.detach().flatten())
    x = torch.randn(13, 32)
    sparsify(model, measure(model, [x], criteria=["nonzero"]), crossover=ALWAYS)
    assert {plan.why for plan in plans(model)} == {SHARED}


def test_thresholds_of_experts_are_refused() -> None:
    model = mixtral()
    name = "model.layers.0.mlp.experts.0"
    with pytest.raises(ActratioError, match=f"{name} cannot have thresholds: experts share one weight"):
        sparse(model, thresholds={name: torch.zeros(48)})
    assert plans(model) == []
    with pytest.raises(ActratioError, match="experts share one weight"):
        calibrate(model, [INPUTS] * 4, loss=1.0)


def test_experts_are_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sparse products are faster up to three quarters of the neurons, more than any expert needs."""

    def speeds(timer: LayerTimer, draws: list[torch.Tensor]) -> list[float]:
        return [0.75 / float(draws[0].ne(0).float().mean().clamp_min(0.01)), 1.0]

    monkeypatch.setenv("ACTRATIO_CACHE", str(tmp_path))
    monkeypatch.setattr(LayerTimer, "speeds", speeds)
    model = mixtral()
    counts = measure(model, [INPUTS], criteria=["nonzero"])
    predicted = predict_speed(model, counts, [1])
    assert {layer.plan.kind for layer in predicted.speeds[0].layers} == {"gated"}
    sparsify(model, counts)
    assert len({plan.crossover for plan in plans(model)}) == 1  # all experts have one shape
    assert plans(model)[0].crossover != ALWAYS


def test_experts_that_no_token_reached_are_predicted_as_if_they_had_no_zeros() -> None:
    model = mixtral()
    counts = measure(model, [{"input_ids": torch.tensor([[3]])}], criteria=["nonzero"])
    unreached = {row.site.name for row in counts if row.site.expert is not None and not row.counts.tokens}
    assert unreached
    for prompt in (0, 8):
        (speed,) = predict_speed(model, counts, [1], prompt=prompt).speeds
        assert {layer.needed for layer in speed.layers if layer.plan.site.name in unreached} == {1.0}
        assert math.isfinite(speed.ideal)
        assert math.isfinite(speed.ideal_mlp)
        assert math.isfinite(speed.expected)


@torch.no_grad()
def test_int8_weights_leave_the_experts_as_they_are() -> None:
    model = sparse(mixtral(), weights="int8")
    assert {plan.kind for plan in plans(model)} == {"gated"}
    assert experts_of(model).down_proj.dtype == torch.float32
    assert_same(model(IDS).logits, mixtral()(IDS).logits)  # its other layers are too small for int8


def test_layers_are_views_of_the_weights() -> None:
    experts = experts_of(mixtral())
    stacked = StackedExperts(experts, "gate_up_proj", "down_proj", "act_fn", True, 48)
    down, up = stacked.layers(1)
    assert up is not None
    assert torch.equal(down.weight, experts.down_proj[1])
    assert up.weight.data_ptr() == experts.gate_up_proj[1, 48:].data_ptr()
