"""What the study of architectures reads from its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actratio.statistics.estimate import Estimate
from actratio.studies.architectures.judging import (
    BlockCounts,
    ProfileEstimate,
    block_interval,
    cost_of_keeping,
    estimate_profile,
    shift_of_parts,
    smallest_share,
)

if TYPE_CHECKING:
    import pandas as pd

CONTROL = "minilm"
"""The model whose weights are rounded to judge what quantisation does to the others."""


@dataclass(frozen=True, eq=False)
class Costs:
    """What a model loses with fewer neurons.

    Attributes:
        kept: shares, in descending order.
        costs: of each share.
        relative: whether the cost is a share of the loss; otherwise it is 1 − cosine of embeddings.
        smallest: the smallest share that costs at most 1%.
        blocks: number of blocks of text that were read.
    """

    kept: list[float]
    costs: list[Estimate]
    relative: bool
    smallest: Estimate
    blocks: int


def block_counts(frame: pd.DataFrame, model: str, variant: str, tensor: str = "activation") -> BlockCounts | None:
    """Return the counts of one model, variant and tensor by block and layer, or ``None`` if they weren't measured."""
    rows = frame[(frame["model"] == model) & (frame["variant"] == variant) & (frame["tensor"] == tensor)]
    if rows.empty:
        return None
    table = rows.pivot(index="block", columns="layer", values=["active", "outputs"]).dropna()
    return BlockCounts(table["active"].to_numpy(dtype=np.float64), table["outputs"].to_numpy(dtype=np.float64))


def twin_ratios(frame: pd.DataFrame, model: str) -> list[float]:
    """Return the mean ratio of each newly initialised twin."""
    rows = frame[(frame["model"] == model) & (frame["variant"] == "twin") & (frame["tensor"] == "activation")]
    sums = rows.groupby(["seed", "layer"])[["active", "outputs"]].sum()
    return [float(ratio) for ratio in (sums["active"] / sums["outputs"]).groupby("seed").mean()]


def costs_of(frame: pd.DataFrame, model: str) -> Costs | None:
    """Return what a model loses with fewer neurons, or ``None`` if it wasn't measured."""
    rows = frame[(frame["model"] == model) & (frame["variant"] == "reduced")]
    if rows.empty:
        return None
    table = rows.pivot(index="kept", columns="block", values="loss").sort_index(ascending=False)
    weight = rows.groupby("block")["weight"].first().to_numpy(dtype=np.float64)
    kept, relative = [float(share) for share in table.index], bool(rows["cost"].iloc[0] == "loss")
    costs, resampled = cost_of_keeping(table.to_numpy(dtype=np.float64), weight, relative=relative)
    value = float(smallest_share(kept, np.array([cost.value for cost in costs])))
    smallest = block_interval(value, smallest_share(kept, resampled), len(weight)).clip(0, 1)
    return Costs(kept, costs, relative, smallest, len(weight))


def shift_sizes(frame: pd.DataFrame) -> tuple[float, ...] | None:
    """Return by how much rounding the weights moves each part of the control's profile, or ``None`` if it wasn't measured."""
    original, rounded = block_counts(frame, CONTROL, "pretrained"), block_counts(frame, CONTROL, "quantised")
    if original is None or rounded is None or len(original.active) != len(rounded.active):
        return None
    return shift_of_parts(original, rounded)


def profiles_of(frame: pd.DataFrame, settings: Mapping[str, Any], widen: Sequence[float]) -> list[ProfileEstimate]:
    """Return the profile of each model that was measured.

    Args:
        widen: systematic error of each part, for models whose weights were stored in quantised form.
    """
    models = settings["models"]
    found = []
    for model in models:
        counts = block_counts(frame, model, "pretrained")
        if counts is not None and len(counts.active):
            size = widen if model in settings["weights"] else (0.0, 0.0, 0.0)
            found.append(estimate_profile(model, counts, len(models), size))
    return found


def curves_by_model(published: pd.DataFrame) -> list[NDArray[np.float64]]:
    """Return the mean ratio of each layer of each published model."""
    return [
        rows.groupby("layer")["activation_ratio"].mean().sort_index().to_numpy(dtype=np.float64)
        for _, rows in published.groupby("model")
    ]


def mean_and_range(curves: Sequence[NDArray[np.float64]], places: NDArray[np.float64]) -> list[Estimate]:
    """Return the mean of several models at relative depths, with the lowest and the highest model as interval.

    Args:
        curves: ratios of the layers of each model, (layers,).
        places: relative depths, 0 for the first layer and 1 for the last.
    """
    table = np.array([np.interp(places, np.linspace(0, 1, len(curve)), curve) for curve in curves])
    return [Estimate(float(column.mean()), float(column.min()), float(column.max())) for column in table.T]
