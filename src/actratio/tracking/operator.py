"""Counting inside a compiled model: an operator that ``torch.compile`` leaves whole, switched by a flag in memory.

The graph is the same whether a step is counted or not, so nothing is compiled again at a reading.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from actratio.counting.criteria import CRITERIA, Criterion, parse_criterion
from actratio.counting.kernels import add_active
from actratio.errors import SiteError


def is_supported(criterion: Criterion) -> bool:
    """Return whether the operator counts by a criterion: one that can be written as text and needs no weights."""
    return type(criterion) in CRITERIA.values() and not criterion.needs_norms


# ``torch.library.custom_op`` would be shorter, but a call of its operators takes ten times as long.
_library: Any = torch.library.Library("actratio", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "count_active(Tensor x, Tensor? rows, Tensor counting, Tensor(a!) counters, int number, int sites, int place, "
    "str criterion, str site) -> ()"
)


def count_active(
    x: Tensor,
    rows: Tensor | None,
    counting: Tensor,
    counters: Tensor,
    number: int,
    sites: int,
    place: int,
    criterion: str,
    site: str,
) -> None:
    """Add the counts of an activation to ``counters``, if ``counting`` is set.

    Args:
        x: the activation, (…, width).
        rows: bool, which tokens to count, with as many elements as ``x`` has rows; ``None`` for all of them.
        counting: bool, (), on the device of ``x``.
        counters: a buffer of ``Layout``, int64, on the device of ``x``.
        number: the site's number among the sites of the layout.
        sites: how many these are.
        place: where the site's neurons begin in the buffer.
        criterion: what counts as active, as text.
        site: the site's name, for errors.

    Raises:
        SiteError: ``rows`` are not those of ``x``.
    """
    if x.device.type == "cpu" and not counting:
        return
    # No number is read back from a GPU, so that it never waits; there, the flag decides in the kernel.
    x = x.reshape(-1, x.shape[-1])
    if rows is not None:
        if rows.numel() != len(x):
            raise SiteError(
                f"{site} has {len(x)} rows for {rows.numel()} tokens, so the rows that are padding can't be found; "
                "leave the site out, or train without padding"
            )
        rows = rows.flatten()
    flag = None if x.device.type == "cpu" else counting
    add_active(x, _parsed(criterion), counters[place : place + x.shape[1]], rows, flag)
    tokens = len(x) if rows is None else rows.sum()
    if flag is None:
        numbers = counters.numpy()
        numbers[number] += 1
        numbers[sites + number] += int(tokens)
    else:
        counters[number] += flag
        counters[sites + number] += tokens * flag


_library.impl("count_active", count_active, "CompositeExplicitAutograd")
torch.library.register_fake("actratio::count_active", lambda *args: None, lib=_library)


@cache
def _parsed(criterion: str) -> Criterion:
    return parse_criterion(criterion)
