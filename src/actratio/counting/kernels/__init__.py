"""The hot loops behind a small interface; ``reference`` is their specification in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from torch import Tensor

from actratio.counting.counts import SiteCounts
from actratio.counting.criteria import Criterion
from actratio.counting.kernels import reference
from actratio.counting.magnitudes import Magnitudes

__all__ = ["count"]


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
        lengths: how many tokens each sequence has.
        first: bool, (tokens,), the first tokens of sequences, or ``None``.
        norms: (width,), ‖W_down[:, i]‖₂, for criteria with ``needs_norms``.
        co_activation: whether to count which neurons are active together: unions, overlap and idle blocks.
        magnitudes: whether to count the histogram of \\|x\\| too.
    """
    for kernel in _compiled():
        if kernel.supports(x, criterion):
            found: tuple[SiteCounts, Magnitudes | None] = kernel.count(
                x, criterion, lengths, first, norms=norms, magnitudes=magnitudes, co_activation=co_activation
            )
            return found
    counts = reference.count(criterion.active(x, norms), lengths, first, co_activation=co_activation)
    return counts, Magnitudes.of(x) if magnitudes else None


@cache
def _compiled() -> list[ModuleType]:
    """The fused passes, where Numba (the extra ``fast``) and Triton are installed; imported at the first count."""
    found = []
    for name, needs in (("cpu", "numba"), ("cuda", "triton")):
        if find_spec(needs) is not None:
            found.append(import_module(f"actratio.counting.kernels.{name}"))
    return found
