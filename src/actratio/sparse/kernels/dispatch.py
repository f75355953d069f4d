"""The two products of a sparse MLP, on any device: with a kernel if one is valid and faster, else dense.

Both give the same result up to the order of summation. What a kernel skips is zero, or below its threshold on both paths.
Gradients come from the dense product.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from actratio.fast import import_kernel
from actratio.sparse.crossover import Crossover
from actratio.sparse.kernels.product import Product, Weights, needs_dense

_SPARSE = (("numba", "cpu", "CPUProduct"), ("triton", "cuda", "CUDAProduct"))
_DENSE = (("numba", "cpu", "CPULinear"),)
"""The package that a kernel needs, its module, and its class."""


@cache
def _kernels(listed: tuple[tuple[str, str, str], ...]) -> tuple[type[Product], ...]:
    """Return those of the listed kernels whose packages are installed (the extra ``fast``)."""
    imported = [(import_kernel(f"actratio.sparse.kernels.{module}", package), name) for package, module, name in listed]
    return tuple(getattr(module, name) for module, name in imported if module is not None)


def missing_package(device_type: str) -> str | None:
    """Return the package that is not installed and has a kernel for this type of device, or ``None``."""
    needed = (package for package, module, _ in _SPARSE if module == device_type)
    return next((package for package in needed if find_spec(package) is None), None)


def has_kernel(rows: Tensor) -> bool:
    """Return whether a kernel supports such a weight (width, features)."""
    return _kernel_for(Weights(rows), _SPARSE) is not None


def prepare(weights: Weights) -> Product | None:
    """Return a product that skips inactive neurons, or ``None`` if no kernel supports these weights."""
    kernel = _kernel_for(weights, _SPARSE)
    return None if kernel is None else kernel(weights)


def prepare_dense(weights: Weights) -> Product | None:
    """Return a product that reads all weights, stored by outputs, or ``None`` if no kernel supports them."""
    kernel = _kernel_for(weights, _DENSE)
    return None if kernel is None else kernel(weights)


def prepare_full(weights: Weights) -> Product | None:
    """Return a product that reads all weights in the order in which they are stored, or ``None`` if no kernel supports them."""
    return prepare(weights) if weights.rows.is_contiguous() else prepare_dense(weights)


def _kernel_for(weights: Weights, listed: tuple[tuple[str, str, str], ...]) -> type[Product] | None:
    return next((kernel for kernel in _kernels(listed) if kernel.supports(weights)), None)


def multiply(
    product: Product | None,
    renew: Callable[[], Product | None],
    crossover: Crossover,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    up: Tensor | None = None,
    up_bias: Tensor | None = None,
    x: Tensor | None = None,
) -> Tensor | None:
    """Return the sparse product, or ``None`` if the dense one should be used.

    Args:
        product: the product that was last prepared for this layer.
        renew: prepares a product for the current weights. It is called if the weights were replaced or moved.
        crossover: the activation ratios above which the dense product is faster.
        hidden: the arguments of ``Product.accepts``, as are the following.
    """
    if product is not None and product.dtype is not hidden.dtype and weight.dtype is torch.int8:
        product = None  # such weights can be multiplied by activations of another type
    if product is not None:
        max_active = crossover.max_active(hidden.numel() // product.width, product.width)
        if not max_active:
            return None
        if product.accepts(hidden, weight, bias, up, up_bias, x):
            return product(hidden.contiguous(), max_active, None if x is None else x.contiguous())
    if needs_dense(hidden, weight, bias, up, up_bias, x):
        return None
    if product is not None and product.reads(weight, bias, up, up_bias):  # so the product refuses the input
        return None
    product = renew()
    if product is None or not product.accepts(hidden, weight, bias, up, up_bias, x):
        return None
    return multiply(product, renew, crossover, hidden, weight, bias, up, up_bias, x)


def dense_down(hidden: Tensor, rows: Tensor, bias: Tensor | None, thresholds: Tensor | None) -> Tensor:
    """Return Σᵢ hᵢ · rowsᵢ + bias, where h is zero at or below its threshold.

    Args:
        hidden: (…, width).
        rows: (width, features).
        bias: (features,).
        thresholds: (width,).
    """
    if thresholds is not None:
        hidden = torch.where(hidden.abs() <= thresholds, 0, hidden)
    columns = rows.t() if is_fast_by_neurons(rows) else rows.t().contiguous()
    return F.linear(hidden, columns, bias)


def dense_gated(
    gate: Tensor, x: Tensor, up: Tensor, up_bias: Tensor | None, rows: Tensor, bias: Tensor | None
) -> Tensor:
    """Return Σᵢ gᵢ · (upᵢ · x + up_biasᵢ) · rowsᵢ + bias.

    Args:
        gate: (…, width), after its activation function.
        x: (…, inputs).
        up: (width, inputs).
        up_bias: (width,).
        rows: (width, features).
        bias: (features,).
    """
    return dense_down(gate * F.linear(x, up, up_bias), rows, bias, None)


def is_fast_by_neurons(weight: Tensor) -> bool:
    """Return whether a dense product is about as fast if the weight is stored neuron by neuron.

    Of bfloat16 weights, it takes up to fifty times as long on CPUs without bfloat16 arithmetic.
    """
    return weight.dtype != torch.bfloat16 or weight.device.type != "cpu" or _has_bfloat16_arithmetic()


@cache
def _has_bfloat16_arithmetic() -> bool:
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
