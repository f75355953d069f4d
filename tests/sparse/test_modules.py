"""Sparse modules compute what dense ones do, whatever users do to them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from actratio import ActratioError, measure
from actratio.sparse import densify, plans, sparsify
from actratio.sparse.crossover import ALWAYS, NEVER
from tests.sparse.models import KINDS, Gated, Plain, X, dense_model, sparse_model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("x", [X, X[0, 0], X[:, :1], X.transpose(0, 1), X[..., ::2].repeat(1, 1, 2), X[:0]])
def test_sparse_model_matches_the_dense_model(kind: Callable[[], nn.Module], x: Tensor) -> None:
    model = dense_model(kind)
    with torch.no_grad():
        expected = model(x)
        fast = sparse_model(model)
        assert fast is model
        torch.testing.assert_close(fast(x), expected, rtol=1e-5, atol=1e-5)
    assert {plan.kind for plan in plans(model)} == {"gated" if kind is Gated else "down"}


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_match_the_dense_model(kind: Callable[[], nn.Module]) -> None:
    model, dense = sparse_model(dense_model(kind)), dense_model(kind)
    for network in (model.train(), dense.train()):
        network(X).square().sum().backward()
    for actual, expected in zip(model.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_training_step_matches_the_dense_model(kind: Callable[[], nn.Module]) -> None:
    model, dense = sparse_model(dense_model(kind)), dense_model(kind)
    for network in (model, dense):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        network.train()(X).square().mean().backward()
        optimizer.step()
        network.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(X), dense(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Plain, Gated])
def test_deepcopy_and_torch_load_keep_a_model_sparse(kind: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = sparse_model(dense_model(kind))
    torch.save(model, tmp_path / "model.pt")
    for other in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        with torch.no_grad():
            assert torch.equal(other(X), model(X))
        assert [plan.kind for plan in plans(other)] == [plan.kind for plan in plans(model)]
        assert plans(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_match_the_dense_model(dtype: torch.dtype) -> None:
    model, dense = sparse_model(dense_model(Gated)).to(dtype), dense_model(Gated).to(dtype)
    with torch.no_grad():
        torch.testing.assert_close(model(X.to(dtype)), dense(X.to(dtype)), rtol=0.05, atol=0.05)


def test_input_of_another_dtype_fails_like_a_dense_layer() -> None:
    with torch.no_grad(), pytest.raises(RuntimeError, match="same dtype"):
        sparse_model(dense_model(Plain))(X.double())


def test_thresholds_apply_to_sparse_and_dense_products() -> None:
    model = dense_model(lambda: Plain(nn.GELU()))
    found = measure(model, [X])
    thresholds = {row.site.name: torch.full((96,), 0.1) for row in found}

    def expected(x: Tensor) -> Tensor:
        for block in model.blocks:  # type: ignore[union-attr]
            h = block.act(block.up(x))
            x = x + F.linear(torch.where(h.abs() <= 0.1, 0, h), block.down.weight, block.down.bias)
        return x

    with torch.no_grad():
        expected_output = expected(X)
        sparsify(model, found, thresholds=thresholds, crossover=ALWAYS)
        torch.testing.assert_close(model(X), expected_output, rtol=1e-5, atol=1e-5)
        for module in model.modules():
            if hasattr(module, "_crossover"):
                module._crossover = NEVER
        torch.testing.assert_close(model(X), expected_output, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(X), expected_output, rtol=1e-5, atol=1e-5)  # with gradients


def test_thresholds_survive_a_dtype_conversion() -> None:
    model = dense_model(lambda: Plain(nn.GELU()))
    thresholds = {f"blocks.{number}": torch.rand(96) for number in range(2)}
    sparse_model(model, thresholds=thresholds).half().to(torch.bfloat16)
    dense = dense_model(lambda: Plain(nn.GELU())).half().to(torch.bfloat16)
    x = X.to(torch.bfloat16)
    with torch.no_grad():
        found, expected = model(x), x
        for number, block in enumerate(dense.blocks):  # type: ignore[arg-type]
            h = block.act(block.up(expected))
            expected = expected + block.down(torch.where(h.abs() <= thresholds[f"blocks.{number}"], 0, h))
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    with pytest.raises(ActratioError, match="thresholds that are not numbers"):
        sparse_model(dense_model(Plain), thresholds={"blocks.0": torch.full((96,), math.nan)})


@pytest.mark.parametrize("shape", [(4, 48), (2, 192), (96, 1)])
def test_input_of_another_width_fails_like_a_dense_layer(shape: tuple[int, int]) -> None:
    layer = sparse_model(dense_model(Plain)).get_submodule("blocks.0.down")
    with torch.no_grad():
        layer(torch.rand(1, 96))
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            layer(torch.rand(*shape))


@torch.no_grad()
def test_hooks_on_bypassed_modules_of_a_gated_mlp_are_called() -> None:
    model = sparse_model(dense_model(Gated))
    seen: list[str] = []
    for name in ("blocks.0.up", "blocks.1.down"):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _m, _a, out, name=name: seen.append(name) or 2 * out)  # type: ignore[func-returns-value, misc]
    first, second = model.blocks  # type: ignore[misc]
    x = X + first.down(first.act(first.gate(X)) * 2 * F.linear(X, first.up.weight, first.up.bias))
    y = second.act(second.gate(x)) * second.up(x)
    expected = x + 2 * F.linear(y, second.down.weight, second.down.bias)
    seen.clear()
    torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-5)
    assert seen == ["blocks.0.up", "blocks.1.down"]


@torch.no_grad()
def test_measurement_of_a_sparse_model_matches_the_dense_model() -> None:
    for kind in KINDS:
        dense, fast = measure(dense_model(kind), [X]), measure(sparse_model(dense_model(kind)), [X])
        assert [row.counts.active.tolist() for row in fast] == [row.counts.active.tolist() for row in dense]


class Adapted(nn.Module):
    """What libraries of adapters put in a layer's place: a module of another class, with the weights of the layer."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + 1
        return out


