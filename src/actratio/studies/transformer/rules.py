"""The rule of the study's verdict, tried on simulated models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actratio.statistics.rules import Rule
from actratio.studies.transformer.description import DESCRIPTION_RULE, judge_description
from actratio.studies.transformer.profiles import Profile, profile_parts

_LAYERS, _PROMPTS = 24, 4
_SPREAD = 0.1  # standard deviation between prompts, as a share of the ratio

Shape = tuple[float, float, float]
"""First layer, plateau and drift."""

_ARTICLE: Shape = (0.04, 0.14, 0.0)
_EDGE: Shape = (0.04, 0.16, 0.0)
_DENSE: Shape = (0.25, 0.4, 0.1)


def _simulated(shape: Shape, rng: np.random.Generator) -> Profile:
    first, plateau, drift = shape
    start = _LAYERS // 3
    late = plateau * (1 + drift * np.linspace(-0.5, 0.5, _LAYERS - start))
    ratios = np.concatenate([np.linspace(first, late[0], start, endpoint=False), late])
    prompts = ratios * (1 + _SPREAD * rng.standard_normal((_PROMPTS, 1)))
    first, plateau, drift = map(float, profile_parts(prompts.mean(0)))
    return Profile("", first, plateau, drift)


def _outcome(shapes: Sequence[Shape], rng: np.random.Generator) -> str:
    return judge_description([_simulated(shape, rng) for shape in shapes])


RULES = (
    Rule(
        "description",
        DESCRIPTION_RULE,
        {
            "one model, which is as described": (_ARTICLE,),
            "seven models, all as described": (_ARTICLE,) * 7,
            "seven models, one with a plateau of 16%, the band's end": (*(_ARTICLE,) * 6, _EDGE),
            "seven models, one with 25 to 40%": (*(_ARTICLE,) * 6, _DENSE),
            "seven models, all with 25 to 40%": (_DENSE,) * 7,
        },
        _outcome,
    ),
)
"""The rule of the study. The weaker claim about the published models is about known numbers, so nothing is left to simulate."""
