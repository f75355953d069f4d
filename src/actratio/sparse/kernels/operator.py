"""Products as operators of torch's, so that ``torch.compile`` calls them without tracing them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Any, ParamSpec, cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from actratio.sparse.crossover import ALWAYS, Crossover
from actratio.sparse.kernels.dispatch import dense_down, dense_gated, multiply, prepare, prepare_dense, prepare_full
from actratio.sparse.kernels.int8_weights import MAX_BATCH, dense_int8
from actratio.sparse.kernels.product import Product, Weights, address

MAX_PRODUCTS = 4096
"""Products that are kept; beyond that, the least recently used one is dropped."""

_products: OrderedDict[tuple[Any, ...], Product] = OrderedDict()  # by the addresses of the weights
_lock = threading.Lock()
_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", bool)  # since torch 2.7


def _multiply(
    how: Callable[[Weights], Product | None],
    weights: Weights,
    crossover: Crossover,
    hidden: Tensor,
    x: Tensor | None = None,
) -> Tensor | None:
    """Return the product, or ``None`` if the dense one should be used. A product is prepared at the first call with these weights.

    Compiled code has no module to keep its product in, and keeping the weights here would leak them. So only products that need
    no more than the weights' addresses are kept, and ``Product.accepts`` checks that the weights are still there.
    """
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

    return multiply(product, renew, crossover, hidden, weights.rows, weights.bias, weights.up, weights.up_bias, x)


@cache
def _crossover(*ratios: float) -> Crossover:
    return Crossover(ratios)


def may_compile(x: Tensor, *weights: Any) -> bool:
    """Return whether compiled code may call an operator: without gradients or autocast, which need operations that the compiler can trace.

    Exported programs should run without this package, and subclasses of tensors have operations of their own.
    """
    return not (torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type) or _is_exporting()) and all(
        type(weight) in (Tensor, torch.nn.Parameter) for weight in weights
    )


_P = ParamSpec("_P")
_torch_library: Any = torch.library
_library = _torch_library.Library("actratio", "DEF")


def _operator(output_shape: Callable[..., Tensor]) -> Callable[[Callable[_P, Tensor]], Callable[_P, Tensor]]:
    """Return a decorator that makes an operator of a function, with its name and signature.

    ``torch.library.custom_op`` would be shorter, but a call of its operators takes ten times as long.

    Args:
        output_shape: returns a tensor of the output's shape and type, from the same arguments.
    """

    def define(compute: Callable[_P, Tensor]) -> Callable[_P, Tensor]:
        name = compute.__name__
        _library.define(name + _torch_library.infer_schema(compute, mutates_args=()))
        _library.impl(name, compute, "CompositeExplicitAutograd")
        _torch_library.register_fake(f"actratio::{name}", output_shape, lib=_library)
        return cast("Callable[_P, Tensor]", getattr(torch.ops.actratio, name))

    return define


def _output_shape(x: Tensor, rows: Tensor, *_: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], rows.shape[1])


def _gated_output_shape(
    gates: Tensor, x: Tensor, up: Tensor, up_bias: Any, up_scales: Any, rows: Tensor, *_: Any
) -> Tensor:
    return _output_shape(gates, rows)


@_operator(_output_shape)
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
    out = _multiply(prepare, Weights(rows, bias, thresholds), _crossover(*ratios), hidden)
    return dense_down(hidden, rows, bias, thresholds) if out is None else out


@_operator(_gated_output_shape)
def sparse_gated(
    gates: Tensor,
    x: Tensor,
    up: Tensor,
    up_bias: Tensor | None,
    up_scales: Tensor | None,
    rows: Tensor,
    bias: Tensor | None,
    scales: Tensor | None,
    ratios: list[float],
) -> Tensor:
    """Return Σᵢ gᵢ · (upᵢ · x + up_biasᵢ) · rowsᵢ + bias, as one operation in compiled code.

    Args:
        gates: (…, width), after the activation function.
        x: (…, inputs).
        up: (width, inputs).
        up_bias: (width,).
        up_scales: (width,), float32, if ``up`` is int8.
        rows: (width, features).
        bias: (features,).
        scales: (features,), float32, if ``rows`` is int8.
        ratios: ``Crossover.ratios``.
    """
    weights = Weights(rows, bias, None, up, up_bias, scales=scales, up_scales=up_scales, dtype=gates.dtype)
    out = _multiply(prepare, weights, _crossover(*ratios), gates, x)
    if out is not None:
        return out
    if scales is None or up_scales is None:
        return dense_gated(gates, x, up, up_bias, rows, bias)
    return int8_linear(gates * int8_linear(x, up.t(), up_scales, up_bias, None, False), rows, scales, bias, None, True)


@_operator(_output_shape)
def dense_linear(x: Tensor, rows: Tensor, bias: Tensor | None, ratios: list[float]) -> Tensor:
    """Return x · rows + bias, which reads all weights, as one operation in compiled code.

    Args:
        x: (…, inputs).
        rows: (inputs, outputs).
        bias: (outputs,).
        ratios: ``Crossover.ratios``.
    """
    out = _multiply(prepare_full, Weights(rows, bias), _crossover(*ratios), x)
    return F.linear(x, rows.t(), bias) if out is None else out


@_operator(_output_shape)
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
    out = None
    if x.numel() <= MAX_BATCH * len(rows):
        weights = Weights(rows, bias, thresholds, scales=scales, dtype=x.dtype)
        out = _multiply(prepare if by_neurons else prepare_dense, weights, ALWAYS, x)
    return dense_int8(x, rows, scales, bias, thresholds) if out is None else out
