"""The hot loops behind a small interface; ``reference`` is their specification in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import ModuleType

from torch import Tensor

from actratio.counts import SiteCounts
from actratio.criteria import Criterion
from actratio.kernels import reference
from actratio.magnitudes import Magnitudes

__all__ = ["count"]


def count(
    x: Tensor,
    criterion: Criterion,
    lengths: Sequence[int],
    first: Tensor | None = None,
    *,
    norms: Tensor | None = None,
    magnitudes: bool = False,
    sets: bool = True,
) -> tuple[SiteCounts, Magnitudes | None]:
    """Count an activation (tokens, width) by the fastest kernel that takes it.

    Args:
        x: activations; the tokens of a sequence lie one after another.
        lengths: how many tokens each sequence has.
        first: bool, (tokens,), the first tokens of sequences, or ``None``.
        norms: (width,), ‖W_down[:, i]‖₂, for criteria that weigh.
        sets: whether to count what is about sets of neurons: unions, overlap, idle blocks.
        magnitudes: whether to count the histogram of \\|x\\| too.
    """
    fast = _cpu()
    if fast is not None and fast.takes(x, criterion):
        found: tuple[SiteCounts, Magnitudes | None] = fast.count(
            x, criterion, lengths, first, magnitudes=magnitudes, sets=sets
        )
        return found
    counts = reference.count(criterion.active(x, norms), lengths, first, sets=sets)
    return counts, Magnitudes(Magnitudes.of(x).counts.cpu()) if magnitudes else None


@cache
def _cpu() -> ModuleType | None:
    """The fused pass, where Numba (the extra ``fast``) is installed; imported at the first count."""
    try:
        from actratio.kernels import cpu
    except ImportError:
        return None
    return cpu
