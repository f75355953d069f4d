"""What counts as an active neuron.

To add one: a ``Criterion`` and its line in ``_KINDS``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from actratio.errors import CriterionError

_Test = Callable[[Tensor, float, Tensor | None], Tensor]


def nearest(threshold: float, dtype: torch.dtype) -> float:
    """The threshold as a number of this type, as torch compares, but never zero, which every zero would reach."""
    rounded = float(torch.tensor(threshold, dtype=torch.float64).to(dtype))
    return rounded or torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps


def _given(norms: Tensor | None) -> Tensor:
    if norms is None:
        raise ValueError("contribution(τ) needs the norms of the down projection's columns")
    return norms


_KINDS: dict[str, tuple[bool, bool, _Test]] = {
    # name: has a threshold, needs the down projection's column norms, test
    "positive": (False, False, lambda x, tau, norms: x > 0),
    "nonzero": (False, False, lambda x, tau, norms: x != 0),
    "above": (True, False, lambda x, tau, norms: x.abs() >= nearest(tau, x.dtype)),
    "contribution": (True, True, lambda x, tau, norms: x.abs().float() * _given(norms) >= nearest(tau, torch.float32)),
}


@dataclass(frozen=True)
class Criterion:
    """One of ``positive`` (x > 0), ``nonzero`` (x ≠ 0), ``above(τ)`` (\\|x\\| ≥ τ) and ``contribution(τ)``
    (\\|x\\| · ‖W_down[:, i]‖₂ ≥ τ: what the neuron adds to the MLP's output).

    NaN is active for ``nonzero`` alone: a kernel could not skip it. A threshold is rounded to the type of what it is
    compared with (for ``contribution``, float32).

    >>> Criterion.parse("above(0.5)")
    Criterion(kind='above', threshold=0.5)
    """

    kind: str
    threshold: float = math.nan

    @classmethod
    def parse(cls, text: str) -> Criterion:
        """Read ``positive``, ``above(0.1)`` and the like.

        Raises:
            CriterionError: unknown, or a threshold that is missing, not a positive number, or too much.
        """
        match = re.fullmatch(r"\s*([a-z]+)\s*(?:\(\s*([^()]*?)\s*\))?\s*", text)
        if match is None or match[1] not in _KINDS:
            raise CriterionError(
                f"there is no criterion {text!r}; write positive, nonzero, above(τ) or contribution(τ)"
            )
        kind, given = match[1], match[2]
        if not _KINDS[kind][0]:
            if given is not None:
                raise CriterionError(f"the criterion {kind} has no threshold; write it without {given!r}")
            return cls(kind)
        try:
            threshold = float(given or "")
        except ValueError:
            threshold = math.nan
        if not (math.isfinite(threshold) and threshold > 0):
            raise CriterionError(
                f"the criterion {kind} needs a threshold above zero, such as {kind}(0.1), not {text!r}"
            )
        return cls(kind, threshold)

    def __str__(self) -> str:
        return self.kind if math.isnan(self.threshold) else f"{self.kind}({self.threshold:g})"

    @property
    def weighs(self) -> bool:
        """Whether it needs the norms of the down projection's columns."""
        return _KINDS[self.kind][1]

    def active(self, x: Tensor, norms: Tensor | None = None) -> Tensor:
        """Which elements of ``x`` (tokens, width) are active; ``norms`` (width,) are ‖W_down[:, i]‖₂."""
        return _KINDS[self.kind][2](x, self.threshold, norms)
