"""The torch functions that a forward pass is followed through, by what they do to the data.

They are compared by name, so ``torch.mul``, ``Tensor.mul``, ``Tensor.__mul__`` and ``Tensor.mul_`` are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


NONLINEAR = _names(
    "relu relu6 gelu silu mish elu selu celu leaky_relu prelu rrelu hardswish hardtanh hardsigmoid hardshrink softshrink "
    "tanhshrink threshold softplus softsign logsigmoid log_sigmoid sigmoid expit tanh erf exp log square pow abs sqrt rsqrt sin cos "
    "maximum minimum where special_expit atan arctan sinh cosh erfc gt ge lt le greater greater_equal less less_equal sign sgn "
    "heaviside fmax fmin logaddexp tan asin acos asinh acosh atanh log2 log10 log1p expm1 exp2 reciprocal sinc eq ne not_equal isnan "
    "logical_not logical_and logical_or logical_xor bitwise_not bitwise_and bitwise_or"
)
"""Functions of single neurons that are not affine; their output is an activation."""

PRODUCT = _names("mul multiply")
"""A gate, a scale, or a function of one neuron written out, such as x · σ(x)."""

AFFINE = _names(
    "add sub rsub subtract div true_divide divide neg negative clamp clip masked_fill round nan_to_num floor ceil trunc"
)
"""Functions that keep the output of a linear map linear."""

MOVES = AFFINE - _names("div true_divide divide masked_fill")
"""Affine functions that change which neurons of an activation are zero, so their output is the activation; others scale it."""

CONVOLUTION = _names("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")

LINEAR = CONVOLUTION | _names("linear matmul mm bmm addmm baddbmm einsum grouped_mm _grouped_mm grouped_mm_fallback")
"""Matrix products, which are linear maps if one side is a weight."""

SPATIAL = _names(
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d interpolate upsample lp_pool1d lp_pool2d"
)
"""Functions of a channel's positions."""

ALIAS = _names(
    "view reshape contiguous clone to type type_as float half bfloat16 double transpose t permute flatten unflatten squeeze "
    "unsqueeze dropout dropout1d dropout2d alpha_dropout feature_dropout feature_alpha_dropout detach expand expand_as movedim "
    "swapaxes swapdims view_as reshape_as chunk split split_with_sizes tensor_split unbind narrow select index_select gather "
    "__getitem__ __get__ pad repeat repeat_interleave layer_norm rms_norm group_norm batch_norm instance_norm normalize cat concat "
    "stack roll flip"
)
"""Functions that move, select, cast or rescale neurons without mixing them."""

PERMUTES = _names("transpose t permute movedim swapaxes swapdims")
"""Functions that only change the order of the axes."""

SPLITS = _names("chunk split split_with_sizes tensor_split unbind narrow select __getitem__")
"""Functions that can cut a fused projection into its gate and its up half."""

SUMS = _names("add sub rsub subtract")

CONSTANT = _names("zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full tensor")
"""Functions whose output doesn't depend on the data."""

KNOWN = NONLINEAR | PRODUCT | AFFINE | LINEAR | ALIAS

_OPERATORS = {
    "__mul__": "mul", "__rmul__": "mul", "__imul__": "mul", "__add__": "add", "__radd__": "add", "__iadd__": "add",
    "__sub__": "sub", "__rsub__": "sub", "__isub__": "sub", "__truediv__": "div", "__rtruediv__": "div",
    "__itruediv__": "div", "__pow__": "pow", "__ipow__": "pow", "__neg__": "neg", "__matmul__": "matmul",
    "__rmatmul__": "matmul", "clamp_min": "clamp", "clamp_max": "clamp", "__gt__": "gt", "__ge__": "ge", "__lt__": "lt",
    "__le__": "le", "_threshold": "threshold", "__invert__": "bitwise_not", "__and__": "bitwise_and", "__or__": "bitwise_or",
}  # fmt: skip
_IN_PLACE_OPERATORS = _names("__imul__ __iadd__ __isub__ __itruediv__ __ipow__")

# Modules that are not functions of single neurons.
_NOT_ACTIVATIONS = _names("MultiheadAttention Softmax Softmax2d LogSoftmax Softmin GLU")
_ACTIVATION_MODULES = ("torch.nn.modules.activation", "transformers.activations")


