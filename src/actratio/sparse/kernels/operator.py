"""The sparse down projection as an operator of torch's, so that ``torch.compile`` calls it without tracing it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from actratio.sparse.crossover import Crossover
from actratio.sparse.kernels.dispatch import dense_down, multiply, prepare
from actratio.sparse.kernels.product import Product, Weights, address

MAX_PRODUCTS = 4096
"""Products that are kept; beyond that, the least recently used one is dropped."""

_products: OrderedDict[tuple[int, ...], Product] = OrderedDict()  # by the addresses of rows, bias and thresholds
_lock = threading.Lock()


def _sparse_down(
    hidden: Tensor, rows: Tensor, bias: Tensor | None, thresholds: Tensor | None, ratios: list[float]
) -> Tensor:
    """Compute the operator. A product is prepared at the first call with these weights.

    Compiled code has no module to keep its product in, and keeping the weights here would leak them. So only products that need
    no more than the weights' addresses are kept, and ``Product.accepts`` checks that the weights are still there.
    """
    key = rows.data_ptr(), address(bias), address(thresholds)
    with _lock:
        product = _products.get(key)
        if product is not None:
            _products.move_to_end(key)

    def renew() -> Product | None:
        product = prepare(Weights(rows, bias, thresholds))
        if product is not None and product.release_weights():
            with _lock:
                _products[key] = product
                while len(_products) > MAX_PRODUCTS:
                    _products.popitem(last=False)
        return product

    out = multiply(product, renew, Crossover(tuple(ratios)), hidden, rows, bias)
    return dense_down(hidden, rows, bias, thresholds) if out is None else out


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


_torch_library: Any = torch.library
_library = _torch_library.Library("actratio", "DEF")
_library.define("sparse_down(Tensor hidden, Tensor rows, Tensor? bias, Tensor? thresholds, float[] ratios) -> Tensor")
_library.impl("sparse_down", _sparse_down, "CompositeExplicitAutograd")
_torch_library.register_fake("actratio::sparse_down", _output_shape, lib=_library)
