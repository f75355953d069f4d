"""Counting inside a compiled model: an operator that ``torch.compile`` leaves whole, switched by a flag in memory.

The graph is the same whether a step is counted or not, so nothing is compiled again at a reading.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from actratio.counting.criteria import CRITERIA, Criterion, parse_criterion
from actratio.counting.kernels import count
from actratio.errors import SiteError


def is_supported(criterion: Criterion) -> bool:
    """Return whether the operator counts by a criterion: one that can be written as text and needs no weights."""
    return type(criterion) in CRITERIA.values() and not criterion.needs_norms


# ``torch.library.custom_op`` would be shorter, but a call of its operators takes ten times as long.
_library: Any = torch.library.Library("actratio", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "count_active(Tensor x, Tensor? rows, Tensor counting, Tensor(a!) calls, Tensor(b!) tokens, Tensor(c!) active, "
    "str criterion, str site) -> ()"
)


def count_active(
    x: Tensor,
    rows: Tensor | None,
    counting: Tensor,
    calls: Tensor,
    tokens: Tensor,
    active: Tensor,
    criterion: str,
    site: str,
) -> None:
    """Add the counts of an activation to ``calls``, ``tokens`` and ``active``, if ``counting`` is set.

    Args:
        x: the activation, (…, width).
        rows: bool, which tokens to count, with as many elements as ``x`` has rows; ``None`` for all of them.
        counting: bool, (), on the device of ``x``.
        calls: int64, (): how often the activation was computed.
        tokens: int64, (): the tokens counted.
        active: int64, (width,): for each neuron, the tokens on which it was active.
        criterion: what counts as active, as text.
        site: the site's name, for errors.

    Raises:
        SiteError: ``rows`` are not those of ``x``.
    """
    if x.device.type == "cpu" and not counting:
        return
    new_tokens, new_active = count_rows(x, rows, criterion, site)
    # No number is read back from a GPU, so that it never waits; zeros are added while nothing is counted.
    calls += counting
    tokens += new_tokens * counting
    active += new_active * counting


_library.impl("count_active", count_active, "CompositeExplicitAutograd")
torch.library.register_fake("actratio::count_active", lambda *args: None, lib=_library)


def count_rows(x: Tensor, rows: Tensor | None, criterion: str, site: str) -> tuple[Tensor, Tensor]:
    """Return the tokens, int64 (), and for each neuron the tokens on which it was active, int64 (width,).

    The arguments are those of ``count_active``.

    Raises:
        SiteError: ``rows`` are not those of ``x``.
    """
    x = x.reshape(-1, x.shape[-1])
    if rows is not None and x.device.type == "cpu" and bool(rows.all()):
        rows = None  # selecting rows takes longer than counting them
    if rows is not None and rows.numel() != len(x):
        raise SiteError(
            f"{site} has {len(x)} rows for {rows.numel()} tokens, so the rows that are padding can't be found; "
            "leave the site out, or train without padding"
        )
    if x.device.type == "cpu":
        x = x if rows is None else x[rows.flatten()]
        counts, _ = count(x, _parsed(criterion), [len(x)], co_activation=False)
        return torch.tensor(counts.tokens), counts.active
    active = _parsed(criterion).active(x)
    if rows is None:
        return torch.full((), len(x), device=x.device), active.sum(0)
    return rows.sum(), (active & rows.flatten()[:, None]).sum(0)


@cache
def _parsed(criterion: str) -> Criterion:
    return parse_criterion(criterion)
