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
from torch.nn import functional as F  # noqa: N812

from actratio.sparse import conversion
from actratio.sparse.crossover import ALWAYS, BATCHES, NEVER, Crossover
from actratio.sparse.kernels import dispatch, int8_weights, operator
from actratio.sparse.linears import FastLinear
from tests.sparse.models import KINDS, Gated, Plain, X, dense_model, sparse_model


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether a kernel computed a product, for each call of an operator."""
    found: list[bool] = []

    def multiply(*arguments: Any) -> Tensor | None:
        out = dispatch.multiply(*arguments)
        found.append(out is not None)
        return out

    monkeypatch.setattr(operator, "multiply", multiply)
    return found


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
@pytest.mark.parametrize("hooked", ["up", "down"])
@torch.no_grad()
def test_compiled_gated_mlp_calls_modules_with_hooks(
    hooked: str, weights: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "_SMALLEST", 1)
    model = sparse_model(dense_model(Gated), weights=weights)
    for block in model.blocks:  # type: ignore[union-attr]
        block.get_submodule(hooked).register_forward_hook(lambda _m, _i, out: 2 * out)
    expected = model(X)
    monkeypatch.setattr(operator, "sparse_gated", lambda *_: pytest.fail("the operator was called"))
    found = torch.compile(model, backend="aot_eager")(X)
    torch._dynamo.reset()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("crossover", [ALWAYS, NEVER])
@torch.no_grad()
def test_compiled_gated_mlp_obeys_the_crossover(crossover: Crossover, computed: list[bool]) -> None:
    model = sparse_model(dense_model(Gated), crossover=crossover)
    expected = model(X)
    found = torch.compile(model, backend="aot_eager", fullgraph=True)(X)
    torch._dynamo.reset()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert computed == [crossover is ALWAYS] * 2


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@torch.no_grad()
def test_compiled_linear_layers_use_the_other_product_where_it_is_faster(ratio: float, computed: list[bool]) -> None:
    model = sparse_model(dense_model(lambda: Plain(nn.SiLU())), dense=True)
    for layer in model.modules():
        if isinstance(layer, FastLinear):
            layer._crossover = Crossover((ratio,) * len(BATCHES))
    found = torch.compile(model, backend="aot_eager", fullgraph=True)(X)
    torch._dynamo.reset()
    torch.testing.assert_close(found, dense_model(lambda: Plain(nn.SiLU()))(X), rtol=1e-5, atol=1e-5)
    assert computed == [ratio > 0] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_dense_operator_reads_weights_in_both_orders(dtype: torch.dtype, computed: list[bool]) -> None:
    rows, bias = torch.randn(48, 32).to(dtype), torch.randn(32).to(dtype)
    for stored in (rows, rows.t().contiguous().t()):
        for batch in (1, 3, 40):
            x = torch.randn(batch, 48).to(dtype)
            found = operator.dense_linear(x, stored, bias, list(ALWAYS.ratios))
            torch.testing.assert_close(found, F.linear(x, rows.t(), bias), rtol=0.02, atol=0.02)
    assert computed == [True] * 6


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_exported_program_needs_no_operators(kind: Callable[[], nn.Module], strict: bool) -> None:
    model = sparse_model(dense_model(kind), dense=True)
    program = torch.export.export(model, (X,), strict=strict)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert called
    assert not [name for name in called if "actratio" in name]
    torch.testing.assert_close(program.module()(X), dense_model(kind)(X), rtol=1e-5, atol=1e-5)


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
