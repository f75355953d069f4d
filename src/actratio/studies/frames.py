"""A data frame as arrays, for studies whose units compute a small table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import torch

from actratio.studies.base import Arrays

if TYPE_CHECKING:
    import pandas as pd

_ORDER = "columns"


def frame_to_arrays(frame: pd.DataFrame) -> Arrays:
    """Return one array per column, bit for bit: int64, float64 or bool, and text as the bytes of a JSON list."""
    arrays = {_ORDER: _text_to_bytes(list(frame.columns))}
    for name, column in frame.items():
        if column.dtype.kind in "ifb":
            arrays[f"number.{name}"] = torch.from_numpy(column.to_numpy(copy=True))
        else:
            arrays[f"text.{name}"] = _text_to_bytes(column.astype(str).tolist())
    return arrays


def frame_from_arrays(arrays: Arrays) -> pd.DataFrame:
    """Return the frame that ``frame_to_arrays`` was given."""
    import pandas as pd

    columns = {}
    for name in _bytes_to_text(arrays[_ORDER]):
        number = arrays.get(f"number.{name}")
        columns[name] = _bytes_to_text(arrays[f"text.{name}"]) if number is None else number.numpy()
    return pd.DataFrame(columns)


def _text_to_bytes(values: list[str]) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(json.dumps(values).encode(), dtype=np.uint8).copy())


def _bytes_to_text(array: torch.Tensor) -> list[str]:
    values: list[str] = json.loads(array.numpy().tobytes().decode())
    return values
