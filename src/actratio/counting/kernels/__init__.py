"""The counting loops behind one function; ``reference`` is their specification in plain torch.

A kernel is a module with ``supports(x, criterion)``, ``FIELDS`` (the fields of ``SiteCounts`` that it counts) and
``count``. What a kernel does not support or count goes to the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from types import ModuleType

from torch import Tensor

from actratio.counting.counts import SiteCounts
from actratio.counting.criteria import Criterion
from actratio.counting.kernels import reference
from actratio.counting.magnitudes import Magnitudes
from actratio.fast import import_kernel

__all__ = ["add_active", "count", "has_kernel"]


def count(
    x: Tensor,
    criterion: Criterion,
    lengths: Sequence[int],
    first: Tensor | None = None,
    *,
    norms: Tensor | None = None,
    magnitudes: bool = False,
    co_activation: bool = True,
) -> tuple[SiteCounts, Magnitudes | None]:
    """Count an activation (tokens, width) with the fastest kernel that supports it.

    Args:
        x: activations; the tokens of a sequence lie one after another.
        lengths: number of tokens of each sequence.
        first: bool, (tokens,), the first tokens of sequences, or ``None``.
        norms: (width,), ‖W_down[:, i]‖₂, for criteria with ``needs_norms``.
        co_activation: whether to count which neurons are active together: unions, overlap and idle blocks.
        magnitudes: whether to count the histogram of \\|x\\| too.
    """
    for kernel in _compiled():
        if kernel.supports(x, criterion):
            counts, counted_magnitudes = kernel.count(
                x, criterion, lengths, first, norms=norms, magnitudes=magnitudes, co_activation=co_activation
            )
            unknown = _unknown_fields(kernel, co_activation)
            if unknown:
                more = SiteCounts.from_mask(criterion.active(x, norms), lengths, first, unknown)
                counts = replace(counts, **more)
            return counts, counted_magnitudes
    counts = reference.count(criterion.active(x, norms), lengths, first, co_activation=co_activation)
    return counts, Magnitudes.of(x) if magnitudes else None


def add_active(
    x: Tensor, criterion: Criterion, active: Tensor, rows: Tensor | None = None, flag: Tensor | None = None
) -> None:
    """Add to ``active`` the tokens on which each neuron is active, with the fastest kernel that supports the activation.

    It counts less than ``count``, for callers that count at every step of a training. Nothing waits for a GPU.

    Args:
        x: activations, (…, width).
        criterion: what counts as active; none with ``needs_norms``.
        active: int64, (width,), contiguous, on the device of ``x``; it is changed in place.
        rows: bool, (tokens,), the tokens to count; ``None`` for all of them.
        flag: bool, (), on the device of ``x``: nothing is added unless it is set. ``None`` is as if it were.
    """
    x = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    for kernel in _compiled():
        if kernel.supports(x, criterion):
            kernel.add_active(x, criterion, active, rows, flag)
            return
    reference.add_active(criterion.active(x), active, rows, flag)


def has_kernel(x: Tensor, criterion: Criterion) -> bool:
    """Return whether a compiled kernel counts such a tensor by such a criterion; otherwise the reference does."""
    return any(kernel.supports(x, criterion) for kernel in _compiled())


@cache
def _unknown_fields(kernel: ModuleType, co_activation: bool) -> frozenset[str]:
    """Return the fields that a kernel does not list in its ``FIELDS``, which the reference counts instead."""
    known: frozenset[str] = kernel.FIELDS
    return SiteCounts.kernel_fields(co_activation) - known


@cache
def _compiled() -> list[ModuleType]:
    """Return the kernels whose compilers are installed (the extra ``fast``), imported at the first count."""
    names = (("cpu", "numba"), ("cuda", "triton"))
    imported = [import_kernel(f"actratio.counting.kernels.{name}", needs) for name, needs in names]
    return [kernel for kernel in imported if kernel is not None]
