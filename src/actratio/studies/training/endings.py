"""Where long runs end: after the training loss is nearly zero, the ratio drifts up, and drops when the loss jumps.

This was looked at on 27 November 2026, after the results were known, and is exploratory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actratio.statistics.trajectories import at_loss
from actratio.studies.training.summaries import by_step, peak_step

if TYPE_CHECKING:
    import pandas as pd

NEARLY_ZERO = 3e-4
"""Training loss below which a run can have a jump. The weights move little there, so a loss that grows is not the noise of early batches."""

JUMP = 10.0
"""A jump is a loss that is this many times the lowest one so far."""


@dataclass(frozen=True)
class Ending:
    """The end of one run.

    Attributes:
        seed: the seed.
        lowest: the lowest ratio after the peak.
        lowest_step: where it is.
        before: the ratio at the last checkpoint before the first jump; at the last one if there is no jump.
        jump: the step of the first checkpoint with a jump; ``None`` without one.
        drop: by how much the ratio falls from ``before`` to the checkpoint with the jump; NaN without one.
        end: the ratio at the last checkpoint.
    """

    seed: int
    lowest: float
    lowest_step: int
    before: float
    jump: int | None
    drop: float
    end: float


def run_endings(rows: pd.DataFrame) -> list[Ending]:
    """Return the end of each run of one width.

    Args:
        rows: rows of one condition.
    """
    ratios, losses = by_step(rows, "activation_ratio"), by_step(rows, "train_loss")
    found = []
    for seed in ratios.columns:
        ratio, loss = ratios[seed], losses[seed].to_numpy(dtype=float)
        after = ratio.loc[peak_step(ratio) :]
        jump = first_jump(loss)
        before = float(ratio.iloc[-1 if jump is None else jump - 1])
        found.append(
            Ending(
                int(seed),
                float(after.min()),
                int(after.idxmin()),
                before,
                None if jump is None else int(ratio.index[jump]),
                math.nan if jump is None else before - float(ratio.iloc[jump]),
                float(ratio.iloc[-1]),
            )
        )
    return found


def first_jump(losses: np.ndarray) -> int | None:
    """Return the index of the first checkpoint at which the loss jumps, or ``None``.

    >>> first_jump(np.array([2.0, 1e-3, 1e-2, 1e-4, 2e-4, 5e-3]))
    5
    """
    lowest = np.minimum.accumulate(losses)[:-1]
    jumps = np.flatnonzero((lowest < NEARLY_ZERO) & (losses[1:] > JUMP * lowest))
    return int(jumps[0]) + 1 if len(jumps) else None


def ratio_at_loss(rows: pd.DataFrame, loss: float) -> pd.Series:
    """Return the ratio of each seed where its training loss first falls to ``loss``; NaN for a seed that never gets there."""
    import pandas as pd

    ratios, losses = by_step(rows, "activation_ratio"), by_step(rows, "train_loss").clip(lower=1e-12)
    return pd.Series(
        {seed: at_loss(np.log(losses[seed]), ratios[seed], math.log(loss)) for seed in ratios.columns}, dtype=float
    )
