"""The product of int8 weights that are converted back first, for calls that no kernel computes, or that have many examples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from actratio.sparse.kernels.dispatch import is_fast_by_neurons

SLICE = 1 << 22
"""Numbers that are converted at a time, so that little extra memory is needed."""

MAX_BATCH = 32
"""Examples of a call above which the weight is converted back first: the dense product then takes longer than that."""

_PART = 1 << 20
"""Numbers that a CPU converts at a time before it multiplies by them, so that they stay in its cache."""


def dequantize(quantized: Tensor, scales: Tensor, dtype: torch.dtype, axis: int = 0) -> Tensor:
    """Return a matrix times its scales, rounded to a type.

    Args:
        quantized: (rows, columns), int8.
        scales: float32, (rows,), or (columns,) if ``axis`` is 1.
    """
    factors = scales[:, None] if axis == 0 else scales[None].expand(len(quantized), -1)
    weight = torch.empty(quantized.shape, dtype=dtype, device=quantized.device)
    step = max(1, SLICE // quantized.shape[1])
    for start in range(0, len(quantized), step):
        part = slice(start, start + step)
        weight[part].copy_(quantized[part]).mul_(factors[part])
    return weight


def float_weight(rows: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a linear layer's weight, (outputs, inputs).

    Args:
        rows: (inputs, outputs), int8.
        scales: (outputs,), float32.
    """
    if rows.stride(1) == 1:  # stored by inputs
        return dequantize(rows, scales, dtype, axis=1).t()
    return dequantize(rows.t(), scales, dtype)


def dense_int8(x: Tensor, rows: Tensor, scales: Tensor, bias: Tensor | None, thresholds: Tensor | None) -> Tensor:
    """Return the product of a linear layer, where inputs at or below their threshold count as zero.

    On CPUs, a part of the outputs is computed at a time: its weights are converted back into the cache, and are used there. Writing
    a large weight to memory would take longer than the product.

    Args:
        x: (…, inputs).
        rows: (inputs, outputs), int8.
        scales: (outputs,), float32.
        bias: (outputs,).
        thresholds: (inputs,).
    """
    if thresholds is not None:
        x = torch.where(x.abs() <= thresholds, 0, x)
    inputs, outputs = rows.shape
    step = max(1, _PART // inputs) if x.device.type == "cpu" and not torch.compiler.is_compiling() else outputs
    parts = []
    for start in range(0, outputs, step):
        part = slice(start, start + step)
        weight = float_weight(rows[:, part], scales[part], x.dtype)
        if not is_fast_by_neurons(weight):
            weight = weight.contiguous()
        parts.append(F.linear(x, weight, None if bias is None else bias[part]))
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)
