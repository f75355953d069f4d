"""The hidden layers of a study at one point of training, as arrays with one row for each seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from actratio.laws.exponent import ExponentDesign
from actratio.laws.law import Array

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CellTable:
    """log A of each layer of each architecture.

    Attributes:
        seeds: the seeds.
        architectures, layer, width: of each cell, of shape (cells,).
        log_active: shape (seeds, cells).
    """

    seeds: list[int]
    architectures: list[str]
    layer: Array
    width: Array
    log_active: Array

    @classmethod
    def of(cls, rows: pd.DataFrame) -> Self | None:
        """Return the cells in which every seed has active neurons, or ``None`` if there are fewer than two widths.

        Args:
            rows: hidden layers with one row for each seed and cell.
        """
        table = rows.pivot_table(index="seed", columns=["architecture", "layer", "width"], values="active_mean")
        table = table.loc[:, (table > 0).all()]
        keys = list(table.columns)
        if len({width for _, _, width in keys}) < 2:
            return None
        return cls(
            [int(seed) for seed in table.index],
            [str(name) for name, _, _ in keys],
            np.array([float(layer) for _, layer, _ in keys]),
            np.array([float(width) for _, _, width in keys]),
            np.log(table.to_numpy(dtype=float)),
        )

    def design(self) -> ExponentDesign:
        """Return the design of the fit of α at equal depth."""
        return ExponentDesign(self.width, self.layer, np.unique(self.architectures, return_inverse=True)[1])
