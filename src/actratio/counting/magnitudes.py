"""How large activations are: a histogram of |a| on a logarithmic grid, from which thresholds are read afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SHIFT = 20
"""Bits of a float32 that its bin leaves out: of the mantissa's 23, three are kept, for eight bins an octave."""

BINS = 1 << (31 - SHIFT)
"""Bins of the histogram; bin 0 holds zero (and what is below 2⁻¹²⁶ · 1/8)."""

_INFINITE = 0x7F800000 >> SHIFT


def edges() -> Tensor:
    """Lower bounds of the bins, float64, (BINS + 1,): 2ᵉ · (1 + j/8); the last finite one ends at infinity."""
    bits = torch.arange(BINS + 1, dtype=torch.int64).clamp_max(_INFINITE) << SHIFT
    return bits.to(torch.int32).view(torch.float32).double()


@dataclass(frozen=True)
class Magnitudes:
    """Counts of |a| by bin, int64, (BINS,); integers that merge exactly.

    A bin is the sign-less float32's exponent and the first three bits of its mantissa, so bounds are exact and a bin
    is at most an eighth wide. NaN is in the last bins, beyond infinity.

    >>> Magnitudes.of(torch.tensor([[0.0, -1.0, 3.0]])).share_above(1.0)
    0.666...
    """

    counts: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Magnitudes:
        """Count the elements of a tensor of any shape."""
        bits = x.detach().float().contiguous().view(torch.int32).flatten() & 0x7FFFFFFF
        return cls(torch.bincount(bits >> SHIFT, minlength=BINS))

    def merge(self, other: Magnitudes) -> Magnitudes:
        return Magnitudes(self.counts + other.counts)

    @property
    def total(self) -> int:
        """How many elements were counted."""
        return int(self.counts.sum())

    def share_above(self, threshold: float) -> float:
        """Share of elements with |a| ≥ ``threshold``; exact at a bin's bound, and linear between two of them."""
        if not self.total:
            return math.nan
        bounds = edges()
        at = int(torch.searchsorted(bounds, torch.tensor(threshold, dtype=torch.float64), right=True)) - 1
        if at >= _INFINITE:
            return int(self.counts[_INFINITE:].sum()) / self.total
        low, high = float(bounds[at]), float(bounds[at + 1])
        within = 1.0 if not math.isfinite(high) else (high - threshold) / (high - low)
        return (int(self.counts[at + 1 :].sum()) + within * int(self.counts[at])) / self.total

    def quantile(self, share: float) -> float:
        """The magnitude below which ``share`` of the elements are; linear inside a bin."""
        if not self.total:
            return math.nan
        wanted, below = share * self.total, 0
        for index, count in enumerate(self.counts.tolist()):
            if count and below + count >= wanted:
                low, high = (float(bound) for bound in edges()[index : index + 2])
                return low if not math.isfinite(high) else low + (high - low) * (wanted - below) / count
            below += count
        return math.nan

    def mass_in_top(self, share: float, power: int = 1) -> float:
        """Share of Σ|a|ᵖ (p = 1: L1, p = 2: the square of L2) that the largest ``share`` of the elements hold.

        Elements of a bin are taken at its middle, which is within a sixteenth of each.
        """
        if not self.total:
            return math.nan
        bounds = edges()[: _INFINITE + 1]
        counts = self.counts[:_INFINITE].double().flip(0)
        middle = ((bounds[:-1] + bounds[1:]) / 2).nan_to_num(posinf=0.0)
        middle[0] = 0.0
        mass = counts * middle.flip(0) ** power
        taken = (share * self.total - (counts.cumsum(0) - counts)).clamp_min(0)
        part = torch.where(counts > 0, (taken / counts.clamp_min(1)).clamp_max(1), 0.0)
        whole = float(mass.sum())
        return float((mass * part).sum()) / whole if whole else math.nan
