"""Experts with stacked weights that skip their inactive neurons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from actratio.sites.experts import StackedExperts
from actratio.sites.mlps import MLP
from actratio.sparse.converted import Converted, class_of, has_own_memory, restore_class
from actratio.sparse.crossover import NEVER, Crossover
from actratio.sparse.kernels.dispatch import dense_down, dense_gated, has_kernel, multiply, prepare
from actratio.sparse.kernels.product import Product, Weights, needs_dense
from actratio.sparse.layers import in_large_pages, move_to_large_pages
from actratio.sparse.planning import Plan


class _Expert(NamedTuple):
    """What an expert multiplies by: views of the weights, and their product.

    Attributes:
        first: (width, features), the gate, or the up projection if there is no gate.
        up: (width, features), the up projection if there is a gate.
        rows: (width, features), the down projection by neurons.
        product: of the last two.
    """

    first: Tensor
    up: Tensor | None
    rows: Tensor
    product: Product


class _Prepared:
    """The experts of a module, and where their weights were when they were prepared."""

    def __init__(self, stacked: StackedExperts) -> None:
        up, rows, width = stacked.up.detach(), stacked.down.detach().transpose(1, 2), stacked.width
        self.experts: list[_Expert] = []
        self.layouts = _layouts(stacked)
        for expert in range(len(up)):
            own_up = up[expert, width:] if stacked.gated else None
            product = prepare(Weights(rows[expert], up=own_up))
            if product is None:
                self.experts.clear()  # all of them are computed by the dense module
                break
            self.experts.append(_Expert(up[expert, :width], own_up, rows[expert], product))

    def __reduce__(self) -> Any:
        return type(None), ()  # a copy's weights have other addresses


class SparseExperts(Converted):
    """Experts with stacked weights that read only the weights of neurons that are not zero."""

    def forward(self, x: Tensor, *routing: Any, **named: Any) -> Tensor:
        if not (torch.compiler.is_compiling() or self.training or named) and _are_routed(x, routing):
            index, weights = routing
            stacked = _stacked(self)
            prepared = None if needs_dense(x, stacked.up, stacked.down, weights) else _renewed(self, stacked)
            counts = [] if prepared is None else index.reshape(-1).bincount(minlength=len(prepared.experts)).tolist()
            if prepared is not None and len(counts) == len(
                prepared.experts
            ):  # larger numbers: another device's experts
                return _sum_of_experts(self, prepared, counts, x, index, weights)
        out: Tensor = self._dense_class.forward(self, x, *routing, **named)
        return out

    def _leave(self) -> None:
        down = _stacked(self).down
        restore_class(self, "_stacked", "_crossovers", "_product")
        down.data = down.data.contiguous()
        if down.grad is not None:
            down.grad = down.grad.contiguous()


# Functions, because methods could hide those of the user's class.


def _stacked(module: nn.Module) -> StackedExperts:
    return StackedExperts(module, *module.__dict__["_stacked"])


def _are_routed(x: Tensor, routing: tuple[Any, ...]) -> bool:
    """Return whether the arguments are those that ``StackedExperts`` describes."""
    if len(routing) != 2 or not all(isinstance(tensor, Tensor) for tensor in routing):
        return False
    index, weights = routing
    return x.ndim == 2 and index.ndim == 2 and index.shape == weights.shape and len(index) == len(x)


def _renewed(module: nn.Module, stacked: StackedExperts) -> _Prepared | None:
    """Return the products for the weights that are in use now, or ``None`` if no kernel supports them."""
    prepared: _Prepared | None = module.__dict__["_product"]
    if prepared is None or prepared.layouts != _layouts(stacked):
        down = stacked.down
        if (
            has_own_memory(down)  # not a view of memory that others use
            and has_kernel(down.detach()[0, :, :2].t().contiguous())
        ):
            _store_by_neurons(down)  # another weight may have been loaded in its place
        prepared = module.__dict__["_product"] = _Prepared(stacked)
    return prepared if prepared.experts else None


def _sum_of_experts(
    module: nn.Module, prepared: _Prepared, counts: list[int], x: Tensor, index: Tensor, weights: Tensor
) -> Tensor:
    """Return the weighted sum of each token's experts.

    Args:
        counts: how many times each expert is in ``index``.
    """
    activation: Any = module._modules[module.__dict__["_stacked"][2]]
    order = index.reshape(-1).argsort(stable=True)
    rows = x[order // index.shape[1]]
    out = x.new_empty(len(rows), x.shape[1])
    for expert, crossover, inputs, result in zip(
        prepared.experts,
        module.__dict__["_crossovers"],
        torch.split(rows, counts),
        torch.split(out, counts),
        strict=True,
    ):
        if len(inputs):
            result.copy_(_computed(expert, activation, inputs, crossover))
    weighted = out * weights.reshape(-1)[order, None]
    in_order = torch.empty_like(weighted)
    in_order[order] = weighted
    return in_order.view(*index.shape, x.shape[1]).sum(1).to(x.dtype)


def _computed(expert: _Expert, activation: Any, x: Tensor, crossover: Crossover) -> Tensor:
    """Return what an expert makes of its tokens."""
    first, up, rows, product = expert
    hidden = activation(F.linear(x, first))
    out = multiply(product, lambda: None, crossover, hidden, rows, None, up, None, None if up is None else x)
    if out is not None:
        return out
    return dense_down(hidden, rows, None, None) if up is None else dense_gated(hidden, x, up, None, rows, None)


def install_planned_experts(mlps: Sequence[MLP], planned: Sequence[Plan]) -> None:
    """Convert experts with stacked weights if at least one of them is planned to skip neurons.

    Args:
        planned: one for each of the MLPs.
    """
    groups: dict[int, tuple[StackedExperts, dict[int, Plan]]] = {}
    for mlp, item in zip(mlps, planned, strict=True):
        if mlp.stacked is not None:
            _, plans = groups.setdefault(id(mlp.stacked), (mlp.stacked, {}))
            plans[mlp.site.expert or 0] = item
    for stacked, plans in groups.values():
        if any(item.kind != "dense" for item in plans.values()):
            # The weights of all experts are stored neuron by neuron, also of those that weren't planned for.
            crossovers = [plans[number].crossover if number in plans else NEVER for number in range(len(stacked.up))]
            install_experts(stacked, crossovers)


def install_experts(stacked: StackedExperts, crossovers: Sequence[Crossover]) -> None:
    """Let experts skip their inactive neurons.

    Args:
        stacked: the experts of a module that isn't converted yet.
        crossovers: for each expert, the activation ratios above which the dense product is faster.
    """
    module = stacked.module
    _store_by_neurons(stacked.down)
    if stacked.gated:
        move_to_large_pages(stacked.up)
    module.__class__ = class_of(SparseExperts, type(module))
    module._stacked = (stacked.up_name, stacked.down_name, stacked.activation_name, stacked.gated, stacked.width)
    module._crossovers, module._product = tuple(crossovers), None


def _store_by_neurons(down: nn.Parameter) -> None:
    """Store down projections, (experts, features, width), by neurons."""
    rows = down.detach().transpose(1, 2)
    if rows.is_contiguous():
        return
    with torch.inference_mode(False):  # an inference tensor could never be trained
        down.data = in_large_pages(rows).transpose(1, 2)
        if down.grad is not None:  # autograd expects the weight's layout
            down.grad = down.grad.transpose(1, 2).contiguous().transpose(1, 2)


def _layouts(stacked: StackedExperts) -> tuple[Any, ...]:
    return tuple(
        (weight.data_ptr(), weight.shape, weight.stride(), weight.dtype) for weight in (stacked.up, stacked.down)
    )
