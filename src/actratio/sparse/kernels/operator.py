"""Products as operators of torch's, so that ``torch.compile`` calls them without tracing them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from actratio.sparse.crossover import ALWAYS, Crossover
from actratio.sparse.kernels.dispatch import dense_down, multiply, prepare, prepare_dense
from actratio.sparse.kernels.int8_weights import MAX_BATCH, dense_int8
from actratio.sparse.kernels.product import Product, Weights, address

MAX_PRODUCTS = 4096
"""Products that are kept; beyond that, the least recently used one is dropped."""

_products: OrderedDict[tuple[Any, ...], Product] = OrderedDict()  # by the addresses of the weights
_lock = threading.Lock()


def _sparse_down(
    hidden: Tensor, rows: Tensor, bias: Tensor | None, thresholds: Tensor | None, ratios: list[float]
) -> Tensor:
    """Compute the operator. A product is prepared at the first call with these weights.

    Compiled code has no module to keep its product in, and keeping the weights here would leak them. So only products that need
    no more than the weights' addresses are kept, and ``Product.accepts`` checks that the weights are still there.
    """
    weights = Weights(rows, bias, thresholds)
    out = _multiply(prepare, weights, Crossover(tuple(ratios)), hidden)
    return dense_down(hidden, rows, bias, thresholds) if out is None else out


def _multiply(
    how: Callable[[Weights], Product | None], weights: Weights, crossover: Crossover, hidden: Tensor
) -> Tensor | None:
    """Return the product, or ``None`` if the dense one should be used."""
    key = (*map(address, weights[:5]), address(weights.scales), address(weights.up_scales), hidden.dtype, how)
    with _lock:
        product = _products.get(key)
        if product is not None:
            _products.move_to_end(key)

    def renew() -> Product | None:
        product = how(weights)
        if product is not None and product.release_weights():
            with _lock:
                _products[key] = product
                while len(_products) > MAX_PRODUCTS:
                    _products.popitem(last=False)
        return product

    return multiply(product, renew, crossover, hidden, weights.rows, weights.bias)


def _int8_linear(
    x: Tensor, rows: Tensor, scales: Tensor, bias: Tensor | None, thresholds: Tensor | None, by_neurons: bool
) -> Tensor:
    """Compute the operator of int8 weights."""
    out = None
    if x.numel() <= MAX_BATCH * len(rows):
        weights = Weights(rows, bias, thresholds, scales=scales, dtype=x.dtype)
        out = _multiply(prepare if by_neurons else prepare_dense, weights, ALWAYS, x)
    return dense_int8(x, rows, scales, bias, thresholds) if out is None else out


def _int8_output_shape(
    x: Tensor, rows: Tensor, scales: Tensor, bias: Tensor | None, thresholds: Tensor | None, by_neurons: bool
) -> Tensor:
    return x.new_empty(*x.shape[:-1], rows.shape[1])


def _output_shape(
    hidden: Tensor, rows: Tensor, bias: Tensor | None, thresholds: Tensor | None, ratios: list[float]
) -> Tensor:
    return hidden.new_empty(*hidden.shape[:-1], rows.shape[1])


def sparse_down(
    hidden: Tensor, rows: Tensor, bias: Tensor | None, thresholds: Tensor | None, ratios: list[float]
) -> Tensor:
    """Return Σᵢ hᵢ · rowsᵢ + bias, as one operation in compiled code.

    Args:
        hidden: (…, width).
        rows: (width, features).
        bias: (features,).
        thresholds: (width,), float32.
        ratios: ``Crossover.ratios``.
    """
    out: Tensor = torch.ops.actratio.sparse_down(hidden, rows, bias, thresholds, ratios)
    return out


def int8_linear(
    x: Tensor, rows: Tensor, scales: Tensor, bias: Tensor | None, thresholds: Tensor | None, by_neurons: bool
) -> Tensor:
    """Return the product of a linear layer with int8 weights, as one operation in compiled code.

    Args:
        x: (…, inputs).
        rows: (inputs, outputs), int8.
        scales: (outputs,), float32.
        bias: (outputs,).
        thresholds: (inputs,), float32; only if ``by_neurons``.
        by_neurons: whether the rows are contiguous, and inputs that are zero are skipped.
    """
    out: Tensor = torch.ops.actratio.int8_linear(x, rows, scales, bias, thresholds, by_neurons)
    return out


_torch_library: Any = torch.library
_library = _torch_library.Library("actratio", "DEF")
_library.define("sparse_down(Tensor hidden, Tensor rows, Tensor? bias, Tensor? thresholds, float[] ratios) -> Tensor")
_library.impl("sparse_down", _sparse_down, "CompositeExplicitAutograd")
_torch_library.register_fake("actratio::sparse_down", _output_shape, lib=_library)
_library.define(
    "int8_linear(Tensor x, Tensor rows, Tensor scales, Tensor? bias, Tensor? thresholds, bool by_neurons) -> Tensor"
)
_library.impl("int8_linear", _int8_linear, "CompositeExplicitAutograd")
_torch_library.register_fake("actratio::int8_linear", _int8_output_shape, lib=_library)