@pytest.mark.parametrize("name", ["up", "down"])
@torch.no_grad()
def test_replaced_layers_are_called(name: str) -> None:
    model, dense = sparse_model(dense_model(Gated)), dense_model(Gated)
    for network in (model, dense):
        block = network.get_submodule("blocks.0")
        setattr(block, name, Adapted(block.get_submodule(name)))  # type: ignore[arg-type]
    torch.testing.assert_close(model(X), dense(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_replaced_parameters_are_used(kind: Callable[[], nn.Module]) -> None:
    model, dense = sparse_model(dense_model(kind)), dense_model(kind)
    model(X)
    for name, _ in dense.named_parameters():
        for network in (model, dense):
            owner, _, last = name.rpartition(".")
            module = network.get_submodule(owner)
            setattr(module, last, nn.Parameter(2 * getattr(module, last).detach()))
        torch.testing.assert_close(model(X), dense(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_autocast_output_dtype_matches_the_dense_layer(
    kind: Callable[[], nn.Module], sparse_randn: Callable[..., Tensor]
) -> None:
    layer = sparse_model(dense_model(kind)).get_submodule("blocks.0.down")
    dense = dense_model(kind).get_submodule("blocks.0.down")
    hidden = sparse_randn(3, 96, ratio=0.2)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(hidden).dtype == dense(hidden).dtype == torch.bfloat16


@torch.no_grad()
def test_parametrized_weight_is_used() -> None:
    model, dense = sparse_model(dense_model(Plain)), dense_model(Plain)
    for network in (model, dense):
        nn.utils.parametrizations.weight_norm(network.get_submodule("blocks.0.down"))
        network.get_submodule("blocks.0.down").parametrizations.weight.original0.mul_(3)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(model(X), dense(X), rtol=1e-5, atol=1e-5)
    with pytest.raises(ActratioError, match="remove its parametrization"):
        densify(model)
    nn.utils.parametrize.remove_parametrizations(model.get_submodule("blocks.0.down"), "weight")
    densify(model)
    torch.testing.assert_close(model(X), dense(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_loaded_weights_are_stored_by_neurons_again(kind: Callable[[], nn.Module]) -> None:
    model, dense = sparse_model(dense_model(kind)), dense_model(kind)
    dense.blocks[0].down.weight.mul_(2)  # type: ignore[index, union-attr, operator]
    model.load_state_dict({name: value.clone() for name, value in dense.state_dict().items()}, assign=True)
    torch.testing.assert_close(model(X), dense(X), rtol=1e-5, atol=1e-5)
    assert model.get_submodule("blocks.0.down").weight.t().is_contiguous()  # type: ignore[operator, union-attr]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_jit_trace_and_torch_func_match_the_dense_model(kind: Callable[[], nn.Module]) -> None:
    model, dense = sparse_model(dense_model(kind)).requires_grad_(False), dense_model(kind).requires_grad_(False)
    with torch.no_grad():
        model(X)
        traced = torch.jit.trace(model, X)  # type: ignore[no-untyped-call]
        torch.testing.assert_close(traced(2 * X), dense(2 * X), rtol=1e-4, atol=1e-5)
    gradient = torch.func.grad(lambda x: model(x).sum())(X)
    torch.testing.assert_close(gradient, torch.func.grad(lambda x: dense(x).sum())(X), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.vmap(model)(X), dense(X), rtol=1e-5, atol=1e-5)


def test_inference_mode_leaves_weights_trainable_and_the_random_state_unchanged() -> None:
    model = dense_model(Gated)
    found = measure(model, [X])
    torch.manual_seed(5)
    with torch.inference_mode():
        sparsify(model, found)
        sparsify(model, found, crossover=ALWAYS)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))
    model(X).sum().backward()
    with torch.inference_mode():
        densify(model)
    model(X).sum().backward()
    with torch.inference_mode():
        sparsify(model, found, crossover=ALWAYS)
    model(X).sum().backward()  # to the gradients that are there


def test_moved_model_releases_its_products() -> None:
    model = sparse_model(dense_model(Gated))
    with torch.no_grad():
        model(X)
    model.to("meta")
    assert all(vars(module)["_product"] is None for module in model.modules() if "_product" in vars(module))


@torch.no_grad()
def test_strided_biases_and_thresholds_match_the_dense_model() -> None:
    for name, bias in (("down", torch.rand(16, 2)[:, 0]), ("down", torch.rand(1)), ("up", torch.rand(96, 3)[:, 1])):
        model, dense = sparse_model(dense_model(Gated)), dense_model(Gated)
        for network in (model, dense):
            network.get_submodule(f"blocks.0.{name}").bias = nn.Parameter(bias)
        torch.testing.assert_close(model(X), dense(X), rtol=1e-5, atol=1e-5)
    thresholds = {f"blocks.{number}": torch.tensor(0.3).expand(96) for number in range(2)}
    same = {name: limit.clone() for name, limit in thresholds.items()}
    found, expected = (
        sparse_model(dense_model(Plain), thresholds=thresholds)(X),
        sparse_model(dense_model(Plain), thresholds=same)(X),
    )
    assert torch.equal(found, expected)


@torch.no_grad()
def test_weights_with_another_layout_at_the_same_address_are_used(sparse_randn: Callable[..., Tensor]) -> None:
    for kind in (Plain, Gated):
        model, dense = sparse_model(dense_model(kind)), dense_model(kind)
        model(X)
        hidden = sparse_randn(3, 96, ratio=0.3)
        layer, other = model.get_submodule("blocks.0.down"), dense.get_submodule("blocks.0.down")
        for linear in (layer, other):
            linear.weight.data, linear.bias.data = linear.weight.data[:8], linear.bias.data[:8]  # type: ignore[union-attr, operator]
        torch.testing.assert_close(layer(hidden), other(hidden), rtol=1e-5, atol=1e-5)
    square = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    sparse_square = sparse_model(copy.deepcopy(square))
    sparse_square(X)
    for network in (sparse_square, square):
        network[2].weight.data = network[2].weight.data.t()  # type: ignore[index]
    torch.testing.assert_close(sparse_square(X), square(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["up", "down"])
@torch.no_grad()
def test_replaced_forward_functions_are_called(name: str) -> None:
    model, dense = sparse_model(dense_model(Gated)), dense_model(Gated)
    for network in (model, dense):
        layer = network.get_submodule(f"blocks.0.{name}")
        layer.forward = lambda x, old=layer.forward: 2 * old(x)
    torch.testing.assert_close(model(X), dense(X), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_activation_hook_that_changes_the_batch_matches_the_dense_model() -> None:
    model, dense = sparse_model(dense_model(Gated)), dense_model(Gated)
    for network in (model, dense):
        network.get_submodule("blocks.0.act").register_forward_hook(lambda _m, _a, out: out[:1])
    torch.testing.assert_close(model(X), dense(X), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("kind", KINDS)
def test_forward_mode_tangents_match_the_dense_model(kind: Callable[[], nn.Module]) -> None:
    model, dense = sparse_model(dense_model(kind)).requires_grad_(False), dense_model(kind).requires_grad_(False)
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        x = torch.autograd.forward_ad.make_dual(X, torch.ones_like(X))
        actual, expected = (torch.autograd.forward_ad.unpack_dual(network(x)).tangent for network in (model, dense))
    assert actual is not None
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_weights_that_are_views_of_a_vector_stay_views() -> None:
    model, dense = sparse_model(dense_model(Plain)), dense_model(Plain)
    flat = nn.utils.parameters_to_vector(dense.parameters())
    nn.utils.vector_to_parameters(flat, model.parameters())
    model(X)
    nn.utils.vector_to_parameters(flat.clone().mul_(2), dense.parameters())
    flat.mul_(2)
    torch.testing.assert_close(model(X), dense(X), rtol=1e-4, atol=1e-4)


def test_weights_loaded_in_inference_mode_stay_trainable() -> None:
    model = sparse_model(dense_model(Plain))
    model.load_state_dict({name: value.clone() for name, value in dense_model(Plain).state_dict().items()}, assign=True)
    with torch.inference_mode():
        model(X)
    model(X).sum().backward()


class Named(Gated):
    """With names that others may have thought of."""

    def __init__(self) -> None:
        super().__init__()
        self.kind, self.dense, self.leave = "mlp", nn.Identity(), 1


def test_attributes_of_user_modules_are_not_overwritten() -> None:
    model, dense = sparse_model(dense_model(Named)), dense_model(Named)
    for network in (model.train(), model.eval(), copy.deepcopy(model), densify(model)):
        torch.testing.assert_close(network(X), dense(X), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_default_device_does_not_move_the_output() -> None:
    model, dense = sparse_model(dense_model(Plain)), dense_model(Plain)
    model(X)
    with torch.device("meta"):
        found = model(X)
    torch.testing.assert_close(found, dense(X), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_weights_that_are_assigned_are_stored_by_neurons_at_once() -> None:
    """Before the first call: compiled code can't do it."""
    model, state = sparse_model(dense_model(Plain)), dense_model(Plain).state_dict()
    down: Any = model.get_submodule("blocks.0.down")
    model.load_state_dict(state, assign=True)
    assert down.weight.t().is_contiguous()
    torch.testing.assert_close(model(X), dense_model(Plain)(X), rtol=1e-5, atol=1e-5)
