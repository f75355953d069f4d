"""Fixtures of the tests of the laws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from actratio import Laws, fit
from actratio.training import ARTICLE_HIDDEN

Observations = dict[str, list[float]]
PlantObservations = Callable[..., Observations]
FitPlanted = Callable[[Observations], Laws]


@pytest.fixture(scope="session")
def planted_observations() -> PlantObservations:
    """Make observations of the article's architectures whose law is known: ``planted_observations(seed, exponent=0.5, …)``.

    Errors vary by seed and, more strongly, by cell, as they do in training. ``layers`` are the factors of the layers.
    """

    def make(
        seed: int,
        exponent: float = 0.5,
        layers: Sequence[float] = (1, 1, 1, 1),
        shared: float = 0.1,
        by_seed: float = 0.03,
    ) -> Observations:
        rng = np.random.default_rng(seed)
        rows: Observations = {"width": [], "active": [], "architecture": [], "layer": [], "seed": []}
        for index, hidden in enumerate(ARTICLE_HIDDEN):
            for layer, width in enumerate(hidden):
                law = math.log(3.5) + exponent * math.log(width) + math.log(layers[layer]) + rng.normal(0, shared)
                for repeat in range(5):
                    active = math.exp(law + rng.normal(0, by_seed))
                    for key, value in zip(rows, (width, active, index, layer, repeat), strict=True):
                        rows[key].append(value)
        return rows

    return make


@pytest.fixture(scope="session")
def fit_planted() -> FitPlanted:
    """Fit the laws to planted observations: ``fit_planted(observations)``."""

    def run(rows: Observations) -> Laws:
        return fit(
            rows["width"],
            rows["active"],
            architectures=rows["architecture"],
            layers=[int(layer) for layer in rows["layer"]],
            seeds=[int(seed) for seed in rows["seed"]],
        )

    return run
