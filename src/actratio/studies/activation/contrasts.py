"""What is compared between networks that were trained with different activation functions: one log ratio for each seed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actratio.statistics.estimate import Estimate
from actratio.statistics.ratios import ratio_of_means
from actratio.statistics.seeds import over_seeds
from actratio.studies.activation.extracts import common_loss, log_ratios, ratio_at, ratio_at_loss
from actratio.studies.activation.judging import BAND, Values
from actratio.studies.activation.trained import switch_steps
from actratio.studies.names import shown_name

if TYPE_CHECKING:
    import pandas as pd

SWITCHES = {"relu, gelu, relu": ("relu", "gelu"), "gelu, relu, gelu": ("gelu", "relu")}
"""Arms that are switched: the activation function before, and after the first switch."""

LABELS = {
    "relu": "ReLU",
    "leaky_relu": "leaky ReLU",
    "gelu": "GELU",
    "silu": "SiLU",
    "relu2": "ReLU²",
    "swiglu": "SwiGLU",
}
"""Activation functions as text; other names stay as they are."""


def label(arm: str) -> str:
    """Return the name of an arm as text.

    >>> label("relu, gelu, relu")
    'ReLU, GELU, ReLU'
    """
    return ", ".join(LABELS.get(name, name) for name in arm.split(", "))


def where(part: str, dataset: str) -> str:
    """Return what a part and its data set are called in claims."""
    return "character model" if part == "character" else f"MLP on {shown_name(dataset)}"


def impacts(rows: pd.DataFrame) -> Iterator[tuple[str, str, Values]]:
    """Yield part, data set and log(ratio of GELU / ratio of ReLU) of each seed, at the last step that both arms have.

    Args:
        rows: what ``trained_rows`` returned.
    """
    for (part, dataset), group in rows.groupby(["part", "dataset"], sort=False):
        arms = dict(iter(group.groupby("model", sort=False)))
        if not {"relu", "gelu"} <= set(arms):
            continue
        step = int(group["step"].max())
        values = log_ratios(ratio_at(arms["gelu"], step), ratio_at(arms["relu"], step))
        if len(values):
            yield str(part), str(dataset), values


def impacts_at_equal_loss(rows: pd.DataFrame) -> Iterator[tuple[str, str, Values, float]]:
    """Yield part, data set, log(ratio of GELU / ratio of ReLU) of each seed at equal training loss, and that loss.

    It is the lowest loss that all runs of a data set reach, without the switched ones.

    Args:
        rows: what ``trained_rows`` returned.
    """
    for (part, dataset), group in rows[~rows["model"].isin(SWITCHES)].groupby(["part", "dataset"], sort=False):
        arms = dict(iter(group.groupby("model", sort=False)))
        if not {"relu", "gelu"} <= set(arms):
            continue
        target = common_loss(group)
        values = log_ratios(ratio_at_loss(arms["gelu"], target), ratio_at_loss(arms["relu"], target))
        if len(values):
            yield str(part), str(dataset), values, target


@dataclass(frozen=True, eq=False)
class Switched:
    """MLPs whose activation function was switched, before the switch back.

    Attributes:
        dataset: its name.
        before, after: the activation functions as text.
        to_other: log(switched/other arm) of each seed.
        apart: log(own arm/other arm) of each seed.
    """

    dataset: str
    before: str
    after: str
    to_other: Values
    apart: Values

    @property
    def where(self) -> str:
        """The network and the data set as text."""
        return where("mlp", self.dataset)

    @property
    def claim(self) -> str:
        """What is judged."""
        return f"{self.where}: switched from {self.before} to {self.after}, the ratio moves to that of {self.after}"

    @property
    def difference(self) -> float:
        """By how much the larger ratio of the two arms exceeds the smaller one, as a share of the smaller one."""
        return math.expm1(abs(float(self.apart.mean())))

    @property
    def arms_are_close(self) -> bool:
        """Whether the interval of own/other arm isn't outside of the rule's band, so that staying and moving look alike."""
        apart = over_seeds(self.apart)
        return not (apart.high < BAND[0] or apart.low > BAND[1])

    @property
    def way(self) -> Estimate:
        """Share of the way from the own arm to the other one, in log ratio: 0 for a network that stays, 1 for one that arrives."""
        if len(self.to_other) != len(self.apart):
            return Estimate(math.nan)
        return ratio_of_means(self.apart - self.to_other, self.apart)


def switches(rows: pd.DataFrame) -> Iterator[Switched]:
    """Yield each switched arm whose two other arms are there, two thirds into the training.

    Args:
        rows: what ``trained_rows`` returned.
    """
    for dataset, group in rows[rows["part"] == "mlp"].groupby("dataset", sort=False):
        arms = dict(iter(group.groupby("model", sort=False)))
        _, step = switch_steps(int(group["step"].max()))
        for arm, (before, after) in SWITCHES.items():
            if not {arm, before, after} <= set(arms):
                continue
            switched, own, other = (ratio_at(arms[name], step) for name in (arm, before, after))
            to_other, apart = log_ratios(switched, other), log_ratios(own, other)
            if len(to_other) and len(apart):
                yield Switched(str(dataset), LABELS[before], LABELS[after], to_other, apart)
