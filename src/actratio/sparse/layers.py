"""The order of a linear layer's weights in memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_PAGE = 1 << 21


def neuron_major(rows: Tensor) -> Tensor:
    """The same numbers with each neuron's in one piece."""
    if rows.is_contiguous():
        return rows
    if rows.device.type != "cpu" or rows.dtype not in (torch.float32, torch.bfloat16):
        return rows.contiguous()
    # NumPy asks for large pages, with which far apart rows are found faster, and which begin at multiples of their size.
    kind = np.dtype(np.float32 if rows.dtype == torch.float32 else np.int16)
    room = np.empty(rows.numel() + _PAGE // kind.itemsize, kind)
    first = -room.ctypes.data % _PAGE // kind.itemsize
    place = torch.from_numpy(room[first : first + rows.numel()]).view(rows.dtype).view(rows.shape)
    return place.copy_(rows)
