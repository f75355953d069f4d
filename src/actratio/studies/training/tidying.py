"""The tidy rows of a unit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from actratio.studies.base import Arrays
from actratio.studies.training.recording import SPLITS
from actratio.studies.training.untrained import ARMS
from actratio.training import Recipe

if TYPE_CHECKING:
    import pandas as pd

START, DECAY, FACTORIAL, MECHANISM = "start", "decay", "factorial", "mechanism"
"""Parts of the study."""

COLUMNS = (
    "study",
    "part",
    "condition",
    "width",
    "layer",
    "seed",
    "step",
    "epoch",
    "split",
    "tokens",
    "active_mean",
    "activation_ratio",
    "dead",
    "train_loss",
    "val_loss",
    "train_accuracy",
    "val_accuracy",
    "shift",
    "skewness",
    "optimizer",
    "lr",
    "batch_size",
    "weight_decay",
    "init_scale",
)


def untrained_frame(arrays: Arrays, *, width: int, tokens: int) -> pd.DataFrame:
    """Return one row per arm, layer and network."""
    active = arrays["active"].numpy()
    arm, layer, seed = (index.ravel() for index in np.indices(active.shape))
    return _framed(
        {
            "part": START,
            "condition": np.asarray(ARMS)[arm],
            "layer": layer,
            "seed": seed,
            "step": np.zeros_like(seed),
            "epoch": np.zeros(len(seed)),
            "split": "val",
            "active_mean": active.ravel() / tokens,
        },
        width,
        np.full(len(seed), tokens),
        Recipe(),
    )


def recorded_frame(
    arrays: Arrays, *, part: str, condition: str, width: int, tokens: tuple[int, ...], recipe: Recipe, examples: int
) -> pd.DataFrame:
    """Return one row per recorded step, split, hidden layer and seed.

    Args:
        arrays: what ``recording.record`` returned.
        part: a part of the study.
        condition: what tells the run from the others of its part.
        width: neurons of a hidden layer.
        tokens: number of examples of each split that were counted.
        recipe: how the networks were trained.
        examples: number of training examples.
    """
    active = arrays["active"].numpy()
    step, split, layer, seed = (index.ravel() for index in np.indices(active.shape))
    steps = arrays["step"].numpy()[step]
    count = np.asarray(tokens)[split]
    loss, accuracy = arrays["loss"].numpy(), arrays["accuracy"].numpy()
    per_epoch = -(-examples // recipe.batch_size)
    return _framed(
        {
            "part": part,
            "condition": condition,
            "layer": layer,
            "seed": seed,
            "step": steps,
            "epoch": steps / per_epoch,
            "split": np.asarray(SPLITS)[split],
            "active_mean": active.ravel() / count,
            "dead": arrays["dead"].numpy().ravel(),
            "train_loss": loss[step, 0, seed],
            "val_loss": loss[step, 1, seed],
            "train_accuracy": accuracy[step, 0, seed],
            "val_accuracy": accuracy[step, 1, seed],
            "shift": arrays["shift"].numpy()[step, layer, seed],
            "skewness": arrays["skewness"].numpy()[step, layer, seed],
        },
        width,
        count,
        recipe,
    )


def _framed(values: dict[str, Any], width: int, tokens: np.ndarray, recipe: Recipe) -> pd.DataFrame:
    import pandas as pd

    known = {
        **values,
        "study": "training",
        "width": width,
        "tokens": tokens,
        "activation_ratio": values["active_mean"] / width,
        **{name: getattr(recipe, name) for name in ("optimizer", "lr", "batch_size", "weight_decay", "init_scale")},
    }
    return pd.DataFrame({name: known.get(name, np.nan) for name in COLUMNS}, index=range(len(tokens)))
