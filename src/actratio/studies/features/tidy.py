"""The tidy table of the study: one row per training, checkpoint, layer and seed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from actratio.studies.base import Arrays
from actratio.studies.features.capacity import NETWORKS
from actratio.studies.features.grid import Planned
from actratio.studies.features.recording import READINGS

if TYPE_CHECKING:
    import pandas as pd

_TEXT = ("study", "test", "condition", "parametrisation")
_WHOLE = ("width", "layer", "seed", "step", "at_equal_steps")
_BY_SEED = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")

COLUMNS = (
    "study", "test", "condition", "parametrisation", "features", "present", "lr", "weight_decay", "width", "layer", "seed",
    "step", "at_equal_steps", "examples", *_BY_SEED, "active_mean", "activation_ratio", "dead", *READINGS,
)  # fmt: skip
"""Columns of the table, in order. Numbers that a row does not have are NaN, and a missing parametrisation is empty."""


def training_rows(planned: Planned, arrays: Arrays) -> pd.DataFrame:
    """Return the rows of what ``recording.record`` returned."""
    _, layers, seeds = arrays["active_mean"].shape
    rows = []
    for checkpoint, step in enumerate(arrays["step"].tolist()):
        at_equal_steps = step == planned.equal_steps
        for layer in range(layers):
            for seed in range(seeds):
                active = arrays["active_mean"][checkpoint, layer, seed].item()
                rows.append(
                    {
                        "layer": layer,
                        "seed": seed,
                        "step": step,
                        "at_equal_steps": at_equal_steps,
                        "examples": arrays["examples"][checkpoint].item(),
                        **{name: arrays[name][checkpoint, seed].item() for name in _BY_SEED},
                        "active_mean": active,
                        "activation_ratio": active / planned.width,
                        "dead": arrays["dead"][checkpoint, layer, seed].item(),
                        **({name: arrays[name][layer, seed].item() for name in READINGS} if at_equal_steps else {}),
                    }
                )
    return _table(planned, [{"condition": planned.condition, "width": planned.width, **row} for row in rows])


def capacity_rows(planned: Planned, arrays: Arrays) -> pd.DataFrame:
    """Return the rows of what ``capacity.compare_capacity`` returned, one per network."""
    rows = [
        {
            "condition": network,
            "width": int(arrays["neurons"][index].item()),
            "layer": 0,
            "seed": planned.seed,
            "step": planned.steps,
            "at_equal_steps": True,
            "val_loss": arrays["loss"][index].item(),
            "val_accuracy": arrays["accuracy"][index].item(),
            "active_mean": arrays["active_mean"][index].item(),
            "activation_ratio": arrays["active_mean"][index].item() / arrays["neurons"][index].item(),
        }
        for index, network in enumerate(NETWORKS)
    ]
    return _table(planned, rows)


def _table(planned: Planned, rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    common = {
        "study": "features",
        "test": planned.test,
        "parametrisation": "",
        "lr": planned.recipe.lr,
        "weight_decay": planned.recipe.weight_decay,
        **planned.columns,
    }
    frame = pd.DataFrame([{**dict.fromkeys(COLUMNS, math.nan), **common, **row} for row in rows], columns=COLUMNS)
    numbers = [name for name in COLUMNS if name not in (*_TEXT, *_WHOLE)]
    return frame.astype(dict.fromkeys(numbers, "float64"))
