"""Linear layers and the order of their weights in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PAGE = 1 << 21


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer of torch's, or a ``Conv1D`` of transformers'."""
    kind = type(module)
    return kind is nn.Linear or (kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils")


def rows_of(module: Any) -> Tensor:
    """A linear layer's weight by its inputs: (inputs, outputs)."""
    weight: Tensor = module.weight
    return weight.t() if isinstance(module, nn.Linear) else weight


def neuron_major(rows: Tensor) -> Tensor:
    """Return the weight (neurons, features) with contiguous rows; the same tensor if they are contiguous already."""
    if rows.is_contiguous():
        return rows
    if rows.device.type != "cpu" or rows.dtype not in (torch.float32, torch.bfloat16):
        return rows.contiguous()
    # NumPy asks for large pages, which make distant rows faster to find. A large page begins at a multiple of its size.
    kind = np.dtype(np.float32 if rows.dtype == torch.float32 else np.int16)
    buffer = np.empty(rows.numel() + _PAGE // kind.itemsize, kind)
    first = -buffer.ctypes.data % _PAGE // kind.itemsize
    copy = torch.from_numpy(buffer[first : first + rows.numel()]).view(rows.dtype).view(rows.shape)
    return copy.copy_(rows)
