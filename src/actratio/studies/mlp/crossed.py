"""The crossed block B0: networks in which width and depth vary independently of each other."""

from __future__ import annotations

from actratio.data import Dataset
from actratio.data.variants import take_examples

CROSSED_WIDTHS = (32, 128, 512)
"""Widths of its hidden layers."""

CROSSED_DEPTHS = (1, 2, 4)
"""Numbers of hidden layers of its networks of equal widths."""

CROSSED_EXAMPLES = 20_000
"""Training examples; data sets with fewer have no crossed block."""

CROSSED_BLOCK = "b0"
"""What the column ``block`` says of its networks."""


def crossed_shapes() -> list[tuple[int, ...]]:
    """Return the hidden widths of each network: equal widths at each depth, and each pair of widths in two layers.

    >>> len(crossed_shapes())
    15
    """
    equal = [(width,) * depth for depth in CROSSED_DEPTHS for width in CROSSED_WIDTHS]
    pairs = [(first, second) for first in CROSSED_WIDTHS for second in CROSSED_WIDTHS]
    return list(dict.fromkeys([*equal, *pairs]))


def crossed_examples(data: Dataset) -> Dataset:
    """Return the data set with the training examples of the block, the same for all networks and seeds."""
    return take_examples(data, CROSSED_EXAMPLES)
