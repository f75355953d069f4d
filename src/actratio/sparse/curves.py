"""What dropping neurons costs in each layer: its CETT as a function of the share that is dropped.

CETT, the cumulative error of tail truncation (Zhang et al., 2024, ReLU² wins, arXiv:2402.03804), is
‖Σ dropped hᵢ·W_down[:, i]‖₂ / ‖MLP output‖₂, here the mean over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from actratio.errors import SiteError
from actratio.sites.mlps import MLP
from actratio.sparse.masking import hidden_hooks
from actratio.sparse.text import Batch, next_token_logits, token_mask
from actratio.sparse.thresholds import neuron_norms

SHARES = tuple(percent / 100 for percent in (*range(0, 95, 5), 95, 96, 97, 98, 99))
"""The shares of a layer's outputs that are tried."""

_TOKENS = 512  # of the calibration text that are looked at
_MOST_SORTED = 1 << 24  # outputs of a layer, whose quantiles are the thresholds


@dataclass(frozen=True, eq=False)
class Curve:
    """What dropping costs in one MLP.

    Attributes:
        mlp: the MLP.
        by: what is compared with the threshold: ``contribution`` or ``magnitude``.
        norms: what each neuron's ``|h|`` is multiplied by, (width,).
        ordered: a sample of these products in ascending order; its quantiles are the thresholds.
        thresholds: τ for each of ``SHARES``.
        cett: mean error over the calibration tokens at each τ.
    """

    mlp: MLP
    by: str
    norms: Tensor
    ordered: Tensor
    thresholds: list[float]
    cett: list[float]

    def threshold_at(self, share: float) -> float:
        """Return the τ that drops this share of the outputs."""
        place = round(share * len(self.ordered))
        return 0.0 if place <= 0 else float(self.ordered[min(place, len(self.ordered)) - 1])

    def dropped_at(self, threshold: float) -> float:
        """Return the share of the outputs at or below a τ; more than the share asked for if many are zero."""
        return int(torch.searchsorted(self.ordered, threshold, right=True)) / len(self.ordered)

    def cett_at(self, share: float) -> float:
        """Return the error if this share of the outputs is dropped, interpolated between those of ``SHARES``."""
        return float(np.interp(share, [*SHARES, 1.0], [*self.cett, 1.0]))

    def place_at(self, bound: float) -> int:
        """Return the index of the largest of ``SHARES`` whose error is at most ``bound``."""
        return max(place for place, error in enumerate(self.cett) if error <= bound or place == 0)


def dropping_curves(
    model: nn.Module, mlps: Sequence[MLP], batches: Sequence[Batch], by: str = "contribution"
) -> list[Curve]:
    """Return what dropping costs in each MLP.

    Args:
        model: a causal language model, dense.
        mlps: those of its MLPs that thresholds can be given to.
        batches: the calibration text; its first 512 tokens are used.
        by: one of ``BY``.

    Raises:
        SiteError: another ``by``, or outputs that aren't finite.
    """
    norms = [neuron_norms(mlp, by) for mlp in mlps]
    hidden = _hidden(model, mlps, batches)
    return [_curve(mlp, by, weights, hidden[mlp.site.name]) for mlp, weights in zip(mlps, norms, strict=True)]


def _curve(mlp: MLP, by: str, norms: Tensor, hidden: Tensor) -> Curve:
    if not bool(hidden.isfinite().all()):
        raise SiteError(f"the outputs of {mlp.site.name} are not finite; check the weights or the dtype")
    rows = mlp.rows.detach().float()
    compared = hidden.abs() * norms
    sample = compared.flatten()
    sample = sample[:: -(-sample.numel() // _MOST_SORTED)].sort().values
    curve = Curve(mlp, by, norms, sample, [], [])
    output = (hidden @ rows).norm(dim=1).clamp_min(1e-20)
    for share in SHARES:
        threshold = curve.threshold_at(share)
        dropped = compared <= threshold
        error = (torch.where(dropped, hidden, 0) @ rows).norm(dim=1) / output
        curve.thresholds.append(threshold)
        curve.cett.append(float(error.mean()))
    return curve


def _hidden(model: nn.Module, mlps: Sequence[MLP], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Return what enters each down projection on the first tokens that aren't padding, (tokens, width) in float32."""
    parts: dict[str, list[Tensor]] = {mlp.site.name: [] for mlp in mlps}
    masks: list[Tensor] = []

    def keep(mlp: MLP, hidden: Tensor) -> None:
        parts[mlp.site.name].append(hidden.detach().flatten(0, -2)[masks[-1].to(hidden.device)].float())

    with hidden_hooks(mlps, keep), torch.no_grad():
        tokens = 0
        for batch in batches:
            masks.append(token_mask(batch).flatten())
            next_token_logits(model, batch)
            tokens += int(masks[-1].sum())
            if tokens >= _TOKENS:
                break
    return {name: torch.cat(tensors)[:_TOKENS] for name, tensors in parts.items()}
