"""How many neurons of untrained networks are active, with and without raised biases."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from actratio.studies.base import Arrays, Checkpoint
from actratio.training import Architecture, StackedMLP

PLAIN, RAISED = "untrained", "biases raised by 0.1σ"
ARMS = (PLAIN, RAISED)
_RAISE = 0.1
_STACK = 25  # networks at once
_FULL_WIDTH = 192


def network_count(networks: int, width: int) -> int:
    """Return how many networks of two layers of ``width`` neurons to draw, at least ``networks``.

    The ratio of a narrow network varies more: its standard deviation is at most 0.5/√(2·width).
    """
    return math.ceil(networks * max(1.0, _FULL_WIDTH / width))


def untrained_counts(architecture: Architecture, networks: int, inputs: Tensor, checkpoint: Checkpoint) -> Arrays:
    """Return ``active``, shape (arms, hidden layers, networks): how often the neurons of a layer were active.

    Args:
        architecture: the layer widths.
        networks: number of networks; network n starts from seed n.
        inputs: shape (examples, features).
        checkpoint: where progress is reported.
    """
    stacks = []
    for first in range(0, networks, _STACK):
        seeds = range(first, min(first + _STACK, networks))
        stacks.append(
            torch.stack([_active(StackedMLP(architecture, seeds), inputs, raised) for raised in (0.0, _RAISE)])
        )
        checkpoint.advance(len(seeds) / networks)
    return {"active": torch.cat(stacks, 2)}


@torch.no_grad()
def _active(model: StackedMLP, inputs: Tensor, raised: float) -> Tensor:
    """Count active neurons after raising each hidden bias by ``raised`` standard deviations of its layer, (layers, seeds)."""
    counts, below = [], inputs.T
    for weight in model.weights[:-1]:
        values = weight @ below
        values += raised * values.std((1, 2), keepdim=True)
        counts.append((values > 0).sum((1, 2)))
        below = values.relu_()
    return torch.stack(counts)
