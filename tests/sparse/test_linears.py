"""`sparsify(dense=True)`: other linear layers get another dense product, and nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from actratio.sparse import autotune, densify
from actratio.sparse.autotune import LayerTimer
from actratio.sparse.crossover import BATCHES, Crossover
from actratio.sparse.linears import FastLinear
from tests.sparse.models import Gated, Plain, X, dense_model, sparse_model

KINDS: list[Callable[[], nn.Module]] = [Plain, Gated]


def fast_layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, FastLinear)]


@pytest.mark.parametrize("kind", [*KINDS, lambda: Plain(nn.SiLU())])
@pytest.mark.parametrize("x", [X, X[0, 0], X.transpose(0, 1), X[:0], X.repeat(40, 1, 1)])
@torch.no_grad()
def test_outputs_stay_the_same(kind: Callable[[], nn.Module], x: Tensor) -> None:
    model = sparse_model(dense_model(kind), dense=True)
    assert fast_layers(model)
    torch.testing.assert_close(model(x), dense_model(kind)(x), rtol=1e-5, atol=1e-5)


def test_layers_that_a_sparse_mlp_reads_itself_are_left_alone() -> None:
    assert fast_layers(sparse_model(dense_model(Gated), dense=True)) == ["blocks.0.gate", "blocks.1.gate"]
    assert fast_layers(sparse_model(dense_model(Plain), dense=True)) == ["blocks.0.up", "blocks.1.up"]
    silu = sparse_model(dense_model(lambda: Plain(nn.SiLU())), dense=True)
    assert fast_layers(silu) == ["blocks.0.up", "blocks.0.down", "blocks.1.up", "blocks.1.down"]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_stay_where_they_are_and_densify_gives_the_class_back(kind: Callable[[], nn.Module]) -> None:
    model = dense_model(kind)
    before = [(parameter.data_ptr(), parameter.stride()) for parameter in model.parameters()]
    names = fast_layers(sparse_model(model, dense=True))
    after = [(parameter.data_ptr(), parameter.stride()) for parameter in model.parameters()]
    kept = [name.removesuffix(".weight") in names for name, _ in model.named_parameters()]
    assert any(kept)
    assert all(old == new for old, new, fast in zip(before, after, kept, strict=True) if fast)
    densify(model)
    assert not fast_layers(model)
    assert {type(module) for module in model.modules() if isinstance(module, nn.Linear)} == {nn.Linear}


def test_gradients_match_the_dense_model() -> None:
    model, dense = sparse_model(dense_model(Plain), dense=True), dense_model(Plain)
    for network in (model.train(), dense.train()):
        network(X).square().sum().backward()
    for found, expected in zip(model.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_changed_weights_are_noticed() -> None:
    model = sparse_model(dense_model(Plain), dense=True)
    model(X)
    layer = model.get_submodule("blocks.0.up")
    layer.weight.data = torch.ones_like(layer.weight)
    layer.bias.data.zero_()
    torch.testing.assert_close(layer(X), X.sum(-1, keepdim=True).expand(-1, -1, 96), rtol=1e-5, atol=1e-5)
    other = copy.deepcopy(model)
    assert torch.equal(other(X), model(X))


@torch.no_grad()
def test_only_batch_sizes_that_gain_use_the_other_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "cached_speeds", lambda key: None)
    monkeypatch.setattr(autotune, "keep_speeds", lambda key, speeds: None)

    def speeds(self: LayerTimer, draws: list[Tensor]) -> list[float]:
        return [3.0 if len(draws[0]) < 8 else 0.9] * (len(self.forms) - 1)

    monkeypatch.setattr(LayerTimer, "speeds", speeds)
    model = sparse_model(dense_model(lambda: Plain(nn.SiLU())), dense=True, crossover=None)
    layer = model.get_submodule("blocks.0.up")
    assert layer._crossover == Crossover(tuple(float(batch < 8) for batch in BATCHES))
    called: list[int] = []
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: called.append(len(x)) or x)  # type: ignore[func-returns-value]
    for batch in (1, 4, 8, 70):
        layer(torch.randn(batch, 16))
    assert called == [8, 70]


def test_nothing_changes_if_nothing_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "cached_speeds", lambda key: None)
    monkeypatch.setattr(autotune, "keep_speeds", lambda key, speeds: None)
    monkeypatch.setattr(LayerTimer, "speeds", lambda self, draws: [1.02] * (len(self.forms) - 1))
    assert not fast_layers(sparse_model(dense_model(Plain), dense=True, crossover=None))
