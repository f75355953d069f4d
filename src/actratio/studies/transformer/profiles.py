"""The profile of activation ratios over depth, and the article's description of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actratio.errors import FitError

if TYPE_CHECKING:
    import pandas as pd

GPT_COLUMNS = ("model", "layer", "input", "activation_ratio")
"""Columns of the article's published measurements of transformers, in order."""

# What "about 4 %, rising to about 14 % over the first third, then flat" is taken to mean.
FIRST = (0.03, 0.05)
SETTLED = (0.12, 0.16)
FLAT = 0.2


@dataclass(frozen=True)
class Profile:
    """How a model's ratio goes over its depth, and what that says of the article's description.

    Attributes:
        first: ratio of the first layer.
        settled: mean ratio of the layers after the first third.
        drift: by how much of ``settled`` a straight line through these layers changes from the first to the last of them.
    """

    model: str
    first: float
    settled: float
    drift: float

    @property
    def verdict(self) -> str:
        """In words, each part of the description held against its figure."""
        parts = [
            ("starts near 4 %", FIRST[0] <= self.first <= FIRST[1], f"the first layer fires {self.first:.1%}"),
            (
                "settles around 14 %",
                SETTLED[0] <= self.settled <= SETTLED[1],
                f"after a third it is {self.settled:.1%}",
            ),
            ("is flat then", abs(self.drift) <= FLAT, f"from there to the end it changes by {self.drift:+.0%}"),
        ]
        said = "; ".join(f"'{what}' {'holds' if holds else 'does not hold'}: {figure}" for what, holds, figure in parts)
        whole = "holds" if all(holds for _, holds, _ in parts) else "does not hold as a whole"
        return f"{self.model}: the article's description {whole}; {said}."


def article_table(frame: pd.DataFrame) -> pd.DataFrame:
    """With the published file's columns: a layer's experts together, weighed by their tokens.

    Of several tensors and criteria the first is taken.
    """
    first = frame.iloc[0]
    frame = frame[(frame["tensor"] == first["tensor"]) & (frame["criterion"] == first["criterion"])]
    weighed = frame.assign(active=frame["active_mean"] * frame["tokens"], neurons=frame["width"] * frame["tokens"])
    sums = weighed.groupby(["model", "layer", "input"], sort=False)[["active", "neurons"]].sum().reset_index()
    return sums.assign(activation_ratio=sums["active"] / sums["neurons"])[list(GPT_COLUMNS)]


def profiles(table: pd.DataFrame) -> list[Profile]:
    """What each model of a table with ``GPT_COLUMNS`` says of the article's description."""
    found = []
    for model, rows in table.groupby("model", sort=False):
        ratio = rows.groupby("layer")["activation_ratio"].mean().sort_index().to_numpy()
        late = ratio[len(ratio) // 3 :]
        settled = float(late.mean())
        slope = float(np.polyfit(np.arange(len(late)), late, 1)[0]) if len(late) > 1 else 0.0
        found.append(
            Profile(str(model), float(ratio[0]), settled, slope * (len(late) - 1) / settled if settled else 0.0)
        )
    return found


def read_gpt(path: Path) -> pd.DataFrame:
    """Read the article's published measurements of transformers, or a table with its columns.

    Raises:
        FitError: no such file, or other columns.
    """
    from actratio.data.tables import read_csv

    if not path.is_file():
        raise FitError(f"{path} is not a file; give a CSV with the columns {', '.join(GPT_COLUMNS)}")
    frame = read_csv(path)
    if not set(GPT_COLUMNS) <= set(frame.columns):
        raise FitError(f"{path} is not a table of transformers; it must have the columns {', '.join(GPT_COLUMNS)}")
    return frame
