"""The product of int8 weights that are converted back first, for calls that no kernel computes, or that have many examples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

SLICE = 1 << 22
"""Numbers that are converted at a time, so that little memory is needed beside the weights."""

MAX_BATCH = 128
"""Examples of a call above which the weight is converted back first: the dense product then takes longer than that."""


def dequantize(quantized: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return scaleᵢ · rowᵢ, rounded to a type.

    Args:
        quantized: (rows, columns), int8.
        scales: (rows,), float32.
    """
    weight = torch.empty(quantized.shape, dtype=dtype, device=quantized.device)
    step = max(1, SLICE // quantized.shape[1])
    for start in range(0, len(quantized), step):
        weight[start : start + step] = quantized[start : start + step] * scales[start : start + step, None]
    return weight


def float_weight(rows: Tensor, scales: Tensor, by_neurons: bool, dtype: torch.dtype) -> Tensor:
    """Return a linear layer's weight, (outputs, inputs).

    Args:
        rows: (inputs, outputs), int8.
        scales: (inputs,) if ``by_neurons``, else (outputs,).
    """
    return dequantize(rows, scales, dtype).t() if by_neurons else dequantize(rows.t(), scales, dtype)


def dense_int8(
    x: Tensor, rows: Tensor, scales: Tensor, bias: Tensor | None, thresholds: Tensor | None, by_neurons: bool
) -> Tensor:
    """Return the product of a linear layer, where inputs at or below their threshold count as zero.

    Args:
        x: (…, inputs).
        rows: (inputs, outputs), int8, as are the others those of ``float_weight``.
        bias: (outputs,).
        thresholds: (inputs,).
    """
    if thresholds is not None:
        x = torch.where(x.abs() <= thresholds, 0, x)
    return F.linear(x, float_weight(rows, scales, by_neurons, x.dtype), bias)
