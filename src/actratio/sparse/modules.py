"""Modules that skip zeros, and how they replace dense modules and become dense again.

A module that is replaced keeps its place, its parameters and their names. Only its class changes, to a subclass whose ``forward``
multiplies sparsely. The down projection's weight keeps its shape, but is stored neuron by neuron. It replaces the original, so
nothing is stored twice.
"""

from __future__ import annotations

from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn

from actratio.sites.gates import own_gate, stand_ins
from actratio.sites.linear import rows_of
from actratio.sparse.converted import Converted, class_of, has_own_memory, restore_class, thresholds_of
from actratio.sparse.crossover import Crossover
from actratio.sparse.int8 import Int8Linear
from actratio.sparse.kernels import operator
from actratio.sparse.kernels.dispatch import (
    dense_down,
    dense_gated,
    has_kernel,
    is_fast_by_neurons,
    multiply,
    prepare,
)
from actratio.sparse.kernels.product import Product, Weights, address, needs_dense, wants_gradients
from actratio.sparse.layers import in_large_pages


class SparseDown(Converted):
    """A linear layer that reads only the weights of inputs that are not zero."""

    def forward(self, hidden: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self._compiled(hidden)
        state = self.__dict__  # nn.Module's own look-up of parameters is slow
        parameters = state["_parameters"]
        try:
            weight, bias = parameters["weight"], parameters["bias"]
        except KeyError:  # a parametrization computes one of them
            return self._dense(hidden, rows_of(self))
        out = multiply(state["_product"], self._prepare, state["_crossover"], hidden, weight, bias)
        return self._dense(hidden, weight) if out is None else out

    def _dense(self, hidden: Tensor, weight: Tensor) -> Tensor:
        state: Any = self
        if state._thresholds is None and is_fast_by_neurons(weight):
            out: Tensor = self._dense_class.forward(self, hidden)
            return out
        return dense_down(hidden, rows_of(self), state.bias, thresholds_of(self))

    def _compiled(self, hidden: Tensor) -> Tensor:
        """Call the operator, or, if gradients may be wanted, the dense product, which the compiler can trace."""
        state: Any = self
        if not operator.may_compile(hidden, state.weight):
            return dense_down(hidden, rows_of(self), state.bias, state._thresholds)
        ratios = list(state._crossover.ratios)
        return operator.sparse_down(hidden, rows_of(self), state.bias, state._thresholds, ratios)

    def _prepare(self) -> Product | None:
        state: Any = self
        self._restore_layout()
        weights = Weights(rows_of(self), state.bias, thresholds_of(self), parameter=state.weight)
        state._product = prepare(weights)
        product: Product | None = state._product
        return product

    def _restore_layout(self) -> None:
        """Store the weight by neurons again, if another weight was loaded in its place."""
        rows = rows_of(self)
        if (
            not rows.is_contiguous()
            and has_own_memory(self._parameters.get("weight"))
            and has_kernel(in_large_pages(rows[:2]))
        ):
            with torch.inference_mode(False):  # an inference tensor could never be trained
                _store_by_neurons(self)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._restore_layout()  # compiled code can't

    def _leave(self) -> None:
        restore_class(self, "_thresholds", "_crossover", "_product")
        module: Any = self
        module.weight.data = module.weight.data.contiguous()
        if module.weight.grad is not None:
            module.weight.grad = module.weight.grad.contiguous()


class SparseGated(Converted):
    """An MLP, down(g ⊙ up(x)), that computes only the neurons whose gate g is not zero.

    g is act(gate(x)), or, if the gate has other steps, what the MLP's own code makes of it.
    """

    def forward(self, x: Tensor) -> Tensor:
        state = self.__dict__
        parts: Any = [reduce(_child, names, self) for names in state["_parts"]]
        gate, act, up, down = parts
        replaced = state["_stand_ins"]
        if torch.compiler.is_compiling() and _can_be_compiled(self, x, up, down):
            return _compiled_gated(act(gate(x)), x, up, down, state["_crossover"])
        if (
            torch.compiler.is_compiling()  # the down projection is sparse by itself
            or self.training
            or not _can_be_bypassed(up, down)
            # The dense MLP's own operations should be seen, not those that find its gate.
            or (needs_dense if replaced else wants_gradients)(x, gate.weight, up.weight, down.weight)
        ):
            dense: Tensor = self._dense_class.forward(self, x)
            return dense
        hidden = own_gate(self, self._dense_class, replaced, x) if replaced else act(gate(x))
        renew = partial(_prepare_gated, self, up, down, hidden.dtype)
        weights = down.weight, down.bias, up.weight, up.bias
        product = state["_product"]
        if down.weight.dtype is torch.int8 and product is not None:
            scales_at = address(down.weight_scale), address(up.weight_scale)
            product = product if product.scales_at == scales_at else None  # others were put in their place
        out = multiply(product, renew, state["_crossover"], hidden, *weights, x)
        if out is None and down.weight.dtype == torch.int8:
            out = down(hidden * up(x))
        return dense_gated(hidden, x, up.weight, up.bias, rows_of(down), down.bias) if out is None else out

    def _leave(self) -> None:
        restore_class(self, "_parts", "_stand_ins", "_crossover", "_product")


def _can_be_compiled(mlp: Any, x: Tensor, up: Any, down: Any) -> bool:
    """Return whether compiled code may compute the MLP in one operator."""
    return (
        mlp._stand_ins is None
        and not mlp.training
        and operator.may_compile(x, up.weight, down.weight)
        and _can_be_bypassed(up, down)
    )


def _compiled_gated(gates: Tensor, x: Tensor, up: Any, down: Any, crossover: Crossover) -> Tensor:
    is_int8 = down.weight.dtype == torch.int8
    scales = (up.weight_scale, down.weight_scale) if is_int8 else (None, None)
    return operator.sparse_gated(
        gates, x, up.weight, up.bias, scales[0], rows_of(down), down.bias, scales[1], list(crossover.ratios)
    )


def _prepare_gated(mlp: Any, up: Any, down: Any, dtype: torch.dtype) -> Product | None:
    # A function, because a method could hide one of the user's class.
    down._restore_layout()
    scales: dict[str, Any] = {}
    if down.weight.dtype == torch.int8:
        up._restore_layout()
        scales = {"scales": down.weight_scale, "up_scales": up.weight_scale, "dtype": dtype}
    mlp._product = prepare(Weights(rows_of(down), down.bias, None, up.weight, up.bias, down.weight, **scales))
    product: Product | None = mlp._product
    return product


def _child(module: Any, name: str) -> Any:
    return module._modules[name]


def _can_be_bypassed(up: Any, down: Any) -> bool:
    """Return whether the two projections may be computed without calling them: their classes are unchanged and they have no hooks."""
    types = type(up), type(down)
    int8 = class_of(Int8Linear, nn.Linear)
    if types == (int8, int8):
        if not up.weight.dtype == down.weight.dtype == torch.int8:  # something put another weight in its place
            return False
    elif types != (nn.Linear, class_of(SparseDown, nn.Linear)):
        return False
    return not any(
        "forward" in module.__dict__
        or module._forward_hooks
        or module._forward_pre_hooks
        or nn.modules.module._global_forward_hooks
        or nn.modules.module._global_forward_pre_hooks
        for module in (up, down)
    )


def install_down(layer: Any, thresholds: Tensor | None, crossover: Crossover) -> None:
    """Make a linear layer sparse, or give a sparse one other thresholds and another crossover."""
    if not isinstance(layer, Converted):
        _store_by_neurons(layer)
        layer.__class__ = class_of(SparseDown, type(layer))
    # Not a buffer: converting the model to another type and back would round them.
    layer._thresholds = None if thresholds is None else thresholds.detach().float().to(layer.weight.device).contiguous()
    layer._crossover, layer._product = crossover, None


def _store_by_neurons(layer: Any) -> None:
    is_transposed = isinstance(layer, nn.Linear)
    rows = in_large_pages(rows_of(layer).detach())
    layer.weight.data = rows.t() if is_transposed else rows
    if layer.weight.grad is not None:  # autograd expects the weight's layout
        layer.weight.grad = layer.weight.grad.t().contiguous().t() if is_transposed else layer.weight.grad.contiguous()


def install_gated(owner: Any, parts: tuple[Any, nn.Module | None, Any, Any], crossover: Crossover) -> None:
    """Make a gated MLP sparse.

    Args:
        owner: the MLP.
        parts: its gate projection, activation function, up projection, and down projection, which is sparse already. No
            activation function if the gate has other steps, which the MLP's own ``forward`` computes.
        crossover: the activation ratios above which the dense product is faster.
    """
    names = {id(module): name for name, module in owner.named_modules()}
    gate, activation, up, down = parts
    owner._stand_ins = stand_ins(owner, up, down) if activation is None else None
    owner.__class__ = class_of(SparseGated, type(owner))
    owner._parts = tuple(tuple(names[id(part)].split(".")) for part in (gate, activation or gate, up, down))
    owner._crossover, owner._product = crossover, None
