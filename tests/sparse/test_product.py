"""A prepared product accepts a call only if it computes what the dense layer would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from actratio.sparse.crossover import ALWAYS, NEVER
from actratio.sparse.kernels.cpu import CPUProduct
from actratio.sparse.kernels.dispatch import multiply, prepare
from actratio.sparse.kernels.product import Product, Weights
from actratio.sparse.modules import install_down

WIDTH, FEATURES, INPUTS = 6, 6, 4  # square, so that a transposed weight has the same shape


class Subclass(Tensor):
    """A tensor that may store other numbers."""


def product_and_weights(dtype: torch.dtype = torch.float32) -> tuple[Product, list[Tensor]]:
    """Prepare a gated product; its weights are a transposed parameter, a bias, an up projection and its bias."""
    weight = torch.randn(WIDTH, FEATURES).to(dtype).t()
    weights = [
        weight,
        torch.randn(FEATURES).to(dtype),
        torch.randn(WIDTH, INPUTS).to(dtype),
        torch.randn(WIDTH).to(dtype),
    ]
    product = prepare(Weights(weight.t(), weights[1], None, *weights[2:], parameter=weight))
    assert product is not None
    return product, weights


HIDDEN, INPUT = torch.randn(2, 3, WIDTH), torch.randn(2, 3, INPUTS)


@torch.no_grad()
def test_product_accepts_the_call_it_was_prepared_for() -> None:
    product, weights = product_and_weights()
    assert product.accepts(HIDDEN, *weights, INPUT)
    assert product.accepts(HIDDEN.transpose(0, 1), *weights, INPUT.transpose(0, 1))
    assert product.accepts(HIDDEN[0, 0], *weights, INPUT[0, 0])
    assert not product.accepts(HIDDEN, *weights)  # without x


INPUTS_REFUSED: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "another width": lambda: (HIDDEN[..., :3], INPUT),
    "another input width": lambda: (HIDDEN, INPUT[..., :3]),
    "another batch": lambda: (HIDDEN, INPUT[:1]),
    "another dtype": lambda: (HIDDEN.double(), INPUT),
    "another dtype of x": lambda: (HIDDEN, INPUT.double()),
    "another device": lambda: (HIDDEN.to("meta"), INPUT.to("meta")),
    "a scalar": lambda: (torch.tensor(1.0), INPUT),
    "a subclass": lambda: (HIDDEN.as_subclass(Subclass), INPUT),
    "lazily negated numbers": lambda: (torch._neg_view(HIDDEN), INPUT),
}


@pytest.mark.parametrize("name", INPUTS_REFUSED)
@torch.no_grad()
def test_product_refuses_other_inputs(name: str) -> None:
    product, weights = product_and_weights()
    hidden, x = INPUTS_REFUSED[name]()
    assert not product.accepts(hidden, *weights, x)


WEIGHTS_REFUSED: dict[str, Callable[[Tensor], Any]] = {
    "a copy": lambda weight: weight.clone(),
    "another layout": lambda weight: (
        weight.as_strided(weight.shape, weight.stride()[::-1]) if weight.ndim == 2 else weight[1:]
    ),
    "another shape": lambda weight: weight[:-1],
    "another dtype at the same address": lambda weight: weight.view(torch.int32),
    "a subclass": lambda weight: weight.as_subclass(Subclass),
    "no tensor": lambda weight: None,
}


@pytest.mark.parametrize("name", WEIGHTS_REFUSED)
@pytest.mark.parametrize("position", range(4))
@torch.no_grad()
def test_product_refuses_changed_weights(name: str, position: int) -> None:
    product, weights = product_and_weights()
    changed: list[Any] = list(weights)
    changed[position] = WEIGHTS_REFUSED[name](weights[position])
    assert product.reads(*weights)
    assert not product.reads(*changed)
    assert not product.accepts(HIDDEN, *changed, INPUT)


def test_product_refuses_recorded_calls() -> None:
    product, weights = product_and_weights()
    assert product.accepts(HIDDEN, *weights, INPUT)  # gradients are enabled, but nothing requires one
    assert not product.accepts(HIDDEN.clone().requires_grad_(), *weights, INPUT)
    with torch.autocast("cpu", torch.bfloat16):
        assert not product.accepts(HIDDEN, *weights, INPUT)
    with torch.autograd.forward_ad.dual_level():
        assert not product.accepts(HIDDEN, *weights, INPUT)
    accepted = []
    torch.func.vmap(lambda hidden: accepted.append(product.accepts(hidden, *weights, INPUT)) or hidden)(HIDDEN)  # type: ignore[func-returns-value]
    assert accepted == [False]


@torch.no_grad()
def test_dispatch_modes_see_the_dense_product() -> None:
    layer = nn.Linear(WIDTH, FEATURES)
    install_down(layer, None, ALWAYS)
    layer(HIDDEN)
    traced = make_fx(layer)(HIDDEN)
    torch.testing.assert_close(traced(2 * HIDDEN), layer(2 * HIDDEN))


@torch.no_grad()
def test_multiply_prepares_again_only_if_the_weights_changed() -> None:
    rows = torch.randn(WIDTH, FEATURES)
    prepared: list[Product | None] = []

    def renew() -> Product | None:
        prepared.append(prepare(Weights(rows)))
        return prepared[-1]

    def call(product: Product | None, hidden: Tensor = HIDDEN, crossover: Any = ALWAYS) -> Tensor | None:
        return multiply(product, renew, crossover, hidden, rows, None)

    out = call(None)
    assert out is not None
    torch.testing.assert_close(out, HIDDEN @ rows)
    (first,) = prepared
    assert call(first) is not None
    assert call(first, HIDDEN.double()) is None
    assert call(first, HIDDEN[..., :3]) is None
    assert call(first, HIDDEN[:0]) is None
    assert call(first, crossover=NEVER) is None
    assert len(prepared) == 1
    rows = rows.clone()
    out = call(first)
    assert out is not None
    assert len(prepared) == 2


def unsupported() -> dict[str, Weights]:
    rows = torch.randn(4, 6)
    return {
        "dtype": Weights(rows.half()),
        "device": Weights(rows.to("meta")),
        "layout": Weights(rows.t()),
        "empty weight": Weights(rows[:0]),
        "odd bfloat16 columns": Weights(torch.zeros(4, 5, dtype=torch.bfloat16)),
        "odd bfloat16 inputs": Weights(rows.bfloat16(), up=torch.zeros(4, 3, dtype=torch.bfloat16)),
        "bias of another dtype": Weights(rows, torch.zeros(6).double()),
        "bias of another shape": Weights(rows, torch.zeros(1)),
        "strided bias": Weights(rows, torch.zeros(6, 2)[:, 0]),
        "lazily negated bias": Weights(rows, torch._neg_view(torch.zeros(6))),
        "thresholds of another dtype": Weights(rows, thresholds=torch.zeros(4).double()),
        "up projection of another width": Weights(rows, up=torch.zeros(3, 2)),
        "subclass": Weights(rows.as_subclass(Subclass)),
    }


@pytest.mark.parametrize("name", unsupported())
def test_kernel_refuses_unsupported_weights(name: str) -> None:
    weights = unsupported()[name]
    assert not CPUProduct.supports(weights)
    assert prepare(weights) is None
    with pytest.raises(ValueError, match="CPUProduct does not support these weights"):
        CPUProduct(weights)