def canonical_name(func: Callable[..., Any]) -> tuple[str, bool]:
    """Return the name that the sets above use, and whether the function writes into its first argument."""
    name = str(getattr(func, "__name__", type(func).__name__)).partition(".")[0]
    in_place = name in _IN_PLACE_OPERATORS or (name.endswith("_") and not name.endswith("__"))
    name = name.rstrip("_") if in_place and name not in _OPERATORS else name
    return _OPERATORS.get(name, name), in_place


def of_two_tensors(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the name of a function, ``maximum`` for ``torch.max`` of two tensors."""
    second = args[1] if len(args) > 1 else kwargs.get("other")
    return f"{name}imum" if name in ("max", "min") and isinstance(second, Tensor) else name


def writes(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a call writes into its first argument, because it is told to or always does."""
    if kwargs.get("inplace") is True or name == "__setitem__":
        return True
    if "dropout" in name:
        return len(args) > 3 and args[3] is True
    return name in NONLINEAR and len(args) > 1 and args[-1] is True


def is_activation(module: nn.Module) -> bool:
    """Return whether a module is an activation function of torch or transformers."""
    kind = type(module)
    return kind.__module__ in _ACTIVATION_MODULES and kind.__name__ not in _NOT_ACTIVATIONS


def has_transposed_weight(module: nn.Module) -> bool:
    """Return whether a linear map's weight is (inputs, outputs), by the name of its class: transformers' ``Conv1D`` and its variants."""
    return type(module).__name__.endswith("Conv1D")


def linear_sizes(module: nn.Module) -> tuple[int, int] | None:
    """Return the numbers of outputs and inputs of a linear map, by the names that torch or transformers give them."""
    names = ("nf", "nx") if has_transposed_weight(module) else ("out_features", "in_features")
    out, given = (getattr(module, name, None) for name in names)
    return (out, given) if isinstance(out, int) and isinstance(given, int) else None


def is_opaque_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear map whose weight isn't a floating-point matrix, for example because it's quantised."""
    sizes = linear_sizes(module)
    if sizes is None or not ("Linear" in type(module).__name__ or has_transposed_weight(module)):
        return False
    out, given = sizes
    # Scales and low-rank parts are smaller than the weight. A module with linear maps inside may be a whole MLP.
    return not any(
        is_lazy(weight)
        or (weight.is_floating_point() and weight.ndim > 1 and ("." in name or weight.numel() >= out * given))
        for name, weight in module.named_parameters()
    )


def is_norm(module: nn.Module) -> bool:
    """Return whether a module normalises data, by the name of its class; weight norm computes a weight."""
    kind = type(module)
    is_of_weights = kind.__module__.startswith("torch.nn.utils.")
    return "norm" in kind.__name__.lower() and next(module.children(), None) is None and not is_of_weights


def function_name(module: nn.Module) -> str:
    """Return the name of an activation function: ``silu`` for ``nn.SiLU`` and ``SiLUActivation``."""
    return type(module).__name__.removesuffix("Activation").lower()


def is_relu(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a call is a clamp at zero, from below (ReLU) or from above; a clamp at other bounds keeps numbers small."""
    if name not in ("clamp", "clip"):
        return False
    bounds = dict(zip(("min", "max"), args[1:], strict=False)) | {
        key: kwargs[key] for key in ("min", "max") if key in kwargs
    }
    return any(_is_zero(bound) for bound in bounds.values())


def _is_zero(bound: Any) -> bool:
    if isinstance(bound, Tensor):
        return not bound.is_meta and not bound.any()
    return bound is not None and bound == 0


def contracted_last(args: tuple[Any, ...]) -> bool | None:
    """Return whether an ``einsum`` of data and a weight sums over the weight's last axis, or over its last but one.

    ``None`` if it sums over other axes, or not over the data's last axis.
    """
    left, arrow, right = str(args[0]).replace(" ", "").replace("...", "").partition("->")
    terms = left.split(",")
    if len(terms) != 2 or not arrow:
        return None
    data, weight = terms
    summed = [letter for letter in weight if letter in data and letter not in right]
    if len(summed) != 1 or not data.endswith(summed[0]) or summed[0] not in weight[-2:]:
        return None
    return weight.endswith(summed[0])


def index_of(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what ``__getitem__`` or ``index_select`` selects along the first axis, if it selects nothing else."""
    if name == "__getitem__" and len(args) > 1:
        return args[1]
    if name == "index_select":
        given = dict(zip(("dim", "index"), args[1:], strict=False)) | kwargs
        return given.get("index") if given.get("dim") == 0 else None
    return None


def flat(values: Iterable[Any]) -> Iterator[Any]:
    """Yield the values in nested lists and tuples, one after the other."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from flat(value)
        else:
            yield value
