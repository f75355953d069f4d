"""The measurements of the study as arrays of log A."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from actratio.statistics.linear_model import Numbers

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Networks:
    """One layer of the networks of a condition, after training.

    Attributes:
        log_width: logarithm of the layer's width, shape (networks,).
        log_other: logarithm of the other hidden layer's width, or 0.
        log_active: log A, shape (seeds, networks). Seeds in which a whole layer was silent are left out.
        seeds: the seed of each row of ``log_active``.
    """

    log_width: Numbers
    log_other: Numbers
    log_active: Numbers
    seeds: tuple[int, ...]

    def at_least(self, width: int) -> Networks:
        """Return the networks whose layer has at least ``width`` neurons."""
        kept = self.log_width >= math.log(width) - 1e-9
        return replace(
            self, log_width=self.log_width[kept], log_other=self.log_other[kept], log_active=self.log_active[:, kept]
        )

    def of_seeds(self, seeds: Sequence[int]) -> Networks:
        """Return the same networks with these seeds only, in this order."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return replace(self, log_active=self.log_active[rows], seeds=tuple(seeds))

    def at(self, width: int) -> Numbers:
        """Return log A of each seed at one width, shape (seeds,); empty if there is no such network."""
        found = np.flatnonzero(np.isclose(self.log_width, math.log(width)))
        return self.log_active[:, found[0]] if len(found) else np.empty(0)


def last_step(frame: pd.DataFrame) -> int:
    """Return the last step that was counted."""
    return int(frame["step"].max())


def networks(rows: pd.DataFrame) -> Networks:
    """Return rows of one condition, number of layers, layer, split and step as arrays."""
    with np.errstate(divide="ignore"):
        table = (
            rows.assign(log_active=np.log(rows["active_mean"].to_numpy(dtype=float)))
            .pivot_table(index="seed", columns=["width", "other_width"], values="log_active", sort=True)
            .replace(-np.inf, np.nan)
            .dropna()
        )
    widths = np.array([list(pair) for pair in table.columns], dtype=float).reshape(-1, 2)
    return Networks(
        np.log(widths[:, 0]),
        np.log(np.maximum(widths[:, 1], 1)),
        table.to_numpy(dtype=float),
        tuple(int(seed) for seed in table.index),
    )


def select(
    frame: pd.DataFrame, task: str, *, factor: str = "", level: int = 0, layers: int = 1, layer: int = 0
) -> Networks | None:
    """Return the held-out counts of a condition at the last step; ``None`` if there are none yet.

    Args:
        frame: the tidy table.
        task: name of the task.
        factor, level: the condition's.
        layers: number of hidden layers.
        layer: index of the layer.
    """
    rows = frame[
        (frame["dataset"] == task)
        & (frame["factor"] == factor)
        & (frame["level"] == level)
        & (frame["layers"] == layers)
        & (frame["layer"] == layer)
        & (frame["split"] == "val")
        & (frame["step"] == last_step(frame))
    ]
    if rows.empty:
        return None
    found = networks(rows)
    return found if len(found.log_active) else None


def loss_paths(frame: pd.DataFrame, task: str) -> dict[tuple[int, int], tuple[Numbers, Numbers]]:
    """Return training loss and held-out log A at the checkpoints of each run of a task, by width and seed."""
    rows = frame[
        (frame["dataset"] == task) & (frame["factor"] == "") & (frame["layers"] == 1) & (frame["split"] == "val")
    ].sort_values("step")
    return {
        (int(width), int(seed)): (
            run["train_loss"].to_numpy(dtype=float),
            np.log(np.maximum(run["active_mean"].to_numpy(dtype=float), 1e-9)),
        )
        for (width, seed), run in rows.groupby(["width", "seed"])
    }


def final_scores(frame: pd.DataFrame, task: str) -> tuple[float, float]:
    """Return training loss and held-out accuracy of a task after training, as means over the networks with one hidden layer."""
    rows = frame[
        (frame["dataset"] == task)
        & (frame["factor"] == "")
        & (frame["layers"] == 1)
        & (frame["split"] == "val")
        & (frame["step"] == last_step(frame))
    ]
    return float(rows["train_loss"].mean()), float(rows["val_accuracy"].mean())
