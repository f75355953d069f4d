"""The order of a linear layer's weights in memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_PAGE = 1 << 21
_KINDS = {torch.float32: np.float32, torch.bfloat16: np.int16, torch.int8: np.int8}


def neuron_major(rows: Tensor) -> Tensor:
    """Return the weight (neurons, features) with contiguous rows; the same tensor if they are contiguous already."""
    if rows.is_contiguous():
        return rows
    if rows.device.type != "cpu" or rows.dtype not in _KINDS:
        return rows.contiguous()
    # NumPy asks for large pages, which make distant rows faster to find. A large page begins at a multiple of its size.
    kind = np.dtype(_KINDS[rows.dtype])
    buffer = np.empty(rows.numel() + _PAGE // kind.itemsize, kind)
    first = -buffer.ctypes.data % _PAGE // kind.itemsize
    copy = torch.from_numpy(buffer[first : first + rows.numel()]).view(rows.dtype).view(rows.shape)
    return copy.copy_(rows)
