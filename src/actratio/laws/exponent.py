"""α at equal depth: least squares of log A = layer + α·log N, and how well √N predicts what was left out of such a fit.

Depth is a factor: each layer index has a mean of its own, because A does not change by the same factor from each layer to the
next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from actratio.laws.law import Array
from actratio.statistics.estimate import LEVEL, Estimate, finite_or_none
from actratio.statistics.linear_model import LinearModel


@dataclass(frozen=True)
class Exponent:
    """α of A = F·N^α, the figure that decides about √N.

    Attributes:
        alpha: α with the wider one of the two intervals.
        over_seeds: α with the interval over seeds; without one for fewer than two seeds.
        over_cells: α with the interval from the residuals over cells; without one if there are no spare cells.
        equal_depth: whether each layer index has a mean of its own; otherwise, one mean serves all cells, because the
            layers are unknown, are all the same, or do not vary independently of the width.
        left_out_width: error of √N at left-out widths, the root mean square of log(predicted / observed). Each cell is
            predicted from the mean of its layer over the other widths; ``nan`` with fewer than three widths.
        left_out_architecture: the same for left-out architectures.
        layers: how many times as many neurons are active in each layer as in the first, at equal width; empty if not
            ``equal_depth``.
    """

    alpha: Estimate
    over_seeds: Estimate
    over_cells: Estimate
    equal_depth: bool
    left_out_width: float
    left_out_architecture: float
    layers: dict[int, Estimate] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON; unknown numbers become ``None``."""
        return {
            "alpha": self.alpha.to_dict(),
            "over_seeds": self.over_seeds.to_dict(),
            "over_cells": self.over_cells.to_dict(),
            "equal_depth": self.equal_depth,
            "left_out_width": finite_or_none(self.left_out_width),
            "left_out_architecture": finite_or_none(self.left_out_architecture),
            "layers": {str(layer): factor.to_dict() for layer, factor in self.layers.items()},
        }


class ExponentDesign:
    """Which cells were measured, prepared for fits to many sets of values.

    Args:
        width, layer, architecture: of each cell, of shape (cells,).
    """

    def __init__(self, width: Array, layer: ArrayLike, architecture: ArrayLike) -> None:
        layers = np.asarray(layer)
        self._layers = sorted({int(index) for index in layers})
        self._log_width = np.log(width)
        self._model = self._of(layers)
        self.equal_depth = len(self._layers) > 1 and self._model.is_identified
        if not self.equal_depth:
            layers = np.zeros(len(width))
            self._layers = [0]
            self._model = self._of(layers)
        self._predict_width = _predictor(layers, np.asarray(width))
        self._predict_architecture = _predictor(layers, np.asarray(architecture))

    def fit(self, log_active: Array, level: float = LEVEL) -> Exponent:
        """Fit log A.

        Args:
            log_active: shape (seeds, cells).
            level: confidence level.
        """
        alpha = self._model.contrast(self._contrast(alpha=1.0), log_active)
        means = log_active.mean(0)
        factors = {}
        if self.equal_depth:
            for layer in self._layers:
                contrast = self._contrast(
                    layers={layer: 1.0, self._layers[0]: -1.0} if layer != self._layers[0] else {}
                )
                factors[layer] = self._model.contrast(contrast, log_active).interval(level).exp()
        return Exponent(
            alpha.interval(level),
            alpha.seeds.interval(level),
            alpha.cells.interval(level),
            self.equal_depth,
            self._error(self._predict_width, means),
            self._error(self._predict_architecture, means),
            factors,
        )

    def alpha(self, log_active: Array) -> Array:
        """Return α of each seed, for log A of shape (seeds, cells)."""
        return np.asarray(log_active @ self._model.pseudo_inverse[0])

    def _of(self, layers: Array) -> LinearModel:
        return LinearModel(np.column_stack([self._log_width, *(layers == layer for layer in np.unique(layers))]))

    def _contrast(self, alpha: float = 0.0, layers: dict[int, float] | None = None) -> list[float]:
        return [alpha, *((layers or {}).get(layer, 0.0) for layer in self._layers)]

    def _error(self, predictor: Array, means: Array) -> float:
        """Return the root mean square of log(predicted / observed) by √N over the cells that can be predicted."""
        scale = means - 0.5 * self._log_width
        predicted = ~np.isnan(predictor[:, 0])
        if not predicted.any():
            return math.nan
        return math.sqrt(float(((predictor[predicted] @ scale - scale[predicted]) ** 2).mean()))


def _predictor(layers: Array, groups: Array) -> Array:
    """Return the matrix that predicts each cell as the mean of its layer over the other groups.

    Rows are NaN if the other groups don't have the layer; all are if there are fewer than three groups.
    """
    weights = (layers[:, None] == layers) & (groups[:, None] != groups)
    counts = weights.sum(1, keepdims=True)
    if len(np.unique(groups)) < 3:
        counts[:] = 0
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, weights / counts, np.nan)
