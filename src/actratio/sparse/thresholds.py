"""Thresholds of a model's MLPs, and what they cost.

A neuron adds hᵢ·W_down[:, i] to an MLP's output. Its *contribution* is the length of that, |hᵢ|·‖W_down[:, i]‖₂. A threshold τ drops
the neurons of an MLP whose contribution (or whose magnitude |hᵢ|) is at or below τ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from actratio.counting.measurement import Measurement
from actratio.errors import SiteError
from actratio.sites.mlps import MLP
from actratio.sparse.active import nonzero_ratio
from actratio.sparse.comparing import loss_increase
from actratio.sparse.text import SequenceLosses
from actratio.statistics.estimate import Estimate

if TYPE_CHECKING:
    import pandas as pd

BY = ("contribution", "magnitude")
ZEROS = "zeros"
"""In place of one of ``BY``, if only true zeros are dropped."""
_TINY = 1e-30  # a neuron whose weights are zero is dropped whatever its activation


@dataclass(frozen=True)
class Target:
    """What a calibration aims at.

    Attributes:
        kind: ``loss`` (increase of the loss in per cent), ``cett`` (error of each layer) or ``ratio`` (neurons left active).
        amount: at least 0 for ``loss``; above 0 and at most 1 for ``cett`` and ``ratio``.

    Raises:
        SiteError: another kind, or an amount outside its range.

    >>> Target.parse("loss=1")
    Target(kind='loss', amount=1.0)
    """

    kind: str
    amount: float

    def __post_init__(self) -> None:
        valid = self.amount >= 0 if self.kind == "loss" else 0 < self.amount <= 1
        if self.kind not in ("loss", "cett", "ratio") or not valid:
            raise _no_target(f"{self.kind}={self.amount:g}", "cett=0.1 or ratio=0.3")

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read ``loss=1``, ``cett=0.1`` or ``ratio=0.3``.

        Raises:
            SiteError: any other text.
        """
        match = re.fullmatch(r"(\w+)=(\d*\.?\d+(?:e-?\d+)?)", text)
        if match is None:
            raise _no_target(text, "cett=0.1, ratio=0.3 or zeros")
        return cls(match[1], float(match[2]))

    def as_option(self) -> dict[str, float]:
        """Return the keyword argument of ``calibrate``."""
        return {self.kind: self.amount}


def _no_target(text: str, others: str) -> SiteError:
    return SiteError(f"there is no target {text!r}; write loss=1 (per cent), {others}")


