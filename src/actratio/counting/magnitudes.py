"""How large activations are: a histogram of |a| on a logarithmic grid, from which ratios at any threshold are read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SHIFT = 20
"""Bits of a float32 that its bin leaves out: three of the mantissa's 23 are kept, for eight bins per octave."""

BINS = 1 << (31 - SHIFT)
"""Number of bins; bin 0 has zeros (and everything below 2⁻¹²⁶ · 1/8)."""

_INFINITE = 0x7F800000 >> SHIFT


def edges() -> Tensor:
    """Return the lower bounds of the bins, float64, (BINS + 1,): 2ᵉ · (1 + j/8); the last finite bin ends at infinity."""
    bits = torch.arange(BINS + 1, dtype=torch.int64).clamp_max(_INFINITE) << SHIFT
    return bits.to(torch.int32).view(torch.float32).double()


@dataclass(frozen=True, repr=False)
class Magnitudes:
    """Counts of |a| by bin, int64, (BINS,), which merge exactly.

    A bin is the exponent of a float32 and the first three bits of its mantissa, so bounds are exact and the width of a
    bin is at most an eighth of its lower bound. NaN is in the last bins, after infinity.

    >>> Magnitudes.of(torch.tensor([[0.0, -1.0, 3.0]])).share_above(1.0)
    0.666...
    """

    counts: Tensor

    def __repr__(self) -> str:
        return f"<Magnitudes of {self.total:,} elements, median {self.quantile(0.5):.3g}>"

    @classmethod
    def of(cls, x: Tensor) -> Magnitudes:
        """Count the elements of a tensor of any shape."""
        bits = x.detach().float().contiguous().view(torch.int32).flatten() & 0x7FFFFFFF
        return cls(torch.bincount(bits >> SHIFT, minlength=BINS))

    def merge(self, other: Magnitudes) -> Magnitudes:
        """Return both together."""
        return Magnitudes(self.counts + other.counts)

    @property
    def total(self) -> int:
        """Number of elements counted."""
        return int(self.counts.sum())

    def share_above(self, threshold: float) -> float:
        """Return the share of elements with |a| ≥ ``threshold``; exact at the bounds of bins, and linear between them."""
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
        """Return the magnitude below which a share of the elements lies; linear inside a bin."""
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
        """Return the share of Σ|a|ᵖ (p = 1: L1, p = 2: the square of L2) that the largest elements have.

        Elements count as the middle of their bin, which differs by at most a sixteenth.

        Args:
            share: which share of the elements are the largest ones.
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
