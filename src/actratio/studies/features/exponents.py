"""Exponents and elasticities of the active neurons, one for each seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from actratio.statistics.seeds import log_slope
from actratio.statistics.trajectories import at_loss
from actratio.studies.features.grid import NEURONS_PER_FEATURE

if TYPE_CHECKING:
    import pandas as pd

LOSSES = (1.5, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
"""Training losses at which runs are compared, from the largest."""


def active_at(rows: pd.DataFrame, loss: float | None = None) -> pd.DataFrame:
    """Return the active neurons of each run, one row per ``seed`` and ``layer`` and one column per ``width``.

    Args:
        rows: rows of one condition.
        loss: the training loss at which A is read, interpolated in log A; ``None`` for the step at which conditions are compared.
            A run that never reaches the loss is NaN.
    """
    import pandas as pd

    usable = rows.assign(log_active=np.log(rows["active_mean"].where(rows["active_mean"] > 0)))
    if loss is None:
        return _by_width(usable[usable["at_equal_steps"]])
    found = [
        (*key, at_loss(run["train_loss"], run["log_active"], loss))
        for key, run in usable.sort_values("step").groupby(["seed", "layer", "width"])
    ]
    return _by_width(pd.DataFrame(found, columns=["seed", "layer", "width", "log_active"]))


def _by_width(values: pd.DataFrame) -> pd.DataFrame:
    table = values.set_index(["seed", "layer", "width"])["log_active"].unstack("width")
    return np.exp(table)


def exponents_by_layer(rows: pd.DataFrame, widths: Sequence[int], loss: float | None = None) -> pd.DataFrame:
    """Return α of each seed (row) and layer (column); NaN if a width is missing, or there are fewer than two.

    Args:
        rows: rows of one condition.
        widths: the widths that must be there.
        loss: as in ``active_at``.
    """
    import pandas as pd

    if rows.empty:
        return pd.DataFrame(dtype="float64")
    active = active_at(rows, loss).reindex(columns=sorted(widths))
    slopes = pd.Series(np.nan, index=active.index)
    if len(widths) > 1:
        for key in active.index[active.notna().all(axis=1)]:
            slopes[key] = log_slope(active.columns.to_numpy(), active.loc[key].to_numpy())
    return slopes.unstack("layer")


def exponent_of_seeds(rows: pd.DataFrame, widths: Sequence[int], loss: float | None = None) -> pd.Series:
    """Return α of each seed, the mean over the layers; the arguments are those of ``exponents_by_layer``."""
    exponents: pd.Series = exponents_by_layer(rows, widths, loss).mean(axis=1, skipna=False)
    return exponents


def exponents_over_training(rows: pd.DataFrame, widths: Sequence[int]) -> Iterator[tuple[int, pd.Series]]:
    """Yield each step at which the runs of a condition were measured, with α of each seed."""
    for step, measured in rows.groupby("step"):
        yield int(step), exponent_of_seeds(measured.assign(at_equal_steps=True), widths)


def common_loss(rows: pd.DataFrame) -> float | None:
    """Return the smallest of ``LOSSES`` that every run reaches, or ``None``; the active neurons play no part in it."""
    if rows.empty:
        return None
    highest = rows.groupby(["condition", "width", "seed"])["train_loss"].min().max()
    return min((loss for loss in LOSSES if loss >= highest), default=None)


def enough_neurons(widths: Sequence[int], features: float) -> list[int]:
    """Return the widths of at least four neurons per feature."""
    return [width for width in widths if width >= NEURONS_PER_FEATURE * features]


def exponents_of_cells(rows: pd.DataFrame, widths: Sequence[int]) -> pd.DataFrame:
    """Return α of each seed (row) and condition (column), from the widths of at least four neurons per feature."""
    import pandas as pd

    found = {}
    for condition, cell in rows.groupby("condition", sort=False):
        used = enough_neurons(widths, cell["features"].iloc[0])
        found[condition] = exponent_of_seeds(cell[cell["width"].isin(used)], used)
    return pd.DataFrame(found)


def elasticities(rows: pd.DataFrame, names: Sequence[str], width: int, cells: int) -> pd.DataFrame:
    """Return, for each seed, the coefficients of log A = c + Σ coefficient · log name, at one width.

    Args:
        rows: rows of one test.
        names: columns such as ``features`` and ``present``.
        width: the width.
        cells: number of conditions; a seed with fewer is NaN.

    Returns:
        One row per seed and one column per name.
    """
    import pandas as pd

    last = rows[rows["at_equal_steps"] & (rows["width"] == width)]
    found = {}
    for seed in sorted(rows["seed"].unique()):
        own = last[last["seed"] == seed]
        found[seed] = [np.nan] * len(names)
        if len(own) == cells and (own["active_mean"] > 0).all():
            design = np.column_stack([np.ones(len(own)), *(np.log(own[name]) for name in names)])
            found[seed] = np.linalg.lstsq(design, np.log(own["active_mean"]), rcond=None)[0][1:].tolist()
    return pd.DataFrame.from_dict(found, orient="index", columns=list(names)).astype("float64")
