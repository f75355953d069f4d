"""Gated MLPs whose gate has more steps than an activation function, as in Gemma 3n."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import actratio
from actratio import measure
from actratio.sites import find_sites
from actratio.sparse import densify, plans, sparsify
from actratio.sparse.crossover import ALWAYS, NEVER
from tests.sparse.models import Gated, Residual, X, dense_model, sparse_model

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
IDS = torch.arange(3, 27).view(2, 12)
GATED = "neurons whose gate is zero are skipped in the up and the down projection"


def gemma(dtype: torch.dtype = torch.float32, activation: str = "gelu_pytorch_tanh") -> Any:
    """Make a small Gemma 3n whose first two layers keep 5% of their neurons."""
    import transformers

    torch.manual_seed(0)
    config = transformers.Gemma3nTextConfig(
        vocab_size=64, vocab_size_per_layer_input=64, hidden_size=32, hidden_size_per_layer_input=8, intermediate_size=[64] * 3,
        num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, head_dim=16, sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "full_attention"], num_kv_shared_layers=0, laurel_rank=4,
        activation_sparsity_pattern=[0.95, 0.95, 0.0], altup_num_inputs=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        hidden_activation=activation,
    )  # fmt: skip
    return transformers.Gemma3nForCausalLM(config).to(dtype).eval()


def sparse_gemma(model: nn.Module, **options: Any) -> nn.Module:
    counts = measure(model, [{"input_ids": IDS}], criteria=["nonzero"])
    return sparsify(model, counts, **{"crossover": ALWAYS, **options})


def assert_same(actual: Tensor, expected: Tensor) -> None:
    rtol, atol = (1e-4, 1e-5) if actual.dtype == torch.float32 else (0.03, 0.01)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


@BOTH
@pytest.mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_sparse_gemma_3n_computes_what_the_dense_one_does(dtype: torch.dtype, batch: int) -> None:
    model, dense, ids = sparse_gemma(gemma(dtype)), gemma(dtype), IDS[:batch]
    assert [(plan.kind, plan.why) for plan in plans(model)] == [
        ("gated", GATED),
        ("gated", GATED),
        ("dense", "gelutanh has no true zeros"),
    ]
    assert all(plan.ratio < 0.2 for plan in plans(model)[:2])
    assert_same(model(ids).logits, dense(ids).logits)
    options: Any = {"max_new_tokens": 12, "do_sample": False}
    assert torch.equal(model.generate(ids, **options), dense.generate(ids, **options))  # type: ignore[operator]


@BOTH
@pytest.mark.parametrize("batch", [1, 3, 40])
@torch.no_grad()
def test_up_and_down_of_inactive_neurons_are_not_read(dtype: torch.dtype, batch: int) -> None:
    x = torch.randn(batch, 32, generator=torch.Generator().manual_seed(2)).to(dtype)
    model = sparse_gemma(gemma(dtype))
    mlp: Any = model.get_submodule("model.layers.0.mlp")
    expected = gemma(dtype).get_submodule("model.layers.0.mlp")(x)
    silent = (mlp.act_fn(mlp._gaussian_topk(mlp.gate_proj(x))) == 0).all(0)
    assert silent.any()
    mlp.up_proj.weight[silent] = torch.nan
    mlp.down_proj.weight[:, silent] = torch.nan
    assert_same(mlp(x), expected)
    assert densify(model).get_submodule("model.layers.0.mlp")(x).isnan().all()


@torch.no_grad()
def test_dense_products_of_a_sparse_gemma_3n_match_too() -> None:
    """The crossover may choose the dense product after the gate is known."""
    model = sparse_gemma(gemma(), crossover=NEVER)
    assert_same(model(IDS).logits, gemma()(IDS).logits)


def test_without_a_measurement_only_the_activation_is_known() -> None:
    assert {plan.why for plan in plans(sparsify(gemma(), crossover=ALWAYS))} == {"gelutanh has no true zeros"}


def test_densified_gemma_3n_is_as_before() -> None:
    model, untouched = densify(sparse_gemma(gemma())), gemma()
    assert plans(model) == []
    for restored, original in zip(model.modules(), untouched.modules(), strict=True):
        assert type(restored) is type(original)
        assert set(vars(restored)) == set(vars(original))
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, untouched(IDS).logits)


def test_state_dict_of_a_sparse_gemma_3n_is_the_same() -> None:
    before, after = gemma().state_dict(), sparse_gemma(gemma()).state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_a_sparse_gemma_3n_match_the_dense_one(training: bool) -> None:
    model, dense = sparse_gemma(gemma()).train(training), gemma().train(training)
    for network in (model, dense):
        network(IDS, labels=IDS).loss.backward()
    for actual, expected in zip(model.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_measurement_and_sites_of_a_sparse_gemma_3n_match_the_dense_one() -> None:
    model, dense = sparse_gemma(gemma()), gemma()
    assert find_sites(model) == find_sites(dense)
    found, expected = (measure(network, [{"input_ids": IDS}], criteria=["nonzero"]) for network in (model, dense))
    assert [row.counts.active.tolist() for row in found] == [row.counts.active.tolist() for row in expected]


@torch.no_grad()
def test_copied_converted_and_hooked_gemma_3n() -> None:
    model = copy.deepcopy(sparse_gemma(gemma())).to(torch.bfloat16)
    assert_same(model(IDS).logits, gemma(torch.bfloat16)(IDS).logits)
    model = sparse_gemma(gemma())
    seen: list[tuple[int, ...]] = []
    hook = model.get_submodule("model.layers.0.mlp.down_proj").register_forward_pre_hook(
        lambda _, args: seen.append(tuple(args[0].shape))
    )
    assert_same(model(IDS).logits, gemma()(IDS).logits)
    assert seen == [(2, 12, 64)]
    hook.remove()
    model(IDS)
    assert len(seen) == 1


@torch.no_grad()
def test_threads_share_a_sparse_gemma_3n() -> None:
    model, expected = sparse_gemma(gemma()), gemma()(IDS).logits
    found: list[Tensor] = []

    def run() -> None:
        with torch.no_grad():
            found.extend(model(IDS).logits for _ in range(5))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    for logits in found:
        assert_same(logits, expected)


@torch.no_grad()
def test_int8_weights_of_a_sparse_gemma_3n() -> None:
    model = sparse_gemma(gemma(), weights="int8")
    assert [plan.kind for plan in plans(model)] == ["gated", "gated", "dense"]
    found = model(IDS).logits
    assert_same(found, densify(model)(IDS).logits)


def test_neurons_that_depend_on_each_other_are_not_removed() -> None:
    """Gemma 3n compares a gate with the mean over all gates, those of dead neurons too."""
    model, inputs = gemma(), {"input_ids": IDS}
    pruned = actratio.prune(model, measure(model, [inputs], criteria=["nonzero"]), [inputs])
    assert not pruned.smaller
    assert (
        "its gate is computed with more than the activation function, so its neurons may depend on each other"
        in pruned.verdict
    )


class Functional(Gated):
    """The activation is a function, not a module."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.relu(self.gate(x)) * self.up(x))
        return out


