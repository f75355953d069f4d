"""What the rules and the charts need, taken from the tidy table: one value for each document or seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actratio.statistics.trajectories import at_loss
from actratio.studies.activation.intervening import ALL_LAYERS
from actratio.studies.activation.judging import Values, linearised_costs

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = "published domains"
"""Documents that are shown next to the others, but don't affect any verdict."""

Key = tuple[int, str, float]
"""Layer, way and share of an intervention."""


@dataclass(frozen=True, eq=False)
class ModelCosts:
    """What a pretrained model's documents lose.

    Attributes:
        model: name of the model.
        reads: what kind of documents it reads.
        dense: loss of each document without an intervention.
        costs: relative costs by intervention, one value for each document.
        dropped: share of the outputs that was dropped, by intervention.
        scores: means of ``accuracy`` and ``distance`` by intervention; NaN if the model has none.
        rises, right: by how much dropping in all layers together changes the loss in nats, and the accuracy, by way; one value for each document.
        published: relative cost on the published domains in all layers together by way; empty if there are none.
    """

    model: str
    reads: str
    dense: Values
    costs: dict[Key, Values]
    dropped: dict[Key, float]
    scores: dict[Key, tuple[float, float]]
    rises: dict[str, Values]
    right: dict[str, Values]
    published: dict[str, float]

    @property
    def loss(self) -> float:
        """Mean loss without an intervention."""
        return float(self.dense.mean())

    def whole(self, way: str, share: float = 1.0) -> Values | None:
        """Return the costs of an intervention on all layers together, or ``None`` if it is missing."""
        return self.costs.get((ALL_LAYERS, way, share))

    @property
    def layers(self) -> list[int]:
        """Layers that were examined by themselves."""
        return sorted({layer for layer, _, _ in self.costs if layer != ALL_LAYERS})


def model_costs(frame: pd.DataFrame) -> list[ModelCosts]:
    """Return the costs of each pretrained model."""
    found = []
    for model, rows in frame[frame["part"] == "pretrained"].groupby("model", sort=False):
        own = rows[rows["dataset"] != PUBLISHED]
        dense_rows = own[own["way"] == "dense"]
        dense = _by_document(dense_rows)
        costs, dropped, scores, rises, right = {}, {}, {}, {}, {}
        for (layer, way, share), part in own[own["way"] != "dense"].groupby(["layer", "way", "share"], sort=False):
            key = (int(layer), str(way), float(share))
            costs[key] = linearised_costs(dense, _by_document(part))
            dropped[key] = float(part["dropped"].iloc[0])
            scores[key] = (float(part["accuracy"].mean()), float(part["distance"].mean()))
            if key == (ALL_LAYERS, way, 1.0):
                rises[str(way)] = _by_document(part) - dense
                right[str(way)] = _by_document(part, "accuracy") - _by_document(dense_rows, "accuracy")
        scores[(ALL_LAYERS, "dense", 0.0)] = (
            float(dense_rows["accuracy"].mean()),
            float(dense_rows["distance"].mean()),
        )
        published = _published_costs(rows[rows["dataset"] == PUBLISHED])
        reads = str(dense_rows["dataset"].iloc[0])
        found.append(ModelCosts(str(model), reads, dense, costs, dropped, scores, rises, right, published))
    return found


def _by_document(rows: pd.DataFrame, column: str = "loss") -> Values:
    values: Values = rows.sort_values("document")[column].to_numpy(np.float64)
    return values


def _published_costs(rows: pd.DataFrame) -> dict[str, float]:
    whole = (
        rows[(rows["layer"] == ALL_LAYERS) & (rows["share"].isin([0.0, 1.0]))].groupby("way", sort=False)["loss"].mean()
    )
    return {str(way): float(loss / whole["dense"] - 1) for way, loss in whole.items() if way != "dense"}


def trained_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the checkpoints, one row for each part, data set, arm, seed and step; layers of equal width are averaged."""
    rows = frame[frame["part"].isin(["mlp", "character"]) & (frame["way"] == "")]
    keys = ["part", "dataset", "model", "seed", "step"]
    values = ["activation_ratio", "batch_ratio", "dead", "train_loss", "val_loss", "val_accuracy"]
    return rows.groupby(keys, sort=False)[values].mean().reset_index()


def ratio_at(rows: pd.DataFrame, step: int) -> pd.Series:
    """Return the activation ratio of each seed of an arm at a step, indexed by ``seed``."""
    return rows[rows["step"] == step].set_index("seed")["activation_ratio"]


def ratio_at_loss(rows: pd.DataFrame, target: float) -> pd.Series:
    """Return the activation ratio of each seed of an arm when its training loss first falls to ``target``, indexed by ``seed``."""
    import pandas as pd

    found = {
        seed: at_loss(part["train_loss"], part["activation_ratio"], target)
        for seed, part in rows.sort_values("step").groupby("seed")
    }
    return pd.Series(found, dtype=float)


def common_loss(rows: pd.DataFrame) -> float:
    """Return the training loss that every run of several arms reaches: the highest of their lowest ones."""
    return float(rows.groupby(["model", "seed"])["train_loss"].min().max())


def log_ratios(first: pd.Series, second: pd.Series) -> Values:
    """Return log(first/second), paired by seed; seeds with a ratio of 0 are left out."""
    both = (first / second).dropna()
    values: Values = np.log(both[(both > 0) & np.isfinite(both)].to_numpy(np.float64))
    return values
