"""Profiles of the activation ratio over depth, compared with the article's description."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actratio.errors import FitError, short
from actratio.spreadsheets import from_csv

if TYPE_CHECKING:
    import pandas as pd

GPT_COLUMNS = ("model", "layer", "input", "activation_ratio")
"""Columns of the article's measurements of transformers, in order."""

# The article describes "about 4%, rising to about 14% over the first third, then flat". These limits make it testable.
FIRST = (0.03, 0.05)
PLATEAU = (0.12, 0.16)
MAX_DRIFT = 0.2
"""Largest change after the first third, as a share of the plateau."""


@dataclass(frozen=True)
class Profile:
    """Summary of a model's activation ratio over depth.

    Attributes:
        model: name of the model.
        first: ratio of the first layer.
        plateau: mean ratio of the layers after the first third.
        drift: change of a straight line fitted to the layers after the first third, from the first to the last of them, as a
            share of ``plateau``.
    """

    model: str
    first: float
    plateau: float
    drift: float

    @property
    def holds(self) -> bool:
        """Whether all three parts of the article's description hold."""
        return all(holds for _, holds, _ in self._parts())

    def _parts(self) -> list[tuple[str, bool, str]]:
        """Return each part of the description, whether it holds, and the number that says so."""
        return [
            ("starts near 4%", FIRST[0] <= self.first <= FIRST[1], f"{self.first:.1%} in the first layer"),
            (
                "settles near 14%",
                PLATEAU[0] <= self.plateau <= PLATEAU[1],
                f"{self.plateau:.1%} after the first third",
            ),
            (
                "is then flat",
                abs(self.drift) <= MAX_DRIFT,
                f"changes by {self.drift:+.0%} from there to the last layer",
            ),
        ]

    @property
    def verdict(self) -> str:
        """Whether the article's description holds, as a whole and for each of its three parts."""
        details = "; ".join(
            f"'{claim}' {'holds' if holds else 'does not hold'} ({number})" for claim, holds, number in self._parts()
        )
        overall = "holds" if self.holds else "does not hold as a whole"
        return f"{self.model}: the article's description {overall}: {details}."


def article_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table of a study with the columns of the article's file, one row per model, layer and input.

    The experts of a layer are pooled, weighted by their tokens. If the table has several tensors or criteria, the first of
    each is used.
    """
    first = frame.iloc[0]
    frame = frame[(frame["tensor"] == first["tensor"]) & (frame["criterion"] == first["criterion"])]
    weighted = frame.assign(active=frame["active_mean"] * frame["tokens"], neurons=frame["width"] * frame["tokens"])
    sums = weighted.groupby(["model", "layer", "input"], sort=False)[["active", "neurons"]].sum().reset_index()
    return sums.assign(activation_ratio=sums["active"] / sums["neurons"])[list(GPT_COLUMNS)]


def depth_profiles(table: pd.DataFrame) -> list[Profile]:
    """Return the profile of each model in a table with ``GPT_COLUMNS``; ratios are means over inputs."""
    profiles = []
    for model, rows in table.groupby("model", sort=False):
        ratio = rows.groupby("layer")["activation_ratio"].mean().sort_index().to_numpy()
        first, plateau, drift = map(float, profile_parts(ratio))
        profiles.append(Profile(str(model), first, plateau, drift))
    return profiles


def profile_parts(ratios: ArrayLike) -> NDArray[np.float64]:
    """Return the first layer's ratio, the plateau and the drift (as in ``Profile``), (..., 3).

    Args:
        ratios: activation ratios, (..., layers), from the first layer to the last.
    """
    array = np.asarray(ratios, dtype=np.float64)
    late = array[..., array.shape[-1] // 3 :]
    plateau = late.mean(-1)
    place = np.arange(late.shape[-1]) - (late.shape[-1] - 1) / 2
    slope = late @ place / max(float(place @ place), 1.0)
    change = slope * (late.shape[-1] - 1)
    drift = np.divide(change, plateau, out=np.zeros_like(change), where=plateau != 0)
    return np.stack([array[..., 0], plateau, drift], axis=-1)


def read_gpt(path: Path) -> pd.DataFrame:
    """Read the article's measurements of transformers, or a table with the same columns.

    Raises:
        FitError: if there is no such file, or it has other columns.
    """
    import pandas as pd

    from actratio.data.tables import read_csv

    columns = ", ".join(GPT_COLUMNS)
    if not path.is_file():
        raise FitError(f"{path} is not a file; give a CSV file with the columns {columns}")
    frame = from_csv(read_csv(path))
    if not set(GPT_COLUMNS) <= set(frame.columns):
        raise FitError(f"{path} is not a table of measurements of transformers; it must have the columns {columns}")
    for column, largest, what in (
        ("layer", 10**6, "a whole number"),
        ("activation_ratio", 1.0, "a number from 0 to 1"),
    ):
        numbers = pd.to_numeric(frame[column], errors="coerce")
        invalid = ~numbers.between(0, largest)
        if column == "layer":
            invalid |= numbers != numbers.round()
        if invalid.any():
            row = int(invalid.to_numpy().argmax())
            raise FitError(
                f"{path}: the column {column} contains {short(frame[column].iloc[row])} in row {row + 1}; give {what}"
            )
        frame[column] = numbers.astype("int64") if column == "layer" else numbers
    if frame.empty:
        raise FitError(f"{path} has a header but no rows; give at least one measurement")
    return frame
