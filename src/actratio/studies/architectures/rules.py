"""The rules of the study's verdicts, tried on simulated studies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actratio.statistics.rules import Rule
from actratio.studies.architectures.judging import (
    BlockCounts,
    estimate_profile,
    judge_generalises,
    judge_shift,
    judge_twin,
    judge_universal,
)

_DRAWS = 200  # of the bootstrap in a simulated study
_BLOCKS, _LAYERS, _OUTPUTS = 40, 12, 1e6
_BLOCK_SPREAD = 0.1  # standard deviation between blocks, as a share of the ratio
_LAYER_SPREAD = 0.05
_INITIALISATIONS = 5
_TWIN_SPREAD = 0.003  # standard deviation between initialisations
_SHIFT_SPREAD = 0.003  # standard deviation of a shift between blocks

GENERALISES = (
    "yes if the 95% intervals of the first layer (3 to 5%), the plateau (12 to 16%) and the drift (at most 20%) lie inside their bands "
    "in at least two of three models; no if at least two models have an interval outside a band, at a level of 1 − 0.05/9, so that the nine "
    "intervals of three models hold together at 95%"
)
UNIVERSAL = (
    "no if the interval of a part in one model, at a level of 1 − 0.05/9, misses its band by more than 5 points; yes if the 95% intervals of all "
    "parts lie inside their bands in all models"
)
TWINS = (
    "yes if the interval over five initialisations lies inside 49 to 51%; no if it lies outside. The level is 1 − 0.05/3, so that the "
    "intervals of three models hold together at 95%"
)
SHIFT = (
    "yes if the interval of every layer's shift lies within ±1 point; no if that of one layer lies outside. The level is 1 − 0.05/layers, so "
    "that the layers' intervals hold together at 95%"
)

Shape = tuple[float, float, float]
"""First layer, plateau and drift."""

_ARTICLE: Shape = (0.04, 0.14, 0.0)
_DENSE: Shape = (0.25, 0.4, 0.1)
_NEAR: Shape = (0.04, 0.2, 0.0)  # 4 points above the band
_EDGE: Shape = (0.04, 0.16, 0.0)


def _simulated(shape: Shape, rng: np.random.Generator) -> BlockCounts:
    first, plateau, drift = shape
    start = _LAYERS // 3
    late = plateau * (1 + drift * np.linspace(-0.5, 0.5, _LAYERS - start))
    ratios = np.concatenate([np.linspace(first, late[0], start, endpoint=False), late])
    noise = 1 + _BLOCK_SPREAD * rng.standard_normal((_BLOCKS, 1))
    noise = noise + _LAYER_SPREAD * rng.standard_normal((_BLOCKS, _LAYERS))
    return BlockCounts(_OUTPUTS * ratios * noise, np.full((_BLOCKS, _LAYERS), _OUTPUTS))


def _generalises(shapes: Sequence[Shape], rng: np.random.Generator) -> str:
    profiles = [estimate_profile("", _simulated(shape, rng), len(shapes), draws=_DRAWS) for shape in shapes]
    return judge_generalises(profiles, len(shapes))[0]


def _universal(shapes: Sequence[Shape], rng: np.random.Generator) -> str:
    profiles = [estimate_profile("", _simulated(shape, rng), len(shapes), draws=_DRAWS) for shape in shapes]
    return judge_universal(profiles, len(shapes))[0]


def _twins(mean: float, rng: np.random.Generator) -> str:
    return judge_twin((mean + _TWIN_SPREAD * rng.standard_normal(_INITIALISATIONS)).tolist(), 3)[0]


def _shift(points: float, rng: np.random.Generator) -> str:
    original = _simulated(_DENSE, rng)
    noise = _SHIFT_SPREAD * rng.standard_normal(original.active.shape)
    rounded = BlockCounts(original.active + original.outputs * (points / 100 + noise), original.outputs)
    return judge_shift(original, rounded, _DRAWS)[0]


_MODELS = {
    "all three models have the profile": (_ARTICLE, _ARTICLE, _ARTICLE),
    "two have it, the third has 25 to 40%": (_ARTICLE, _ARTICLE, _DENSE),
    "one has it, two have 25 to 40%": (_ARTICLE, _DENSE, _DENSE),
    "none has it, all have 25 to 40%": (_DENSE, _DENSE, _DENSE),
    "all have a plateau of 20%, 4 points above the band": (_NEAR, _NEAR, _NEAR),
    "all have a plateau of 16%, the band's end": (_EDGE, _EDGE, _EDGE),
}

RULES = (
    Rule("generalises", GENERALISES, _MODELS, _generalises),
    Rule("universal", UNIVERSAL, _MODELS, _universal),
    Rule(
        "twins",
        TWINS,
        {f"twins have {mean:.1%}, ±0.3 points between initialisations": mean for mean in (0.5, 0.505, 0.51, 0.52, 0.6)},
        _twins,
    ),
    Rule(
        "quantisation",
        SHIFT,
        {f"every layer shifts by {points:g} points": points for points in (0.0, 0.5, 1.0, 2.0)},
        _shift,
    ),
)
