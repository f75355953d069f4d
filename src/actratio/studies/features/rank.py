"""How many directions the activations of a layer span, from a covariance that is summed batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor

DUPLICATE_COSINE = 0.95
"""Neurons are duplicates if the cosine of their incoming weights is above this."""


class StreamedCovariance:
    """The covariance of a layer's neurons over examples that come in batches, for each seed.

    Sums are float64.

    >>> covariance = StreamedCovariance()
    >>> for _ in range(2):
    ...     covariance.add(torch.tensor([[[1.0, 3.0], [2.0, 2.0]]]))
    >>> covariance.matrix()
    tensor([[[1., 0.],
             [0., 0.]]], dtype=torch.float64)
    """

    def __init__(self) -> None:
        self._examples = 0
        self._sum = self._products = torch.zeros((), dtype=torch.float64)

    def add(self, activations: Tensor) -> None:
        """Add a batch, of shape (seeds, width, examples)."""
        values = activations.double()
        self._examples += values.shape[2]
        self._sum = self._sum.to(values.device) + values.sum(2)
        self._products = self._products.to(values.device) + values @ values.transpose(1, 2)

    def matrix(self) -> Tensor:
        """Return the covariance, of shape (seeds, width, width); sums of squares are divided by the number of examples."""
        mean = self._sum / self._examples
        return self._products / self._examples - mean.unsqueeze(2) * mean.unsqueeze(1)


def effective_rank(covariance: Tensor) -> Tensor:
    """Return e to the entropy of the normalised eigenvalues, of shape (seeds,); 0 for a covariance of zeros.

    Source: Roy & Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO (2007), on the eigenvalues of
    the covariance.
    """
    shares, total = _shares(covariance)
    entropy = -torch.special.xlogy(shares, shares).sum(1)
    return torch.where(total > 0, entropy.exp(), torch.zeros_like(total))


def participation_ratio(covariance: Tensor) -> Tensor:
    """Return (Σλ)² / Σλ² of the eigenvalues λ, of shape (seeds,); 0 for a covariance of zeros."""
    shares, total = _shares(covariance)
    return torch.where(total > 0, 1 / shares.square().sum(1).clamp(min=1e-300), torch.zeros_like(total))


def _shares(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues as shares of their sum, and the sum."""
    eigenvalues = torch.linalg.eigvalsh(covariance).clamp(min=0)
    total = eigenvalues.sum(1)
    return eigenvalues / total.clamp(min=1e-300).unsqueeze(1), total


def count_duplicates(weights: Tensor, living: Tensor) -> Tensor:
    """Count the living neurons that have a duplicate among the other living neurons, for each seed.

    Args:
        weights: incoming weights, shape (seeds, neurons, inputs).
        living: shape (seeds, neurons).
    """
    directions = torch.nn.functional.normalize(weights.detach(), dim=2)
    alike = (directions @ directions.transpose(1, 2)) > DUPLICATE_COSINE
    alike &= living.unsqueeze(1) & living.unsqueeze(2)
    alike.diagonal(dim1=1, dim2=2).fill_(False)
    return alike.any(2).sum(1)
