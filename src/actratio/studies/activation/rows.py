"""The tidy rows of a unit.

A row is a checkpoint of a model that is trained, or what one document (of a pretrained model) or all documents together (of a
character model) lose by an intervention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from actratio.studies.activation.intervening import ALL_LAYERS
from actratio.studies.activation.pretrained import TEXTS
from actratio.studies.base import Arrays
from actratio.studies.interventions import WAYS

if TYPE_CHECKING:
    import pandas as pd

_FLOATS = (
    "share", "dropped", "activation_ratio", "batch_ratio", "dead", "train_loss", "val_loss", "val_accuracy", "loss", "accuracy", "distance",
)  # fmt: skip
_INTEGERS = ("seed", "step", "layer", "document", "width")
_WORDS = ("part", "model", "dataset", "way")


def unit_frame(parameters: Mapping[str, Any], arrays: Arrays, width: int) -> pd.DataFrame:
    """Return the rows of a unit.

    What a row doesn't have is NaN, −1 or empty text.

    Args:
        parameters: of the unit.
        width: neurons of the MLPs.
    """
    import pandas as pd

    if parameters["part"] == "mlp":
        columns = _mlp_columns(parameters, arrays, width)
    elif parameters["part"] == "character":
        named = {"part": "character", "model": parameters["arm"], "dataset": "text", "seed": parameters["seed"]}
        trained = _complete({**named, **_layer_columns(arrays)})
        dropped = {name.removeprefix("drop."): array for name, array in arrays.items() if name.startswith("drop.")}
        costs = {**named, "step": int(arrays["step"][-1]), **_drop_columns(dropped)}
        return pd.concat([pd.DataFrame(trained), pd.DataFrame(_complete(costs))], ignore_index=True)
    else:
        columns = _document_columns(parameters, arrays)
    return pd.DataFrame(_complete(columns))


def _mlp_columns(parameters: Mapping[str, Any], arrays: Arrays, width: int) -> dict[str, Any]:
    seeds, points = arrays["active"].shape
    columns = {
        "part": "mlp",
        "model": parameters["arm"],
        "dataset": parameters["dataset"],
        "seed": np.repeat(np.arange(seeds), points),
        "step": np.tile(arrays["step"].numpy(), seeds),
        "width": width,
        "activation_ratio": arrays["active"].flatten().numpy() / width,
        "batch_ratio": arrays["batch_active"].flatten().numpy() / width,
        "dead": arrays["dead"].flatten().double().numpy() / width,
    }
    return columns | {name: arrays[name].flatten().numpy() for name in ("train_loss", "val_loss", "val_accuracy")}


def _layer_columns(arrays: Arrays) -> dict[str, Any]:
    layers, points = arrays["ratio"].shape
    return {
        "step": np.tile(arrays["step"].numpy(), layers),
        "layer": np.repeat(np.arange(layers), points),
        "activation_ratio": arrays["ratio"].flatten().numpy(),
        **{name: np.tile(arrays[name].numpy(), layers) for name in ("train_loss", "val_loss")},
    }


def _drop_columns(arrays: Arrays) -> dict[str, Any]:
    """Return the columns of interventions whose scores are means over documents."""
    return {
        "layer": arrays["layer"].numpy(),
        "way": _ways(arrays["way"]),
        "share": arrays["share"].numpy(),
        "dropped": arrays["dropped"].numpy(),
        "loss": arrays["loss"].numpy(),
        "accuracy": arrays["accuracy"].numpy(),
    }


def _document_columns(parameters: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
    interventions, documents = arrays["loss"].shape
    kinds = [TEXTS[kind] for kind in arrays["text"].tolist()]
    columns: dict[str, Any] = {name: arrays[name].numpy().repeat(documents) for name in ("layer", "share", "dropped")}
    columns |= {name: arrays[name].flatten().numpy() for name in ("loss", "accuracy", "distance") if name in arrays}
    return {
        "part": "pretrained",
        "model": parameters["model"],
        "dataset": kinds * interventions,
        "document": np.tile(np.arange(documents), interventions),
        "way": np.repeat(_ways(arrays["way"]), documents),
        **columns,
    }


def _ways(numbers: torch.Tensor) -> list[str]:
    """Return the names of the ways; without an intervention, ``dense``."""
    return ["dense" if number < 0 else WAYS[number] for number in numbers.tolist()]


def _complete(columns: dict[str, Any]) -> dict[str, Any]:
    """Return all columns in order; a single value is repeated in every row."""
    length = max(len(values) for values in columns.values() if isinstance(values, np.ndarray | list))

    def column(name: str, missing: Any, dtype: Any) -> Any:
        values = columns.get(name, missing)
        return np.asarray(values if isinstance(values, np.ndarray | list) else [values] * length, dtype=dtype)

    return {
        **{name: column(name, "", object) for name in _WORDS},
        **{name: column(name, ALL_LAYERS, np.int64) for name in _INTEGERS},
        **{
            name: column(name, np.nan, np.float32 if name in ("loss", "accuracy", "distance") else np.float64)
            for name in _FLOATS
        },
    }
