"""How weights are stored: with contiguous rows, in large pages."""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch
from torch import Tensor

from actratio.sparse.converted import has_own_memory

_PAGE = 1 << 21  # bytes of a large page
_MAX_UNUSED = 0.25  # of a weight's bytes, in its last large page
_HAS_LARGE_PAGES = hasattr(mmap, "MADV_HUGEPAGE")
_DTYPES = torch.float32, torch.bfloat16, torch.int8


def in_large_pages(rows: Tensor) -> Tensor:
    """Return a weight with contiguous rows, in large pages where possible; the tensor itself if it's already stored like that.

    Distant rows are found faster in large pages, and products that read all rows in order gain a few percent. Linux gives them if
    transparent huge pages aren't turned off; elsewhere, pages have the usual size. Weights of less than a page, and those that would
    leave much of their last page unused, stay in small pages.

    Args:
        rows: (neurons, features), or several of them: (experts, neurons, features).
    """
    if not (_HAS_LARGE_PAGES and _fills_large_pages(rows)):
        return rows.contiguous()
    if rows.is_contiguous() and rows.data_ptr() % _PAGE == 0:
        return rows
    return _in_new_pages(rows.nbytes).view(rows.dtype).view(rows.shape).copy_(rows)


def _in_new_pages(size: int) -> Tensor:
    """Return new bytes that begin at a large page, if the system supports them.

    The memory comes from ``mmap``: memory from ``malloc`` may have been used before, and then stays in small pages.

    Raises:
        MemoryError: there isn't enough.
    """
    whole_pages = -(-size // _PAGE) * _PAGE
    try:
        memory = mmap.mmap(-1, whole_pages + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"cannot allocate {size:,} bytes for a weight") from error
    with suppress(OSError):  # this Linux has no large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    start = torch.frombuffer(memory, dtype=torch.int8, count=1).data_ptr()
    return torch.frombuffer(memory, dtype=torch.int8, count=size, offset=-start % _PAGE)


def move_to_large_pages(weight: Tensor) -> None:
    """Store a parameter as ``in_large_pages`` does, unless its rows aren't contiguous, or it's a view or in memory that processes share.

    Don't call this while another thread may use the parameter.
    """
    if weight.is_contiguous() and has_own_memory(weight) and not weight.untyped_storage().is_shared():
        with torch.inference_mode(False):  # an inference tensor could never be trained
            weight.data = in_large_pages(weight.detach())


def _fills_large_pages(rows: Tensor) -> bool:
    if rows.device.type != "cpu" or rows.dtype not in _DTYPES:
        return False
    return rows.nbytes >= _PAGE and -rows.nbytes % _PAGE <= _MAX_UNUSED * rows.nbytes
