"""What was looked at after the results were known, on 27 November 2026: fan-out, depth inside networks, and the length of training.

Everything here is exploratory. It changes no rule and no verdict; it says what the planned figures can't tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from actratio.laws.law import Array
from actratio.laws.results import REFERENCE_WIDTH
from actratio.statistics.estimate import Estimate
from actratio.statistics.linear_model import LinearModel
from actratio.statistics.seeds import over_seeds
from actratio.studies.mlp.cells import CellTable

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN = Estimate(math.nan)


@dataclass(frozen=True)
class FanOutFit:
    """α at equal depth, without and with the number of neurons of the next layer.

    Attributes:
        alpha: α of log A = layer + α·log N.
        adjusted: α of log A = layer + α·log N + γ·log fan-out + last, where ``last`` is 1 for the last hidden layer, whose fan-out
            is the number of classes in every network, so that γ comes from the other layers.
        fan_out: γ; below 0, a layer before a wider one has fewer active neurons.
        last: how many times as many neurons are active in a last hidden layer as in a layer with a fan-out of 128, at equal width
            and depth.
        spread, adjusted_spread: standard deviation of the residuals of both fits, in log A.
    """

    alpha: Estimate
    adjusted: Estimate
    fan_out: Estimate
    last: Estimate
    spread: float
    adjusted_spread: float


def fit_fan_out(rows: pd.DataFrame) -> FanOutFit | None:
    """Fit the networks of one block at one point of training; ``None`` with fewer than two widths.

    Figures that the networks don't determine are NaN.

    Args:
        rows: hidden layers of one split at one epoch.
    """
    table = CellTable.of(rows)
    if table is None:
        return None
    widths = [_widths(name) for name in table.architectures]
    layer = table.layer.astype(int)
    last = np.array([index == len(network_widths) - 3 for network_widths, index in zip(widths, layer, strict=True)])
    following = np.array(
        [network_widths[index + 2] for network_widths, index in zip(widths, layer, strict=True)], dtype=float
    )
    log_fan_out = np.where(last, 0.0, np.log(following / REFERENCE_WIDTH))
    levels = [layer == depth for depth in np.unique(layer)]
    log_width = np.log(table.width / REFERENCE_WIDTH)
    plain = np.column_stack([log_width, *levels]).astype(float)
    model, adjusted = LinearModel(plain), LinearModel(np.column_stack([plain, log_fan_out, last]).astype(float))
    columns = adjusted.coefficients
    means = table.log_active.mean(0)
    return FanOutFit(
        _coefficient(model, 0, table.log_active),
        _coefficient(adjusted, 0, table.log_active),
        _coefficient(adjusted, columns - 2, table.log_active),
        _coefficient(adjusted, columns - 1, table.log_active).exp(),
        model.spread(means),
        adjusted.spread(means),
    )


def _coefficient(model: LinearModel, index: int, log_active: Array) -> Estimate:
    weights = np.eye(model.coefficients)[index]
    return model.contrast(weights, log_active).interval() if model.can_estimate(weights) else UNKNOWN


@dataclass(frozen=True)
class WithinNetworks:
    """The step from layer to layer inside networks of equal widths, where nothing else differs between the layers compared.

    The first hidden layer, which sees the pixels, and nets with fewer than three hidden layers are left out.

    Attributes:
        step: factor per layer deeper, from the second hidden layer to the last one.
        steps: factor from each layer to the next, by the index of the deeper one.
    """

    step: Estimate
    steps: dict[int, Estimate]


def steps_within_networks(rows: pd.DataFrame) -> WithinNetworks | None:
    """Return the steps inside the deepest networks of equal widths; ``None`` if there are none.

    A seed's figure is the mean over the networks, which were chosen, so that they are fixed.

    Args:
        rows: hidden layers of one split at one epoch.
    """
    table = _logs(rows)
    depths = {name: len(_widths(name)) - 2 for name in table.columns.unique("architecture")}
    equal = [name for name, depth in depths.items() if len(set(_widths(name)[1:-1])) == 1 and depth >= 3]
    if not equal:
        return None
    deepest = max(depths[name] for name in equal)
    means = table[[name for name in equal if depths[name] == deepest]].T.groupby("layer").mean().T
    last = deepest - 1
    return WithinNetworks(
        over_seeds((means[last] - means[1]) / (last - 1)).exp(),
        {after: over_seeds(means[after] - means[before]).exp() for before, after in pairwise(range(1, deepest))},
    )


def last_against_inner(rows: pd.DataFrame) -> dict[int, Estimate]:
    """Return, by width, how many times as many neurons the second layer has active where it is the last one as in a deeper network.

    Both networks have equal widths; the deeper one is the deepest.

    Args:
        rows: hidden layers of one split at one epoch.
    """
    table = _logs(rows)
    by_width: dict[int, dict[int, str]] = {}
    for name in table.columns.unique("architecture"):
        hidden = _widths(name)[1:-1]
        if len(set(hidden)) == 1:
            by_width.setdefault(hidden[0], {})[len(hidden)] = name
    return {
        width: over_seeds(table[nets[2], 1] - table[nets[max(nets)], 1]).exp()
        for width, nets in sorted(by_width.items())
        if 2 in nets and max(nets) > 2
    }


def changes_of_shared_networks(first: pd.DataFrame, second: pd.DataFrame) -> dict[tuple[str, int], Estimate]:
    """Return how many times as many neurons are active in ``second`` as in ``first``, by architecture and layer.

    Args:
        first, second: hidden layers of one split at one epoch, of two blocks that share architectures.
    """
    tables = [_logs(rows) for rows in (first, second)]
    shared = sorted(set(tables[0].columns) & set(tables[1].columns))
    return {
        (str(name), int(layer)): over_seeds(tables[1][name, layer] - tables[0][name, layer]).exp()
        for name, layer in shared
    }


def epoch_at_step(rows: pd.DataFrame, step: int) -> int:
    """Return the epoch whose end is nearest to a step."""
    steps = rows.groupby("epoch")["step"].max()
    return int((steps - step).abs().idxmin())


def _widths(architecture: str) -> Sequence[int]:
    return [int(width) for width in architecture.split("-")]


def _logs(rows: pd.DataFrame) -> pd.DataFrame:
    """Return log A, one row per seed, one column per architecture and layer."""
    active: Mapping[str, str] = {"index": "seed", "values": "active_mean"}
    with np.errstate(divide="ignore"):
        logs: pd.DataFrame = np.log(rows.pivot_table(columns=["architecture", "layer"], **active))
    return logs.replace(-np.inf, np.nan)
