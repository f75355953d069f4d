"""Products with sparse activations on GPUs, in Triton: inactive neurons' weights are masked out of the loads.

There is no list of active neurons: each program reads its neurons' activations, and loads the rows of those that some example
needs. So the host never waits for a result, and calls can be captured in CUDA graphs. Programs that share columns write their sums
separately. The sums are then added in a fixed order.

The tests run this in Triton's interpreter and compile it for a GPU. It has never been timed on a GPU.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from actratio.sparse.kernels.product import Product

MAX_BATCH = 16
"""The largest batch that the kernel computes."""

_DOT = 16  # the smallest batch that tl.dot supports
_NEURONS, _COLUMNS, _SPAN = 32, 128, 512


class CUDAProduct(Product):
    """A product on a GPU. It ignores ``max_active``, because the host would have to wait for the number of active neurons."""

    device_type = "cuda"
    dtypes = (torch.float32, torch.bfloat16, torch.float16)

    def __call__(self, hidden: Tensor, max_active: int, x: Tensor | None = None) -> Tensor | None:
        assert self.weights is not None
        rows, bias, thresholds, up, up_bias, *_ = self.weights
        width = self.width
        batch = hidden.numel() // width
        if batch > MAX_BATCH:
            return None
        size = 1 if batch == 1 else _DOT
        if up is not None and x is not None:
            gated = torch.empty_like(hidden)
            _up_kernel[(triton.cdiv(width, _NEURONS),)](
                hidden, x, up, up if up_bias is None else up_bias, gated, batch, width, self.inputs,
                BIASED=up_bias is not None, BATCH=size, NEURONS=_NEURONS, INPUTS=64,
            )  # fmt: skip
            hidden = gated
        features = self.features
        splits = triton.cdiv(width, _SPAN)
        sums = torch.empty(splits, batch, features, dtype=torch.float32, device=hidden.device)
        cut = thresholds is not None
        _down_kernel[(triton.cdiv(features, _COLUMNS), splits)](
            hidden, rows, thresholds if cut else hidden, sums, batch, width, features,
            CUT=cut, BATCH=size, NEURONS=_NEURONS, COLUMNS=_COLUMNS, SPAN=_SPAN,
        )  # fmt: skip
        out = sums.sum(0).view(*hidden.shape[:-1], features)
        return (out if bias is None else out + bias).to(hidden.dtype)


@triton.jit
def _down_kernel(
    hidden, rows, thresholds, sums, batch, width, features,
    CUT: tl.constexpr, BATCH: tl.constexpr, NEURONS: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """Write ``sums`` (splits, batch, features). A program computes one block of columns for one split of the neurons."""
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
    gate, x, up, up_bias, gated, batch, width, inputs,
    BIASED: tl.constexpr, BATCH: tl.constexpr, NEURONS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """Write ``gated`` (batch, width): the gate times the up projection, for neurons whose gate is not zero for some example."""
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
    u = total.to(gated.dtype.element_ty).to(tl.float32)  # rounded as a dense product would be
    tl.store(gated + place, tl.where(g == 0.0, g, g * u).to(gated.dtype.element_ty), mask=real)
