"""Modules that skip what is zero, and how they take the place of dense ones and leave it again.

A module that is replaced keeps its place, its parameters and their names: it only gets another class, a subclass of its own,
whose ``forward`` multiplies sparsely. The down projection's weight keeps its shape and is laid out by neurons in memory, in
place of the original, so nothing is stored twice.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from actratio.errors import SiteError
from actratio.sparse import products
from actratio.sparse.crossover import Crossover
from actratio.sparse.layers import neuron_major, rows_of


class Sparse(nn.Module):
    """What the sparse classes share: how to leave them again, and how to be copied and saved.

    Attributes:
        kind: the sparse class.
        dense: the class that it was made of.
    """

    kind: type[Sparse]
    dense: type[nn.Module]

    def leave(self) -> None:
        """Be dense again."""
        raise NotImplementedError

    def _apply(self, *arguments: Any, **options: Any) -> Any:
        module: Any = super()
        made = module._apply(*arguments, **options)
        self.__dict__["_product"] = None  # it would keep weights alive that are no longer of use
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _empty, (self.kind, self.dense), self.__dict__


class SparseDown(Sparse):
    """A linear layer that reads only the weights of inputs that are not zero."""

    def forward(self, hidden: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self._compiled(hidden)
        known = self.__dict__  # a module's own look-up of parameters is slow
        product, crossover = known["_product"], known["_crossover"]
        most = 0 if product is None else crossover.most(hidden.numel() // product.width, product.width)
        if product is not None and not most:
            return self._densely(hidden)
        weight, bias = known["_parameters"].get("weight"), known["_parameters"].get("bias")
        if (
            product is None
            or weight is None  # computed by a parametrization
            or torch.is_grad_enabled()
            or not products.suits(hidden, weight)
            or not product.is_of(weight, bias)
            or not hidden.is_contiguous()
            or hidden.ndim == 0
            or hidden.shape[-1] != product.width
        ):
            return self._carefully(hidden)
        out: Tensor | None = product(hidden, most)
        return self._densely(hidden) if out is None else out

    def _densely(self, hidden: Tensor) -> Tensor:
        state: Any = self
        if state._thresholds is None and products.is_dense_as_it_lies(state.weight):
            out: Tensor = self.dense.forward(self, hidden)
            return out
        return products.dense_down(hidden, rows_of(self), state.bias, state._thresholds)

    def _compiled(self, hidden: Tensor) -> Tensor:
        """One operator; or, where gradients may be wanted, the dense product, which the compiler knows."""
        state: Any = self
        if torch.is_grad_enabled() or torch.is_autocast_enabled(hidden.device.type):
            return products.dense_down(hidden, rows_of(self), state.bias, state._thresholds)
        arguments = hidden, rows_of(self), state.bias, state._thresholds, list(state._crossover.ratios)
        out: Tensor = torch.ops.actratio.sparse_down(*arguments)
        return out

    def _carefully(self, hidden: Tensor) -> Tensor:
        state: Any = self
        if state._thresholds is not None and state._thresholds.device != state.weight.device:
            state._thresholds = state._thresholds.to(state.weight.device)
        if not products.suits(hidden, state.weight):
            return self._densely(hidden)
        rows, bias = self.rows_by_neurons(), state.bias
        if state._product is None or not state._product.is_of(rows, bias):  # moved, converted, copied, or another one
            state._product = products.prepare(rows, bias, state._thresholds)
        return products.down(state._product, hidden, rows, bias, state._thresholds, state._crossover)

    def rows_by_neurons(self) -> Tensor:
        """The weight by its inputs, laid out anew where another one was loaded in the place of ours."""
        rows = rows_of(self)
        if not rows.is_contiguous() and "weight" in self._parameters and products.has_kernel(neuron_major(rows[:2])):
            _lay_by_neurons(self)
            rows = rows_of(self)
        return rows

    def leave(self) -> None:
        _forget(self, "_thresholds", "_crossover", "_product")
        module: Any = self
        module.weight.data = module.weight.data.contiguous()
        if module.weight.grad is not None:
            module.weight.grad = module.weight.grad.contiguous()


class SparseGated(Sparse):
    """An MLP, down(act(gate(x)) ⊙ up(x)), that computes only the neurons whose gate is not zero."""

    def forward(self, x: Tensor) -> Tensor:
        known = self.__dict__
        parts: Any = [reduce(_child, names, self) for names in known["_parts"]]
        gate, act, up, down = parts
        if (
            torch.compiler.is_compiling()  # the down projection is sparse by itself
            or self.training
            or not (_is_alone(up, nn.Linear) and _is_alone(down, _sparse_class(SparseDown, nn.Linear)))
            or products.wants_gradients(x, gate.weight, up.weight, down.weight)
        ):
            whole: Tensor = self.dense.forward(self, x)
            return whole
        rows = down.rows_by_neurons()
        if known["_product"] is None or not known["_product"].is_of(rows, down.bias, up.weight, up.bias):
            known["_product"] = products.prepare(rows, down.bias, None, up.weight, up.bias)
        return products.gated(
            known["_product"], act(gate(x)), x, up.weight, up.bias, rows, down.bias, known["_crossover"]
        )

    def leave(self) -> None:
        _forget(self, "_parts", "_crossover", "_product")


def _child(module: Any, name: str) -> Any:
    return module._modules[name]


def _is_alone(module: Any, kind: type[nn.Module]) -> bool:
    """Whether a module may be computed without being called: it is what it was, and nothing hooks on it."""
    return (
        type(module) is kind
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and not nn.modules.module._global_forward_hooks
        and not nn.modules.module._global_forward_pre_hooks
    )


def install_down(layer: Any, thresholds: Tensor | None, crossover: Crossover) -> None:
    """Make a linear layer sparse, or give one that is so other thresholds and another crossover."""
    if not isinstance(layer, Sparse):
        _lay_by_neurons(layer)
        layer.__class__ = _sparse_class(SparseDown, type(layer))
    # No buffer: a model that is converted to another type and back must not round them.
    layer._thresholds = None if thresholds is None else thresholds.detach().float().to(layer.weight.device)
    layer._crossover, layer._product = crossover, None


def _lay_by_neurons(layer: Any) -> None:
    turned = isinstance(layer, nn.Linear)
    rows = neuron_major(rows_of(layer).detach())
    layer.weight.data = rows.t() if turned else rows
    if layer.weight.grad is not None:  # autograd wants it to lie as its weight does
        layer.weight.grad = layer.weight.grad.t().contiguous().t() if turned else layer.weight.grad.contiguous()


def install_gated(owner: Any, parts: tuple[nn.Module, nn.Module, nn.Module, nn.Module], crossover: Crossover) -> None:
    """Make a gated MLP sparse, of which these are gate, activation, up and (sparse) down projection."""
    names = {id(module): name for name, module in owner.named_modules()}
    owner.__class__ = _sparse_class(SparseGated, type(owner))
    owner._parts = tuple(tuple(names[id(part)].split(".")) for part in parts)
    owner._crossover, owner._product = crossover, None


def _forget(module: Sparse, *names: str) -> None:
    if type(module) is not _sparse_class(module.kind, module.dense):
        raise SiteError(
            f"a {type(module).__name__} was put on a sparse layer; remove its parametrization before it is dense again"
        )
    for name in names:
        module.__dict__.pop(name, None)
    module.__class__ = module.dense  # type: ignore[assignment]


def _sparse_class(sparse: type[Sparse], dense: type[nn.Module]) -> type[nn.Module]:
    if (sparse, dense) not in _classes:
        _classes[sparse, dense] = _new_class(sparse, dense)
    return _classes[sparse, dense]


_classes: dict[tuple[type, type], type[nn.Module]] = {}


def _new_class(sparse: type[Sparse], dense: type[nn.Module]) -> type[nn.Module]:
    members = {"__doc__": sparse.__doc__, "__module__": __name__, "kind": sparse, "dense": dense}
    return type(f"Sparse{dense.__name__}", (sparse, dense), members)


def _empty(sparse: type[Sparse], dense: type[nn.Module]) -> nn.Module:
    kind = _sparse_class(sparse, dense)
    return kind.__new__(kind)
