"""Products with sparse activations on GPUs, in Triton: inactive neurons' weights are masked out of the loads.

There is no list of active neurons: each program looks at its neurons' activations, and loads the rows of those that some example
needs. So nothing depends on numbers that the host would have to wait for, and calls can be captured in CUDA graphs. Sums of the
programs that share columns are written apart and added afterwards, always in one order.

Tested in Triton's interpreter, and compiled for one; never timed on a GPU.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from actratio.sparse.kernels import product

LARGEST_BATCH = 16
_DOT = 16  # the least that a matrix product of Triton's takes
_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_NEURONS, _COLUMNS, _SPAN = 32, 128, 512


def takes(rows: Tensor, up: Tensor | None = None) -> bool:
    """Whether these kernels multiply by such weights (width, features), contiguous and on a GPU."""
    return all(
        each.device.type == "cuda" and each.dtype in _TYPES and each.is_contiguous() and each.numel() > 0
        for each in (rows, up if up is not None else rows)
    )


class Product(product.Product):
    """On a GPU; how many neurons are worth it is not counted, for the host would have to wait for it."""

    def __call__(self, hidden: Tensor, most: int, x: Tensor | None = None) -> Tensor | None:
        """As ``product.Product`` says."""
        rows, bias, up, up_bias = self.weights
        assert rows is not None
        width = self.width
        batch = hidden.numel() // width
        if batch > LARGEST_BATCH:
            return None
        size = 1 if batch == 1 else _DOT
        if up is not None and x is not None:
            made = torch.empty_like(hidden)
            _up_kernel[(triton.cdiv(width, _NEURONS),)](
                hidden, x, up, up if up_bias is None else up_bias, made, batch, width, self.inputs,
                BIASED=up_bias is not None, BATCH=size, NEURONS=_NEURONS, INPUTS=64,
            )  # fmt: skip
            hidden = made
        features = self.features
        splits = triton.cdiv(width, _SPAN)
        sums = torch.empty(splits, batch, features, dtype=torch.float32, device=hidden.device)
        cut = self.thresholds is not None
        _down_kernel[(triton.cdiv(features, _COLUMNS), splits)](
            hidden, rows, self.thresholds if cut else hidden, sums, batch, width, features,
            CUT=cut, BATCH=size, NEURONS=_NEURONS, COLUMNS=_COLUMNS, SPAN=_SPAN,
        )  # fmt: skip
        out = sums.sum(0).view(*hidden.shape[:-1], features)
        return (out if bias is None else out + bias).to(hidden.dtype)


@triton.jit
def _down_kernel(
    hidden, rows, thresholds, sums, batch, width, features,
    CUT: tl.constexpr, BATCH: tl.constexpr, NEURONS: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """``sums`` (splits, batch, features): each split of the neurons, each block of columns by one program."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    split = tl.program_id(1)
    example = tl.arange(0, BATCH)
    total = tl.zeros((BATCH, COLUMNS), tl.float32)
    for start in range(0, SPAN, NEURONS):
        neuron = split * SPAN + start + tl.arange(0, NEURONS)
        inside = neuron < width
        place = example[:, None] * width + neuron[None, :]
        h = tl.load(hidden + place, mask=inside[None, :] & (example < batch)[:, None], other=0.0).to(tl.float32)
        if CUT:
            limit = tl.load(thresholds + neuron, mask=inside, other=0.0)
            h = tl.where(tl.abs(h) <= limit[None, :], 0.0, h)
        needed = tl.max((h != 0.0).to(tl.int32), 0) > 0
        wanted = needed[:, None] & (column < features)[None, :]
        w = tl.load(rows + neuron[:, None].to(tl.int64) * features + column[None, :], mask=wanted, other=0.0).to(
            tl.float32
        )
        if BATCH == 1:
            total += tl.sum(tl.trans(h) * w, 0)[None, :]
        else:
            total += tl.dot(h, w, input_precision="ieee")
    target = (split * batch + example[:, None]) * features + column[None, :]
    tl.store(sums + target, total, mask=(example < batch)[:, None] & (column < features)[None, :])


@triton.jit
def _up_kernel(
    gate, x, up, up_bias, made, batch, width, inputs,
    BIASED: tl.constexpr, BATCH: tl.constexpr, NEURONS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """``made`` (batch, width): the gate times the up projection, of neurons whose gate is not zero for some example."""
    neuron = tl.program_id(0) * NEURONS + tl.arange(0, NEURONS)
    inside = neuron < width
    example = tl.arange(0, BATCH)
    place = example[:, None] * width + neuron[None, :]
    real = inside[None, :] & (example < batch)[:, None]
    g = tl.load(gate + place, mask=real, other=0.0)
    needed = tl.max((g.to(tl.float32) != 0.0).to(tl.int32), 0) > 0
    total = tl.zeros((BATCH, NEURONS), tl.float32)
    for start in range(0, inputs, INPUTS):
        k = start + tl.arange(0, INPUTS)
        given = (k < inputs)[None, :]
        read = tl.load(x + example[:, None] * inputs + k[None, :], mask=given & (example < batch)[:, None], other=0.0)
        w = tl.load(up + neuron[:, None].to(tl.int64) * inputs + k[None, :], mask=given & needed[:, None], other=0.0)
        if BATCH == 1:
            total += tl.sum(w.to(tl.float32) * read.to(tl.float32), 1)[None, :]
        else:
            total += tl.dot(read.to(tl.float32), tl.trans(w.to(tl.float32)), input_precision="ieee")
    if BIASED:
        total += tl.load(up_bias + neuron, mask=inside, other=0.0).to(tl.float32)[None, :]
    g = g.to(tl.float32)
    u = total.to(made.dtype.element_ty).to(tl.float32)  # rounded as a dense product would be
    tl.store(made + place, tl.where(g == 0.0, g, g * u).to(made.dtype.element_ty), mask=real)
