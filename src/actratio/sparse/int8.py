"""Linear layers with 8-bit weights.

A weight is stored as int8 with a float32 scale for each output: w = scale · q, where scale = max |w| / 127 over the weights of the
output and q = w / scale, rounded to the nearest integer. Products add up activations times q in float32, and multiply the sums by
the scales; activations stay as they are.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from actratio.errors import SiteError
from actratio.sites.linear import rows_of
from actratio.sparse.converted import Converted, class_of, has_own_memory, restore_class, thresholds_of
from actratio.sparse.crossover import ALWAYS
from actratio.sparse.kernels import operator
from actratio.sparse.kernels.dispatch import dense_down, multiply, prepare, prepare_dense
from actratio.sparse.kernels.int8_weights import MAX_BATCH, SLICE, dense_int8, float_weight
from actratio.sparse.kernels.product import Product, Weights
from actratio.sparse.layers import in_large_pages

WEIGHT_SCALE = "weight_scale"
"""The buffer with the scales of a weight, (outputs,)."""

_LARGEST = 127


def quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight as int8, and the scale of each row, float32.

    Args:
        rows: (rows, columns), any floating-point type.

    Raises:
        SiteError: a number isn't finite.
    """
    quantized = torch.empty(rows.shape, dtype=torch.int8, device=rows.device)
    scales = torch.empty(len(rows), device=rows.device)
    step = max(1, SLICE // rows.shape[1])
    for start in range(0, len(rows), step):
        part = rows[start : start + step].float()
        scale = part.abs().amax(1) / _LARGEST
        if not bool(scale.isfinite().all()):
            raise SiteError("a weight has numbers that are not finite and cannot be stored in 8 bits; check the model")
        scales[start : start + step] = scale
        quantized[start : start + step] = (part / torch.where(scale == 0, 1, scale)[:, None]).round()
    return quantized, scales


class Int8Linear(Converted):
    """A linear layer with an int8 weight, of the same shape as before, and a float32 buffer with its scales, ``weight_scale``."""

    _prefix = "Int8"

    def forward(self, x: Tensor) -> Tensor:
        state = self.__dict__
        parameters = state["_parameters"]
        weight, bias = parameters["weight"], parameters["bias"]
        if weight.dtype is not torch.int8:  # something put another weight in its place
            return dense_down(x, rows_of(self), bias, thresholds_of(self))
        if not x.is_floating_point():
            # Some code converts its input to the type of the weight. Like a dense layer, this raises an error.
            return F.linear(x, self._float_weight(), bias)
        if torch.compiler.is_compiling():
            return self._compiled(x)
        product = state["_product"]
        if product is not None and self._scales().data_ptr() not in product.scales_at:
            state["_product"] = None  # other scales were put in their place
        if x.numel() <= MAX_BATCH * state["_inputs"]:
            renew = partial(self._prepare, x.dtype)
            out = multiply(state["_product"], renew, ALWAYS, x, weight, bias)
            if out is not None:
                return out
        return self._dense(x)

    def _dense(self, x: Tensor) -> Tensor:
        state: Any = self
        thresholds = thresholds_of(self)
        return dense_int8(x, rows_of(self), self._scales(), state.bias, thresholds)

    def _compiled(self, x: Tensor) -> Tensor:
        """Call the operator, or, if gradients may be wanted, the dense product, which the compiler can trace."""
        state: Any = self
        weights = rows_of(self), self._scales(), state.bias, state._thresholds
        if not operator.may_compile(x, state.weight):
            return dense_int8(x, *weights)
        return operator.int8_linear(x, *weights, state._by_neurons)

    def _prepare(self, dtype: torch.dtype) -> Product | None:
        state: Any = self
        self._restore_layout()
        weights = Weights(
            rows_of(self), state.bias, thresholds_of(self), parameter=state.weight, scales=self._scales(), dtype=dtype
        )
        product = state._product = prepare(weights) if state._by_neurons else prepare_dense(weights)
        return product

    def _restore_layout(self) -> None:
        """Store the weight in the order in which the kernel reads it, if another one was loaded in its place."""
        module: Any = self
        rows = rows_of(module).detach()
        stored = rows if module._by_neurons else rows.t()
        if rows.dtype is torch.int8 and not stored.is_contiguous() and has_own_memory(module._parameters.get("weight")):
            with torch.inference_mode(False):  # an inference tensor could never be trained
                stored = in_large_pages(stored)
                is_swapped = module._by_neurons == isinstance(module, nn.Linear)
                module.weight.data = stored.t() if is_swapped else stored

    def _scales(self) -> Tensor:
        """Return the scales of the weight in use; an embedding that shares it may have brought another one."""
        state = self.__dict__
        scales: Tensor = state["_buffers"][WEIGHT_SCALE]
        for embedding in state["_embeddings"]:
            other = embedding._buffers.get(WEIGHT_SCALE)
            if other is not None and other is not scales and embedding.weight is state["_parameters"]["weight"]:
                scales = state["_buffers"][WEIGHT_SCALE] = other
        return scales

    def _float_weight(self) -> Tensor:
        """Return the weight, (outputs, inputs), in the type that the model has otherwise."""
        state: Any = self
        return float_weight(rows_of(self), self._scales(), state._float_dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Load int8 weights as they are, and others after rounding them: copying would cut off their digits."""
        _round_loaded(state_dict, prefix, output_axis(self))
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        self._restore_layout()  # compiled code can't

    def _apply(self, fn: Any, *arguments: Any, **options: Any) -> Any:
        return _apply_keeping_scales(self, super()._apply, fn, *arguments, **options)

    def _leave(self) -> None:
        module: Any = self
        is_int8 = module.weight.dtype is torch.int8  # else, something put another weight in its place
        weight = self._float_weight() if is_int8 else module.weight.detach()
        required = module._required_gradients
        embeddings = module._embeddings
        own = "_by_neurons", "_thresholds", "_product", "_inputs", "_embeddings", "_float_dtype", "_required_gradients"
        restore_class(self, *own)
        del module.weight_scale
        weight = weight.t() if is_int8 and not isinstance(module, nn.Linear) else weight
        module.weight = nn.Parameter(weight.contiguous(), requires_grad=required)
        for embedding in embeddings:
            if isinstance(embedding, Converted):
                embedding._leave()
            embedding.weight = module.weight


def output_axis(layer: nn.Module) -> int:
    """Return the axis of a linear layer's weight that has its outputs, and so the scales."""
    return 0 if isinstance(layer, nn.Linear) else 1


class Int8Embedding(Converted):
    """An embedding that shares its int8 weight with the output head."""

    _prefix = "Int8"

    def forward(self, ids: Tensor) -> Tensor:
        state: Any = self
        rows = F.embedding(ids, state.weight, state.padding_idx)
        if rows.dtype is not torch.int8:  # something put another weight in its place
            return rows
        out: Tensor = (rows * state.weight_scale[ids].unsqueeze(-1)).to(state._float_dtype)
        return out

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        _round_loaded(state_dict, prefix, 0)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _apply(self, fn: Any, *arguments: Any, **options: Any) -> Any:
        return _apply_keeping_scales(self, super()._apply, fn, *arguments, **options)

    def _leave(self) -> None:
        restore_class(self, "_product", "_float_dtype")
        module: Any = self  # its weight comes from the linear layer that it is shared with
        del module.weight_scale


def _apply_keeping_scales(module: Any, apply: Any, fn: Any, *arguments: Any, **options: Any) -> Any:
    """Move or convert a module, but keep its scales float32: another type would round them."""
    scales = module._buffers[WEIGHT_SCALE]
    module._float_dtype = fn(torch.empty(0, dtype=module._float_dtype)).dtype
    result = apply(fn, *arguments, **options)
    if module._buffers[WEIGHT_SCALE].dtype != torch.float32:
        module._buffers[WEIGHT_SCALE] = scales.to(module._buffers[WEIGHT_SCALE].device)
    return result


def _round_loaded(state_dict: dict[str, Any], prefix: str, axis: int) -> None:
    """Replace a layer's weight in a ``state_dict`` by int8 and its scales, if it isn't int8 yet.

    Args:
        axis: of the weight that has the outputs.
    """
    weight = state_dict.get(f"{prefix}weight")
    if isinstance(weight, Tensor) and weight.is_floating_point() and weight.ndim == 2:
        quantized, scales = quantize(weight if axis == 0 else weight.t())
        state_dict[f"{prefix}weight"] = quantized if axis == 0 else quantized.t()
        state_dict[f"{prefix}{WEIGHT_SCALE}"] = scales


def share_int8(embedding: Any, layer: Any) -> None:
    """Let an embedding use the int8 weight of the linear layer that it shared its weight with.

    Args:
        embedding: torch's ``Embedding``, whose weight is the one that ``layer`` had.
        layer: has int8 weights.
    """
    embedding.__class__ = class_of(Int8Embedding, nn.Embedding)
    embedding._float_dtype, embedding._product = layer._float_dtype, None
    embedding.weight = layer.weight
    embedding.register_buffer(WEIGHT_SCALE, layer.weight_scale)
    layer._embeddings.append(embedding)


def install_int8(layer: Any, *, by_neurons: bool = False, thresholds: Tensor | None = None) -> None:
    """Store the weight of a linear layer as int8.

    Args:
        layer: torch's ``Linear`` or transformers' ``Conv1D``, which isn't converted yet.
        by_neurons: whether inputs that are zero are skipped.
        thresholds: (inputs,): inputs at or below their threshold count as zero; only with ``by_neurons``.

    Raises:
        SiteError: a weight isn't finite.
    """
    rows, weight = rows_of(layer).detach(), layer.weight
    by_outputs, scales = quantize(rows.t())
    quantized = in_large_pages(by_outputs.t()) if by_neurons else in_large_pages(by_outputs).t()
    layer.__class__ = class_of(Int8Linear, type(layer))
    layer.weight = nn.Parameter(quantized.t() if isinstance(layer, nn.Linear) else quantized, requires_grad=False)
    layer._by_neurons, layer._inputs, layer._product, layer._embeddings = by_neurons, len(rows), None, []
    layer.register_buffer(WEIGHT_SCALE, scales)
    layer._float_dtype, layer._required_gradients = weight.dtype, weight.requires_grad
    layer._thresholds = None if thresholds is None else thresholds.detach().float().to(rows.device).contiguous()
