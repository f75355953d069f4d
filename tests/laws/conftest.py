"""Fixtures of the tests of the laws."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from actratio import Laws, fit
from actratio.training import ARTICLE_HIDDEN

Observations = dict[str, list[float]]
PlantObservations = Callable[..., Observations]
FitPlanted = Callable[[Observations, int], Laws]


@pytest.fixture(scope="session")
def planted_observations() -> PlantObservations:
    """Make observations of the article's architectures whose law is known: ``planted_observations(seed, exponent=0.5, …)``.

    Errors vary by seed and, more strongly, by architecture, as they do in training.
    """

    def make(seed: int, exponent: float = 0.5, depth: float = 0.9, spread: float = 0.15) -> Observations:
        rng = np.random.default_rng(seed)
        rows: Observations = {"width": [], "active": [], "architecture": [], "layer": [], "seed": []}
        for index, hidden in enumerate(ARTICLE_HIDDEN):
            offset = rng.normal(0, spread)
            for repeat in range(5):
                for layer, width in enumerate(hidden):
                    log_a = (
                        math.log(3.5)
                        + exponent * math.log(width)
                        + layer * math.log(depth)
                        + offset
                        + rng.normal(0, 0.03)
                    )
                    for key, value in zip(rows, (width, math.exp(log_a), index, layer, repeat), strict=True):
                        rows[key].append(value)
        return rows

    return make


@pytest.fixture(scope="session")
def fit_planted() -> FitPlanted:
    """Fit the laws to planted observations: ``fit_planted(observations, resamples)``."""

    def run(rows: Observations, resamples: int) -> Laws:
        return fit(
            rows["width"],
            rows["active"],
            architectures=rows["architecture"],
            layers=[int(layer) for layer in rows["layer"]],
            seeds=[int(seed) for seed in rows["seed"]],
            resamples=resamples,
        )

    return run
