"""α at equal depth over training: after each epoch, and at equal training loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actratio.statistics.estimate import Estimate
from actratio.statistics.trajectories import at_loss
from actratio.studies.mlp.cells import CellTable

if TYPE_CHECKING:
    import pandas as pd

LOSSES = (0.5, 0.3, 0.2, 0.1, 0.05, 0.03)
"""Training losses at which runs are compared."""


@dataclass(frozen=True)
class AtLoss:
    """α of the runs that reached a training loss.

    Attributes:
        loss: the training loss.
        alpha: α at equal depth; ``nan`` if too few architectures reached the loss.
        reached: how many runs reached it after the first epoch.
        early: how many reached it in the first epoch, within which nothing was recorded.
        runs: number of runs; those that are neither are censored.
    """

    loss: float
    alpha: Estimate
    reached: int
    early: int
    runs: int


def alpha_by_epoch(rows: pd.DataFrame) -> dict[int, Estimate]:
    """Return α at equal depth after each epoch.

    Args:
        rows: hidden layers of one data set and split.
    """
    alphas = {}
    for epoch, at_epoch in rows.groupby("epoch"):
        cells = CellTable.of(at_epoch)
        if cells is not None:
            alphas[int(epoch)] = cells.design().fit(cells.log_active).alpha
    return alphas


def alpha_change(rows: pd.DataFrame, first: int, last: int) -> Estimate:
    """Return α at equal depth after the epoch ``last`` minus that after ``first``, over the cells of both.

    A cell's deviation from the law mostly stays the same over training, and so cancels.

    Args:
        rows: hidden layers of one data set and split.
    """
    keys = ["seed", "architecture", "layer", "width"]
    pair = [rows[rows["epoch"] == epoch].set_index(keys)["active_mean"] for epoch in (first, last)]
    # The change of log A is the logarithm of the ratio of A, so it is fitted like log A.
    cells = CellTable.of((pair[1] / pair[0]).rename("active_mean").reset_index())
    return Estimate(float("nan")) if cells is None else cells.design().fit(cells.log_active).alpha


def alpha_at_losses(rows: pd.DataFrame) -> list[AtLoss]:
    """Return α at equal depth at each training loss that at least one run reached.

    A is interpolated to the epoch at which the training loss of a run first falls to the loss. Where this is in the first epoch,
    A is not known: it was recorded before training and after the epoch, and it rises and falls in between. An architecture is left
    out if one of its seeds reaches the loss so early, or never.

    Args:
        rows: hidden layers of one data set and split.
    """
    results = []
    rows = rows[rows["epoch"] > 0]  # before training, the loss is that of one point, later the mean over an epoch
    runs = list(rows.groupby(["architecture", "seed"]))
    curves = {
        key: (run[run["layer"] == run["layer"].min()].sort_values("epoch")["train_loss"].to_numpy(), run)
        for key, run in runs
    }
    for loss in LOSSES:
        early = {key for key, (losses, _) in curves.items() if losses[0] <= loss}
        reached = {key for key, (losses, _) in curves.items() if (losses <= loss).any()} - early
        if not reached and not early:
            continue
        complete = {name for name, _ in curves} - {name for name, seed in curves if (name, seed) not in reached}
        kept = [_at(loss, *curves[key]) for key in curves if key[0] in complete]
        alpha = Estimate(float("nan"))
        if len(complete) >= 3:
            import pandas as pd

            cells = CellTable.of(pd.concat(kept, ignore_index=True))
            if cells is not None:
                alpha = cells.design().fit(cells.log_active).alpha
        results.append(AtLoss(loss, alpha, len(reached), len(early), len(runs)))
    return results


def _at(loss: float, losses: np.ndarray, run: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each layer of a run, with A at the loss."""
    first = run[run["epoch"] == run["epoch"].min()].copy()
    logs = {
        layer: np.log(np.maximum(cells.sort_values("epoch")["active_mean"].to_numpy(dtype=float), 1e-300))
        for layer, cells in run.groupby("layer")
    }
    return first.assign(active_mean=[float(np.exp(at_loss(losses, logs[layer], loss))) for layer in first["layer"]])
