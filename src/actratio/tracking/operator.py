"""Counting inside a compiled model, switched by a flag in memory.

The graph is the same whether a step is counted or not, so nothing is compiled again at a reading. On CPUs, the compiler
fuses the counting with the activation, which takes less time than to call something that looks at the flag. On other devices, an
operator that the compiler leaves whole reads nothing else while the flag isn't set.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from actratio.counting.criteria import CRITERIA, Criterion, Nonzero, Positive, parse_criterion
from actratio.counting.kernels import add_active
from actratio.errors import SiteError
from actratio.sites.tokens import checked_mask


def is_supported(criterion: Criterion) -> bool:
    """Return whether the operator counts by a criterion: one that can be written as text and needs no weights."""
    return type(criterion) in CRITERIA.values() and not criterion.needs_norms


# ``torch.library.custom_op`` would be shorter, but a call of its operators takes ten times as long.
_library: Any = torch.library.Library("actratio", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "count_active(Tensor x, Tensor? rows, Tensor counting, Tensor(a!) block, str criterion, str site) -> ()"
)


def count_active(x: Tensor, rows: Tensor | None, counting: Tensor, block: Tensor, criterion: str, site: str) -> None:
    """Add the counts of an activation to a site's block, if ``counting`` is set.

    Args:
        x: the activation, (…, width).
        rows: bool, which tokens to count, with as many elements as ``x`` has rows; ``None`` for all of them.
        counting: bool, (), on the device of ``x``.
        block: calls, tokens, and for each neuron the tokens on which it was active: int64, (2 + width,), on the
            device of ``x``.
        criterion: what counts as active, as text.
        site: the site's name, for errors.

    Raises:
        SiteError: ``rows`` are not those of ``x``, or ``x`` is on another device than the counters.
    """
    check_device(x, block, site)
    if x.device.type == "cpu" and not counting:
        return  # no number is read back from other devices, so that they never wait
    x = x.reshape(-1, x.shape[-1])
    if rows is not None:
        rows = flat_rows(rows, len(x), site)
    add_active(x, _parsed(criterion), block[2:], rows, counting)
    block[0] += counting
    block[1] += (len(x) if rows is None else rows.sum()) * counting


_library.impl("count_active", count_active, "CompositeExplicitAutograd")
torch.library.register_fake("actratio::count_active", lambda *args: None, lib=_library)


def check_device(x: Tensor, counters: Tensor, site: str) -> None:
    """Check that an activation is where its counters are; the kernels write to addresses.

    Raises:
        SiteError: the model was moved.
    """
    if x.device != counters.device:
        raise SiteError(
            f"{site} runs on {x.device}, and was on {counters.device} when the tracker was started; start the tracker after you "
            "move the model"
        )


_library.define("checked_rows(Tensor mask, Tensor counting) -> Tensor")


def checked_rows(mask: Tensor, counting: Tensor) -> Tensor:
    """Return which tokens an attention mask keeps, in compiled code, which can't look at the mask's numbers.

    Args:
        mask: (batch, tokens), or larger.
        counting: bool, (), whether the step is counted; in others, nothing is checked.

    Returns:
        bool, (batch, tokens).

    Raises:
        SiteError: the step is counted, and the mask doesn't say which tokens are padding.
    """
    kept = checked_mask(mask, "attention_mask") if counting else None
    return _every_row(mask).fill_(True) if kept is None else kept != 0


def _every_row(mask: Tensor) -> Tensor:
    shape = mask.shape if mask.ndim <= 2 else (mask.shape[0], mask.shape[-2])
    return mask.new_empty(shape, dtype=torch.bool)


_library.impl("checked_rows", checked_rows, "CompositeExplicitAutograd")
torch.library.register_fake("actratio::checked_rows", lambda mask, counting: _every_row(mask), lib=_library)


def flat_rows(rows: Tensor, tokens: int, site: str) -> Tensor:
    """Return the rows to count in one dimension.

    Raises:
        SiteError: they are not those of ``tokens`` tokens.
    """
    if rows.numel() != tokens:
        raise SiteError(
            f"{site} has {tokens} rows for {rows.numel()} tokens, so the rows that are padding can't be found; "
            "leave the site out, or train without padding"
        )
    return rows.flatten()


def can_be_fused(x: Tensor, rows: Tensor | None, counting: Tensor, criterion: Criterion) -> bool:
    """Return whether ``count_in_graph`` counts an activation, and is the faster way."""
    # Rounding a threshold to the activation's dtype can't be compiled.
    is_simple = isinstance(criterion, Positive | Nonzero) and x.device.type == "cpu"
    # The operator refuses rows of other tokens, and a model that was moved, when the code runs.
    return is_simple and x.device == counting.device and (rows is None or rows.numel() * x.shape[-1] == x.numel())


def count_in_graph(x: Tensor, rows: Tensor | None, counting: Tensor, block: Tensor, criterion: Criterion) -> None:
    """Do as ``count_active``, in operations that a compiler can fuse; ``rows`` must be those of ``x``."""
    x = x.reshape(-1, x.shape[-1])
    active = criterion.active(x)
    one = torch.ones(1, dtype=torch.int64)
    tokens = one * len(x)
    if rows is not None:
        active, tokens = active & rows.reshape(-1, 1), rows.sum().reshape(1)
    # At once, because the compiler makes a loop of its own over all of the block for each part that is changed.
    block += torch.cat([one, tokens, active.sum(0)]) * counting


@cache
def _parsed(criterion: str) -> Criterion:
    return parse_criterion(criterion)