@dataclass(frozen=True)
class LayerThresholds:
    """One threshold for each MLP.

    Attributes:
        by: what is compared with the threshold: ``contribution`` or ``magnitude``; ``zeros`` if all thresholds are 0, and only neurons
            that are zero are skipped, as ``sparsify`` does without thresholds.
        thresholds: τ by site's name.
        cett: mean error of each MLP's output on the calibration text, by site's name; interpolated if a share was asked for.
        dropped: share of each MLP's neuron outputs dropped on the calibration text, by site's name.
    """

    by: str
    thresholds: dict[str, float]
    cett: dict[str, float]
    dropped: dict[str, float]

    def by_neuron(self, mlps: Iterable[MLP]) -> dict[str, Tensor]:
        """Return the largest ``|h|`` of each neuron that is dropped, (width,) by site's name; nothing if only zeros are skipped.

        Args:
            mlps: of the model; those without a threshold are left out.
        """
        if self.by == ZEROS:
            return {}
        return {
            mlp.site.name: per_neuron(self.thresholds[mlp.site.name], neuron_norms(mlp, self.by))
            for mlp in mlps
            if mlp.site.name in self.thresholds
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return one record for each MLP: site, threshold, dropped, cett."""
        return [
            {"site": site, "threshold": threshold, "dropped": self.dropped[site], "cett": self.cett[site]}
            for site, threshold in self.thresholds.items()
        ]

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a pandas frame."""
        import pandas as pd

        return pd.DataFrame(self.rows())


@dataclass(frozen=True)
class SignComparison:
    """The loss when all outputs ``a ≤ 0`` are dropped, and when the same share of each MLP is dropped by contribution.

    Attributes:
        dropped: share of all neuron outputs.
        loss_by_sign: loss without the outputs that aren't above zero, in nats per token.
        loss_by_contribution: loss without the same number of the smallest contributions in each MLP.
    """

    dropped: float
    loss_by_sign: float
    loss_by_contribution: float

    def __str__(self) -> str:
        return (
            f"Dropping every output that is not above zero ({self.dropped:.0%} of them) gives a loss of {self.loss_by_sign:.4f}; "
            f"dropping the same share of each layer by contribution gives {self.loss_by_contribution:.4f}."
        )


@dataclass(frozen=True, eq=False)
class Calibration(LayerThresholds):
    """Thresholds with their quality: chosen on one part of a text and checked on another part.

    Attributes:
        target: what they were chosen for.
        dense_losses: of the dense model, on the text that wasn't used to choose.
        sparse_losses: on the same text with the thresholds.
        sign: how dropping by sign compares, on the same text; ``None`` if no MLP allows it.
        measurement: which neurons are above their thresholds on the calibration text.
    """

    target: Target
    dense_losses: SequenceLosses
    sparse_losses: SequenceLosses
    sign: SignComparison | None
    measurement: Measurement

    @property
    def loss_dense(self) -> float:
        """The loss of the dense model on the text that wasn't used to choose, in nats per token."""
        return self.dense_losses.mean

    @property
    def loss_sparse(self) -> float:
        """The loss on the same text with the thresholds; infinity if it isn't finite."""
        return self.sparse_losses.mean

    @property
    def loss_increase(self) -> Estimate:
        """By how many per cent the thresholds raise the loss on this text, with its 95% interval over sequences."""
        return loss_increase(self.dense_losses, self.sparse_losses)

    @property
    def verdicts(self) -> list[str]:
        """What the thresholds drop and cost, in sentences."""
        increase = self.loss_increase
        cost = (
            f"{1 - nonzero_ratio(self.measurement):.0%} of the neuron outputs are dropped; the loss on text that was not used goes from {self.loss_dense:.4f} to "
            f"{self.loss_sparse:.4f} nats per token ({increase_in_words(increase)})"
            f"{missed(self.target, increase)}."
        )
        return [cost] if self.sign is None else [cost, str(self.sign)]


def increase_in_words(increase: Estimate) -> str:
    """Return an increase of the loss in words.

    >>> increase_in_words(Estimate(math.inf)), increase_in_words(Estimate(0.5, 0.25, 0.75))
    ('an infinite amount', '+0.50%, 95% interval +0.25 to +0.75%')
    """
    if math.isinf(increase.value):
        return "an infinite amount"
    interval = "" if math.isnan(increase.low) else f", 95% interval {increase.low:+z.2f} to {increase.high:+z.2f}%"
    return f"{increase.value:+z.2f}%{interval}"


def missed(target: Target, increase: Estimate, chosen: str = "the thresholds") -> str:
    """Return the end of a sentence on an increase of the loss: that it is, or may be, more than the target.

    Args:
        chosen: what was chosen to meet the target on other text.
    """
    if target.kind != "loss" or not max(increase.value, increase.high) > target.amount:
        return ""
    is_more = "is" if increase.value > target.amount else "may be"
    return f", which {is_more} more than the {target.amount:g}% that is accepted on the text that chose {chosen}"


def check_by(by: str) -> None:
    """Check what is compared with a threshold.

    Raises:
        SiteError: it is none of ``BY``.
    """
    if by not in BY:
        raise SiteError(f"neurons cannot be dropped by {by!r}; write {' or '.join(BY)}")


def neuron_norms(mlp: MLP, by: str) -> Tensor:
    """Return what each neuron's ``|h|`` is multiplied by before it is compared with τ, (width,) float32."""
    check_by(by)
    rows = mlp.rows.detach().float()
    return rows.norm(dim=1) if by == "contribution" else torch.ones(len(rows), device=rows.device)


def per_neuron(threshold: float, norms: Tensor) -> Tensor:
    """Return the largest ``|h|`` of each neuron that is dropped by a layer's threshold, (width,)."""
    return threshold / norms.clamp_min(_TINY)
