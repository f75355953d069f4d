"""The order of weights in memory, and the size of its pages."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from actratio.sparse.converted import has_own_memory

_PAGE = 1 << 21  # bytes of a large page
_LEAST = 2 * _PAGE  # of a smaller weight, a large part of the last page would be empty
_KINDS = {torch.float32: np.float32, torch.bfloat16: np.int16, torch.int8: np.int8}


def laid_out(rows: Tensor) -> Tensor:
    """Return a weight with contiguous rows, in large pages where possible; the same tensor if it's stored so already.

    With pages of 4 KB, finding a distant row takes about as long as reading 1 KB of it. Products that read all rows in order are faster
    in large pages too, by a few percent.

    Args:
        rows: (neurons, features), or several of them: (experts, neurons, features).
    """
    if is_laid_out(rows):
        return rows
    if not _can_have_large_pages(rows):
        return rows.contiguous()
    # NumPy asks for large pages. A large page begins at a multiple of its size.
    kind = np.dtype(_KINDS[rows.dtype])
    buffer = np.empty(rows.numel() + _PAGE // kind.itemsize, kind)
    first = -buffer.ctypes.data % _PAGE // kind.itemsize
    copy = torch.from_numpy(buffer[first : first + rows.numel()]).view(rows.dtype).view(rows.shape)
    return copy.copy_(rows)


def is_laid_out(rows: Tensor) -> bool:
    """Return whether ``laid_out`` would return the same tensor."""
    return rows.is_contiguous() and (not _can_have_large_pages(rows) or rows.data_ptr() % _PAGE == 0)


def lay_out(weight: Tensor) -> None:
    """Store a parameter as ``laid_out`` does, unless others use its memory or its rows aren't contiguous."""
    if weight.is_contiguous() and not is_laid_out(weight) and has_own_memory(weight):
        with torch.inference_mode(False):  # an inference tensor could never be trained
            weight.data = laid_out(weight.detach())


def _can_have_large_pages(rows: Tensor) -> bool:
    return (
        rows.device.type == "cpu"
        and rows.dtype in _KINDS
        and rows.nbytes >= _LEAST
        and not rows.untyped_storage().is_shared()  # by processes
    )