class TopK(Gated):
    """Only the eight largest gates of a token count."""

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x)
        gate = F.silu(torch.where(gate >= gate.topk(8, -1).values[..., -1:], gate, 0))
        out: Tensor = self.down(self.up(x) * gate)
        return out


class GateUsesUp(Gated):
    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        out: Tensor = self.down(F.relu(self.gate(x) + up) * up)
        return out


class AddsToOutput(Gated):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.relu(self.gate(x)) * self.up(x)) + x
        return out


class AddsToHidden(Gated):
    def forward(self, x: Tensor) -> Tensor:
        gate = F.relu(self.gate(x))
        out: Tensor = self.down(gate * self.up(x) + gate)
        return out


class ClampsUp(Gated):
    """Large outputs of the up projection are cut off, as in gpt-oss."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.act(self.gate(x)) * self.up(x).clamp(-7, 7))
        return out


@pytest.mark.parametrize("kind", [Functional, TopK])
@BOTH
@torch.no_grad()
def test_gates_of_other_modules(kind: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    model, dense, x = dense_model(kind).to(dtype), dense_model(kind).to(dtype), X.to(dtype)
    sparsify(model, measure(model, [x], criteria=["nonzero"]), crossover=ALWAYS)
    assert {(plan.kind, plan.why) for plan in plans(model)} == {("gated", GATED)}
    for part in (x, x[:1, :1], x[0, 0], x[:0]):
        assert_same(model(part), dense(part))


@pytest.mark.parametrize("kind", [GateUsesUp, AddsToOutput, AddsToHidden, ClampsUp])
@torch.no_grad()
def test_mlps_that_compute_more_skip_the_down_projection_only(kind: Callable[[], nn.Module]) -> None:
    model, dense = sparse_model(dense_model(kind)), dense_model(kind)
    assert {plan.kind for plan in plans(model)} == {"down"}
    for scale in (1, 1000):
        torch.testing.assert_close(model(scale * X), dense(scale * X), rtol=1e-4, atol=1e-5 * scale)


def test_compiled_gates_match() -> None:
    model, dense = sparse_model(Residual(TopK(), TopK()).eval()), X
    with torch.no_grad():
        expected = densify(copy.deepcopy(model))(dense)
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(dense), expected, rtol=1e-4, atol=1e-5)
