"""A product with fixed weights, on any device, and the one place that decides whether a call may use it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from actratio.sites.followed import is_followed

_inner: Any = torch._C  # has no types for these functions
_forward_ad: Any = torch.autograd.forward_ad
_PLAIN = (Tensor, torch.nn.Parameter)  # subclasses may store other numbers, or none


class Weights(NamedTuple):
    """The weights of a product. All are on the device of ``rows``. Thresholds and scales are float32, biases have the activations' type.

    Attributes:
        rows: (width, features), the down projection by neurons.
        bias: (features,).
        thresholds: (width,). A neuron is active where |h| is larger, or h is NaN. Without thresholds: where h ≠ 0.
        up: (width, inputs), the up projection of a gated MLP.
        up_bias: (width,).
        parameter: what calls pass to ``Product.accepts`` in place of ``rows``: the parameter that ``rows`` is a view of.
        scales: (features,), if ``rows`` is int8: the weight is rowsᵢⱼ · scalesⱼ.
        up_scales: (width,), if ``up`` is int8: the weight is up_scalesᵢ · upᵢ.
        dtype: of the activations and the output; by default that of ``rows``.
    """

    rows: Tensor
    bias: Tensor | None = None
    thresholds: Tensor | None = None
    up: Tensor | None = None
    up_bias: Tensor | None = None
    parameter: Tensor | None = None
    scales: Tensor | None = None
    up_scales: Tensor | None = None
    dtype: torch.dtype | None = None

    @property
    def activation_dtype(self) -> torch.dtype:
        return self.rows.dtype if self.dtype is None else self.dtype

    def detached(self) -> Weights:
        """Return the weights without their gradients."""
        return Weights(*(item.detach() if isinstance(item, Tensor) else item for item in self))  # type: ignore[arg-type]


class Product(ABC):
    """Σᵢ hᵢ · rowsᵢ + bias over the active neurons. With an up projection, hᵢ is gᵢ · (upᵢ · x + up_biasᵢ).

    A kernel is a subclass. It says which weights it supports and computes calls that were accepted.

    Attributes:
        device_type: the device that the kernel runs on.
        dtypes: the types of activations that the kernel supports. Weights have the same type, or int8.
        reads_int8: whether the kernel supports int8 weights.
        by_outputs: whether the kernel reads all weights, stored by outputs as in torch's layers: ``rows`` transposed is contiguous.
        weights: the weights, which the product keeps alive; ``None`` after ``release_weights``.
        scales_at: addresses of ``scales`` and ``up_scales``.

    Raises:
        ValueError: if the kernel doesn't support these weights.
    """

    device_type: ClassVar[str]
    dtypes: ClassVar[tuple[torch.dtype, ...]]
    reads_int8: ClassVar[bool] = False
    by_outputs: ClassVar[bool] = False

    def __init__(self, weights: Weights) -> None:
        if not self.supports(weights):
            shape, dtype, device = tuple(weights.rows.shape), weights.rows.dtype, weights.rows.device
            raise ValueError(
                f"{type(self).__name__} does not support these weights (rows: {shape}, {dtype}, {device}); "
                "call dispatch.prepare, which returns None if no kernel does"
            )
        self.width, self.features = weights.rows.shape
        self.inputs = 0 if weights.up is None else weights.up.shape[1]
        self.dtype, self.device = weights.activation_dtype, weights.rows.device
        weight = weights.rows if weights.parameter is None else weights.parameter
        self._layouts = _layout(weight), _layout(weights.bias), _layout(weights.up), _layout(weights.up_bias)
        self.scales_at = address(weights.scales), address(weights.up_scales)
        self.weights: Weights | None = weights.detached()

    @classmethod
    def supports(cls, weights: Weights) -> bool:
        """Return whether the kernel can multiply by such weights."""
        rows, up = weights.rows, weights.up
        stored, dtype = rows.dtype, weights.activation_dtype
        if rows.device.type != cls.device_type or dtype not in cls.dtypes or rows.ndim != 2:
            return False
        is_int8 = stored == torch.int8
        if not (is_int8 and cls.reads_int8 if is_int8 else stored == dtype):
            return False
        if is_int8 != (weights.scales is not None) or (is_int8 and up is not None) != (weights.up_scales is not None):
            return False
        if weights.parameter is not None and type(weights.parameter) not in _PLAIN:
            return False
        width, features = rows.shape
        inputs = 0 if up is None else up.shape[-1]
        stored_rows = rows.t() if cls.by_outputs else rows
        return all(
            tensor is None or _is_readable(tensor, expected, rows.device, shape)
            for tensor, expected, shape in (
                (stored_rows, stored, stored_rows.shape),
                (weights.bias, dtype, (features,)),
                (weights.thresholds, torch.float32, (width,)),
                (weights.scales, torch.float32, (features,)),
                (up, stored, (width, inputs)),
                (weights.up_bias, dtype, (width,)),
                (weights.up_scales, torch.float32, (width,)),
            )
        )

    def accepts(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        up: Tensor | None = None,
        up_bias: Tensor | None = None,
        x: Tensor | None = None,
    ) -> bool:
        """Return whether this product computes what a dense one would for this call.

        Args:
            hidden: (…, width), the activation, or the gate after its activation function.
            weight: ``Weights.parameter``, or ``Weights.rows`` if that is not set.
            bias: (features,).
            up: (width, inputs).
            up_bias: (width,).
            x: (…, inputs), what the up projection reads.
        """
        return (
            not needs_dense(hidden, weight, bias, up, up_bias, x)
            and self.reads(weight, bias, up, up_bias)
            and self._fits(hidden, self.width)
            and (
                x is None
                if up is None
                else x is not None and self._fits(x, self.inputs) and x.shape[:-1] == hidden.shape[:-1]
            )
        )

    def reads(
        self, weight: Tensor, bias: Tensor | None = None, up: Tensor | None = None, up_bias: Tensor | None = None
    ) -> bool:
        """Return whether the weights are still where they were, with the same layout. If not, prepare a new product."""
        return self._layouts == (_layout(weight), _layout(bias), _layout(up), _layout(up_bias))

    def _fits(self, x: Tensor, size: int) -> bool:
        """Return whether the kernel can read an input, once it is contiguous. ``dispatch.multiply`` handles empty batches."""
        return (
            type(x) in _PLAIN
            and x.dtype is self.dtype
            and x.device == self.device
            and x.ndim > 0
            and x.size(-1) == size
            and not x.is_neg()  # its numbers would have to be negated first
        )

    @abstractmethod
    def __call__(self, hidden: Tensor, max_active: int, x: Tensor | None = None) -> Tensor | None:
        """Multiply. The call must have been accepted.

        Args:
            hidden: (…, width), contiguous.
            max_active: the number of active neurons, over the whole batch, above which a dense product is faster.
            x: (…, inputs), contiguous.

        Returns:
            (…, features), or ``None`` if a dense product should be used: more neurons are active.
        """

    def release_weights(self) -> bool:
        """Stop keeping the weights alive, and return True, if the kernel needs no more than their addresses."""
        return False

    def __reduce__(self) -> Any:
        return type(None), ()  # a copy's weights have other addresses


def _is_readable(tensor: Tensor, dtype: torch.dtype, device: torch.device, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor's numbers are in memory as a kernel expects them."""
    return (
        type(tensor) in _PLAIN
        and (tensor.dtype, tensor.device) == (dtype, device)
        and tensor.shape == shape
        and tensor.is_contiguous()
        and tensor.numel() > 0
        and not tensor.is_neg()
    )


def needs_dense(*tensors: Tensor | None) -> bool:
    """Return whether something would miss a kernel's operations: autograd, autocast, a tracer, or a transformation."""
    return (
        (torch.is_grad_enabled() and wants_gradients(*tensors))
        or _inner._is_any_autocast_enabled()
        or is_followed()
        or _inner._get_tracing_state() is not None  # torch.jit.trace
        or _inner._functorch.peek_interpreter_stack() is not None  # torch.func
        or _forward_ad._current_level >= 0
        or _inner._len_torch_dispatch_stack() > 0  # make_fx, and other modes that see every operation
    )


def wants_gradients(*tensors: Tensor | None) -> bool:
    """Return whether autograd would record an operation on these tensors."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _layout(tensor: Tensor | None) -> tuple[Any, ...] | None:
    if tensor is None:
        return None
    if type(tensor) in _PLAIN:
        return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
    return ()  # equal to no layout that a product was prepared for


def address(x: Tensor | None) -> int:
    """Return the address of a tensor's numbers; 0 if there is no tensor."""
    return 0 if x is None else x.data_ptr()
