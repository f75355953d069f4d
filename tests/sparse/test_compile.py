"""Sparse models under ``torch.compile``, and the operator that compiled code calls."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actratio.sparse import conversion
from actratio.sparse.crossover import ALWAYS, NEVER, Crossover
from actratio.sparse.kernels import dispatch, int8_weights, operator
from tests.sparse.models import KINDS, Gated, X, dense_model, sparse_model


def test_operator_does_not_keep_weights_alive() -> None:
    rows = torch.randn(64, 32)
    alive = weakref.ref(rows)
    with torch.no_grad():
        torch.ops.actratio.sparse_down(torch.ones(1, 64), rows, None, None, list(ALWAYS.ratios))
    del rows
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_model_matches_the_dense_model(kind: Callable[[], nn.Module]) -> None:
    model = sparse_model(dense_model(kind))
    with torch.no_grad():
        expected = dense_model(kind)(X)
        fast = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(fast(X), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(fast(X), expected, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_compiled_int8_model_matches_the_int8_model(
    kind: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "_SMALLEST", 1)
    model = sparse_model(dense_model(kind), weights="int8")
    expected, several = model(X), model(X.repeat(40, 1, 1))
    called: list[torch.Size] = []
    monkeypatch.setattr(int8_weights, "dequantize", lambda *arguments: called.append(arguments[0].shape))
    fast = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(fast(X), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fast(X), expected, rtol=1e-5, atol=1e-5)
    assert not called  # the kernel computed it
    monkeypatch.undo()
    torch.testing.assert_close(fast(X.repeat(40, 1, 1)), several, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_model_with_the_other_dense_product_matches_the_dense_model(kind: Callable[[], nn.Module]) -> None:
    model = sparse_model(dense_model(kind), dense=True)
    with torch.no_grad():
        fast = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(fast(X), dense_model(kind)(X), rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("weights", [None, "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_compiled_gated_mlp_reads_no_weights_of_inactive_neurons(dtype: torch.dtype, weights: str | None) -> None:
    model, x = sparse_model(dense_model(Gated), weights=weights).to(dtype), X[:1, :1].to(dtype)
    block: Any = model.get_submodule("blocks.1")
    gates: list[Tensor] = []
    handle = block.act.register_forward_hook(lambda _m, _i, out: gates.append(out))
    expected = model(x)
    handle.remove()
    inactive = gates[0].flatten() == 0
    assert 0.2 < inactive.float().mean() < 0.8
    if weights is None:
        block.up.weight[inactive] = math.nan
        block.down.weight[:, inactive] = math.nan
    else:
        block.up.weight_scale[inactive] = math.nan
    found = torch.compile(model, backend="aot_eager", fullgraph=True)(x)
    torch._dynamo.reset()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weights", [None, "int8"])
@pytest.mark.parametrize("changed", [nn.Module.train, lambda model: model.register_forward_hook(lambda *_: None)])
@torch.no_grad()
def test_compiled_gated_mlp_calls_its_modules_if_that_makes_a_difference(
    changed: Callable[[nn.Module], object], weights: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "_SMALLEST", 1)
    model = sparse_model(dense_model(Gated), weights=weights)
    expected = model(X)
    changed(model if changed is nn.Module.train else model.get_submodule("blocks.0.up"))
    monkeypatch.setattr(operator, "sparse_gated", lambda *_: pytest.fail("the operator was called"))
    if changed is not nn.Module.train:  # the other block has no hook
        changed(model.get_submodule("blocks.1.up"))
    found = torch.compile(model, backend="aot_eager")(X)
    torch._dynamo.reset()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weights", [None, "int8"])
@pytest.mark.parametrize("crossover", [NEVER, Crossover((0.3,) * 6)])
@torch.no_grad()
def test_compiled_gated_mlp_is_dense_above_the_crossover(crossover: Crossover, weights: str | None) -> None:
    model = sparse_model(dense_model(Gated), weights=weights, crossover=crossover)
    expected = model(X)
    found = torch.compile(model, backend="aot_eager", fullgraph=True)(X)
    torch._dynamo.reset()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@torch.no_grad()
def test_compiled_linear_layers_use_the_other_product_where_it_is_faster(
    ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, x, bias = torch.randn(48, 32), torch.randn(3, 48), torch.randn(32)
    products: list[bool] = []

    def multiply(*arguments: Any) -> Tensor | None:
        out = dispatch.multiply(*arguments)
        products.append(out is not None)
        return out

    monkeypatch.setattr(operator, "multiply", multiply)
    for stored in (rows, rows.t().contiguous().t()):
        found = operator.dense_linear(x, stored, bias, [ratio] * 6)
        torch.testing.assert_close(found, x @ rows + bias, rtol=1e-5, atol=1e-5)
    assert products == [ratio > 0] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_model_under_autocast_matches_the_dense_model(kind: Callable[[], nn.Module]) -> None:
    model, dense = sparse_model(dense_model(kind)), dense_model(kind)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        fast = torch.compile(model, backend="aot_eager")
        torch.testing.assert_close(fast(X), dense(X), rtol=0.02, atol=0.02)
    torch._dynamo.reset()


@torch.no_grad()
def test_operator_keeps_a_limited_number_of_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator, "MAX_PRODUCTS", 3)
    operator._products.clear()
    weights = [torch.randn(8, 4) for _ in range(5)]
    hidden = torch.randn(2, 8)

    def call(rows: Tensor) -> None:
        found = operator.sparse_down(hidden, rows, None, None, list(ALWAYS.ratios))
        torch.testing.assert_close(found, hidden @ rows)

    for rows in weights[:3]:
        call(rows)
    call(weights[0])  # now the first is used more recently than the second
    for rows in weights[3:]:
        call(rows)
    assert [key[0] for key in operator._products] == [weights[i].data_ptr() for i in (0, 3, 4)]
    call(weights[1])


@torch.no_grad()
def test_operator_notices_other_weights_at_the_same_address() -> None:
    rows, hidden = torch.randn(8, 8), torch.randn(2, 8)
    for same_memory in (rows, rows.t(), rows[:, :4], rows[:4]):
        found = operator.sparse_down(hidden[:, : len(same_memory)], same_memory, None, None, list(ALWAYS.ratios))
        torch.testing.assert_close(found, hidden[:, : len(same_memory)] @ same_memory)
