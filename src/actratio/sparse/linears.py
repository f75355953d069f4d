"""Linear layers whose product reads all weights, but reads them faster than torch's where that was measured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from actratio.sites.linear import rows_of
from actratio.sparse.converted import Converted, class_of, restore_class
from actratio.sparse.crossover import Crossover
from actratio.sparse.kernels import operator
from actratio.sparse.kernels.dispatch import multiply, prepare_full
from actratio.sparse.kernels.product import Product, Weights


class FastLinear(Converted):
    """A linear layer that uses another dense product for the batch sizes where it is faster. The order of its weight in memory doesn't change."""

    _prefix = "Fast"

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self._compiled(x)
        state = self.__dict__  # nn.Module's own look-up of parameters is slow
        parameters = state["_parameters"]
        out = None
        if "weight" in parameters and "bias" in parameters:
            weight, bias = parameters["weight"], parameters["bias"]
            out = multiply(state["_product"], self._prepare, state["_crossover"], x, weight, bias)
        if out is None:
            out = self._dense_class.forward(self, x)
        return out

    def _compiled(self, x: Tensor) -> Tensor:
        state: Any = self
        if x.device.type == "cpu" and operator.may_compile(x, state.weight):
            return operator.dense_linear(x, rows_of(self), state.bias, list(state._crossover.ratios))
        out: Tensor = self._dense_class.forward(self, x)
        return out

    def _prepare(self) -> Product | None:
        state: Any = self
        state._product = prepare_full(Weights(rows_of(self), state.bias, parameter=state.weight))
        product: Product | None = state._product
        return product

    def _leave(self) -> None:
        restore_class(self, "_crossover", "_product")


def has_full_kernel(layer: Any) -> bool:
    """Return whether a kernel supports the dense product of a linear layer."""
    return prepare_full(Weights(rows_of(layer))) is not None


def install_fast(layer: Any, crossover: Crossover) -> None:
    """Give a linear layer the other dense product.

    Args:
        layer: torch's ``Linear`` or transformers' ``Conv1D``, which isn't converted yet.
        crossover: a ratio above 0 for each batch size at which the other product is faster.
    """
    layer.__class__ = class_of(FastLinear, type(layer))
    layer._crossover, layer._product = crossover, None
