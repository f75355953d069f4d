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
from actratio.sites.linear import rows_of
from actratio.sparse.crossover import Crossover
from actratio.sparse.kernels import dispatch as products
from actratio.sparse.layers import neuron_major


class Sparse(nn.Module):
    """What the sparse classes share: how to leave them again, and how to be copied and saved.

    Attributes:
        _sparse_class: the sparse class.
        _dense_class: the class that it was made of.
    """

    # Names that no module of somebody else's has.
    _sparse_class: type[Sparse]
    _dense_class: type[nn.Module]

    def _leave(self) -> None:
        """Be dense again."""
        raise NotImplementedError

    def _apply(self, *arguments: Any, **options: Any) -> Any:
        module: Any = super()
        made = module._apply(*arguments, **options)
        self.__dict__["_product"] = None  # it would keep weights alive that are no longer of use
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _empty, (self._sparse_class, self._dense_class), self.__dict__


class SparseDown(Sparse):
    """A linear layer that reads only the weights of inputs that are not zero."""

    def forward(self, hidden: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self._compiled(hidden)
        known = self.__dict__  # a module's own look-up of parameters is slow
        product, crossover = known["_product"], known["_crossover"]
        if product is None:
            return self._carefully(hidden)
        most = crossover.most(hidden.numel() // product.width, product.width)
        if not most:
            return self._densely(hidden)
        weight, bias = known["_parameters"].get("weight"), known["_parameters"].get("bias")
        if (
            weight is None  # computed by a parametrization
            or torch.is_grad_enabled()
            or not products.suits(hidden, weight)
            or not product.is_at(weight, bias)
            or (weight.shape, weight.stride()) != known["_laid"]
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
            out: Tensor = self._dense_class.forward(self, hidden)
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
        rows, bias = self._rows_by_neurons(), state.bias
        if state._product is None or not state._product.is_of(rows, bias):  # moved, converted, copied, or another one
            state._product = products.prepare(rows, bias, state._thresholds)
        state._laid = state.weight.shape, state.weight.stride()
        return products.down(state._product, hidden, rows, bias, state._thresholds, state._crossover)

    def _rows_by_neurons(self) -> Tensor:
        """The weight by its inputs, laid out anew where another one was loaded in the place of ours."""
        rows = rows_of(self)
        weight = self._parameters.get("weight")
        if (
            not rows.is_contiguous()
            and type(weight) is nn.Parameter
            and weight.untyped_storage().nbytes() == weight.nbytes  # and is no view of what somebody else holds
            and products.has_kernel(neuron_major(rows[:2]))
        ):
            with torch.inference_mode(False):  # or it could never be trained
                _lay_by_neurons(self)
            rows = rows_of(self)
        return rows

    def _leave(self) -> None:
        _forget(self, "_thresholds", "_crossover", "_product", "_laid")
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
            or not (_is_alone(up, nn.Linear) and _is_alone(down, _class_of(SparseDown, nn.Linear)))
            or products.wants_gradients(x, gate.weight, up.weight, down.weight)
        ):
            whole: Tensor = self._dense_class.forward(self, x)
            return whole
        rows = down._rows_by_neurons()
        if known["_product"] is None or not known["_product"].is_of(rows, down.bias, up.weight, up.bias):
            known["_product"] = products.prepare(rows, down.bias, None, up.weight, up.bias)
        return products.gated(
            known["_product"], act(gate(x)), x, up.weight, up.bias, rows, down.bias, known["_crossover"]
        )

    def _leave(self) -> None:
        _forget(self, "_parts", "_crossover", "_product")


def _child(module: Any, name: str) -> Any:
    return module._modules[name]


def _is_alone(module: Any, kind: type[nn.Module]) -> bool:
    """Whether a module may be computed without being called: it is what it was, and nothing hooks on it."""
    return (
        type(module) is kind
        and "forward" not in module.__dict__
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and not nn.modules.module._global_forward_hooks
        and not nn.modules.module._global_forward_pre_hooks
    )


def install_down(layer: Any, thresholds: Tensor | None, crossover: Crossover) -> None:
    """Make a linear layer sparse, or give one that is so other thresholds and another crossover."""
    if not isinstance(layer, Sparse):
        _lay_by_neurons(layer)
        layer.__class__ = _class_of(SparseDown, type(layer))
    # No buffer: a model that is converted to another type and back must not round them.
    layer._thresholds = None if thresholds is None else thresholds.detach().float().to(layer.weight.device).contiguous()
    layer._crossover, layer._product, layer._laid = crossover, None, None


def _lay_by_neurons(layer: Any) -> None:
    turned = isinstance(layer, nn.Linear)
    rows = neuron_major(rows_of(layer).detach())
    layer.weight.data = rows.t() if turned else rows
    if layer.weight.grad is not None:  # autograd wants it to lie as its weight does
        layer.weight.grad = layer.weight.grad.t().contiguous().t() if turned else layer.weight.grad.contiguous()


def install_gated(owner: Any, parts: tuple[nn.Module, nn.Module, nn.Module, nn.Module], crossover: Crossover) -> None:
    """Make a gated MLP sparse, of which these are gate, activation, up and (sparse) down projection."""
    names = {id(module): name for name, module in owner.named_modules()}
    owner.__class__ = _class_of(SparseGated, type(owner))
    owner._parts = tuple(tuple(names[id(part)].split(".")) for part in parts)
    owner._crossover, owner._product = crossover, None


def _forget(module: Sparse, *names: str) -> None:
    if type(module) is not _class_of(module._sparse_class, module._dense_class):
        raise SiteError(
            f"a {type(module).__name__} was put on a sparse layer; remove its parametrization before it is dense again"
        )
    for name in names:
        module.__dict__.pop(name, None)
    module.__class__ = module._dense_class  # type: ignore[assignment]


def _class_of(sparse: type[Sparse], dense: type[nn.Module]) -> type[nn.Module]:
    if (sparse, dense) not in _classes:
        _classes[sparse, dense] = _new_class(sparse, dense)
    return _classes[sparse, dense]


_classes: dict[tuple[type, type], type[nn.Module]] = {}


def _new_class(sparse: type[Sparse], dense: type[nn.Module]) -> type[nn.Module]:
    members = {"__doc__": sparse.__doc__, "__module__": __name__, "_sparse_class": sparse, "_dense_class": dense}
    return type(f"Sparse{dense.__name__}", (sparse, dense), members)


def _empty(sparse: type[Sparse], dense: type[nn.Module]) -> nn.Module:
    kind = _class_of(sparse, dense)
    return kind.__new__(kind)
