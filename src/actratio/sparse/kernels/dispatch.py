"""The two products of a sparse MLP, on any device: by a kernel where it pays, else dense.

Both are exact up to the order of summation: what is skipped is zero (or below a threshold, where there are thresholds, in
every path alike). Gradients are those of the dense product, which is taken whenever one is wanted.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from actratio.sites.followed import is_followed
from actratio.sparse.crossover import Crossover
from actratio.sparse.kernels.product import Product, address

_torch: Any = torch  # whose inner functions have no types
_PLAIN = (Tensor, torch.nn.Parameter)
"""Other classes have ways of their own to multiply, or no numbers at all."""


def prepare(
    rows: Tensor,
    bias: Tensor | None = None,
    thresholds: Tensor | None = None,
    up: Tensor | None = None,
    up_bias: Tensor | None = None,
) -> Product | None:
    """A product with weights that some kernel takes, or ``None``.

    Args:
        rows: (width, features), the down projection by neurons.
        thresholds: (width,) float32, contiguous, at or below which |h| is taken for zero.
        up: (width, inputs), the up projection of a gated MLP.
    """
    rows = rows.detach()
    kernel = next((kernel for kernel in _kernels() if kernel.takes(rows, up)), None)
    sizes = ((bias, (rows.shape[1],)), (up_bias, (len(rows),)), (up, (len(rows), None if up is None else up.shape[-1])))
    if kernel is None or not all(each is None or _goes_with(rows, each, size) for each, size in sizes):
        return None
    made: Product = kernel.Product(rows, _detached(bias), thresholds, _detached(up), _detached(up_bias))
    return made


def _goes_with(rows: Tensor, weight: Tensor, shape: tuple[int | None, ...]) -> bool:
    return (
        type(weight) in _PLAIN
        and (weight.dtype, weight.device) == (rows.dtype, rows.device)
        and weight.shape == shape
        and weight.is_contiguous()
    )


def _detached(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.detach()


def down(
    product: Product | None,
    hidden: Tensor,
    rows: Tensor,
    bias: Tensor | None,
    thresholds: Tensor | None,
    crossover: Crossover,
) -> Tensor:
    """Σᵢ hᵢ · rowsᵢ + bias.

    Args:
        product: what ``prepare`` made of the weights.
        hidden: (…, width).
        crossover: from which ratio on the dense product is taken.
    """
    width = len(rows)
    if (
        product is not None
        and not wants_gradients(hidden, rows, bias)
        and suits(hidden, rows)
        and hidden.shape[-1] == width
    ):
        most = crossover.most(hidden.numel() // width, width)
        out = product(hidden.contiguous(), most) if most else None
        if out is not None:
            return out
    return dense_down(hidden, rows, bias, thresholds)


def dense_down(hidden: Tensor, rows: Tensor, bias: Tensor | None, thresholds: Tensor | None) -> Tensor:
    """The specification of ``down``."""
    if thresholds is not None:
        hidden = torch.where(hidden.abs() <= thresholds, 0, hidden)
    columns = rows.t() if is_dense_as_it_lies(rows) else rows.t().contiguous()
    return F.linear(hidden, columns, bias)


def is_dense_as_it_lies(weight: Tensor) -> bool:
    """Whether dense products by a weight that lies by neurons take about as long as others.

    Those of bfloat16 take fifty times as long on many CPUs.
    """
    return weight.dtype != torch.bfloat16 or weight.device.type != "cpu"


def gated(
    product: Product | None,
    gate: Tensor,
    x: Tensor,
    up: Tensor,
    up_bias: Tensor | None,
    rows: Tensor,
    bias: Tensor | None,
    crossover: Crossover,
) -> Tensor:
    """Σᵢ gᵢ · (upᵢ · x + biasᵢ) · rowsᵢ + bias.

    Args:
        product: what ``prepare`` made of the weights.
        gate: (…, width), after its activation function.
        x: (…, inputs).
        crossover: as for ``down``.
    """
    width = len(rows)
    wanted = wants_gradients(gate, x, up, up_bias, rows, bias)
    if (
        product is not None
        and not wanted
        and suits(gate, rows)
        and suits(x, up)
        and (gate.shape[-1], x.shape[-1]) == up.shape
        and gate.shape[:-1] == x.shape[:-1]
    ):
        most = crossover.most(gate.numel() // width, width)
        out = product(gate.contiguous(), most, x.contiguous()) if most else None
        if out is not None:
            return out
    return dense_gated(gate, x, up, up_bias, rows, bias)


def dense_gated(
    gate: Tensor, x: Tensor, up: Tensor, up_bias: Tensor | None, rows: Tensor, bias: Tensor | None
) -> Tensor:
    """The specification of ``gated``."""
    return dense_down(gate * F.linear(x, up, up_bias), rows, bias, None)


def has_kernel(rows: Tensor) -> bool:
    """Whether some kernel multiplies by such weights (width, features)."""
    return any(kernel.takes(rows) for kernel in _kernels())


def wants_gradients(*tensors: Tensor | None) -> bool:
    """Whether autograd would follow an operation on these."""
    return torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in tensors)


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether a product of the two, as they are, is what a dense layer would compute."""
    return (
        type(x) in _PLAIN
        and type(weight) in _PLAIN
        and not x.is_neg()  # numbers whose sign is yet to be turned
        and x.dtype == weight.dtype
        and x.device == weight.device
        and x.numel() > 0
        and not _torch._C._is_any_autocast_enabled()
        and not is_followed()
        and not _is_transformed()
    )


def _is_transformed() -> bool:
    """Whether operations are written down, or transformed, and not just computed: by ``torch.jit.trace``, ``torch.func``, forward AD."""
    inner = _torch._C
    return (
        inner._get_tracing_state() is not None
        or inner._functorch.peek_interpreter_stack() is not None
        or _torch.autograd.forward_ad._current_level >= 0
    )


_torch_library: Any = torch.library
_library = _torch_library.Library("actratio", "DEF")
_library.define("sparse_down(Tensor hidden, Tensor rows, Tensor? bias, Tensor? thresholds, float[] ratios) -> Tensor")
_prepared: dict[tuple[Any, ...], Product] = {}


def _compiled_down(
    hidden: Tensor, rows: Tensor, bias: Tensor | None, thresholds: Tensor | None, ratios: list[float]
) -> Tensor:
    """``down`` as an operator, which compiled code calls without looking into it; products are prepared once."""
    key = rows.dtype, rows.shape, rows.stride(), *map(address, (rows, bias, thresholds))
    product = _prepared.get(key)
    if product is None:
        product = prepare(rows, bias, thresholds)
        if product is not None and rows.device.type == "cpu":
            product.weights = ()  # the key says where they are, so that it is right as long as they are there
            _prepared[key] = product
    return down(product, hidden, rows, bias, thresholds, Crossover(tuple(ratios)))


def _shape_of_down(
    hidden: Tensor, rows: Tensor, bias: Tensor | None, thresholds: Tensor | None, ratios: list[float]
) -> Tensor:
    return hidden.new_empty(*hidden.shape[:-1], rows.shape[1])


_library.impl("sparse_down", _compiled_down, "CompositeExplicitAutograd")
_torch_library.register_fake("actratio::sparse_down", _shape_of_down, lib=_library)


@cache
def _kernels() -> list[ModuleType]:
    """Those whose compilers are installed (the extra ``fast``); imported at the first product."""
    found = []
    for name, needs in (("cpu", "numba"), ("cuda", "triton")):
        if find_spec(needs) is not None:
            found.append(import_module(f"actratio.sparse.kernels.{name}"))
    return found
