"""How long the study trains, and at which steps it looks."""

from __future__ import annotations

from actratio.statistics.trajectories import log_spaced
from actratio.training import Recipe

EPOCHS = (1, 2, 5, 10, 20, 50, 100)
"""Epochs at whose end the exponent of the width law is taken."""

FIXED_WIDTH = 128
"""Width of the factorial and of the mechanism's arms."""

FEW_SEEDS = 3
"""Seeds of the factorial."""

COUNTED = 2000
"""Examples of each split on which neurons are counted."""

_SHORTER = 4  # the factorial and the mechanism train a quarter of the epochs
_DECAY_POINTS, _SHORT_POINTS = 80, 30


def steps_per_epoch(examples: int) -> int:
    """Return the steps of an epoch with the default batch."""
    return -(-examples // Recipe().batch_size)


def log_steps(last: int) -> list[int]:
    """Return the log-spaced steps from 0 to ``last`` that the forms of decay are fitted to."""
    return log_spaced(last, _DECAY_POINTS)


def decay_steps(epochs: int, examples: int) -> list[int]:
    """Return the recorded steps of the long runs: the log-spaced ones, and the ends of ``EPOCHS``."""
    epoch = steps_per_epoch(examples)
    return sorted({*log_steps(epochs * epoch), *(mark * epoch for mark in EPOCHS if mark <= epochs)})


def short_steps(epochs: int, examples: int) -> list[int]:
    """Return the recorded steps of the factorial and of the mechanism's arms; they have equal numbers of steps."""
    return log_spaced(max(1, epochs // _SHORTER) * steps_per_epoch(examples), _SHORT_POINTS)
