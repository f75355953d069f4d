"""The rule for √N: what α and the error at left-out widths say, and how often that is right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from actratio.laws.exponent import Exponent, ExponentDesign
from actratio.statistics.rules import Rule
from actratio.statistics.verdict import UNDECIDED, decide, excludes, is_inside

BAND = (0.4, 0.6)
"""Exponents that are as good as ½."""

MAX_ERROR = 0.15
"""Error of √N at left-out widths below which it can be supported."""

MIN_ARCHITECTURES = 3
"""Smallest number of architectures with which √N is judged."""

RULE = (
    "no if the 95% interval of α at equal depth excludes 0.5; yes if it contains 0.5 and lies inside (0.4, 0.6), and the error "
    "of √N at left-out widths is below 15%; otherwise not decidable. The interval is the wider one of that over seeds and that "
    "over cells"
)
"""The rule in words."""


def judge_sqrt(exponent: Exponent, architectures: int) -> str:
    """Return what the rule says: ``YES``, ``NO`` or ``UNDECIDED``."""
    if architectures < MIN_ARCHITECTURES:
        return UNDECIDED
    no = excludes(exponent.alpha, 0.5)
    accurate = math.expm1(exponent.left_out_width) < MAX_ERROR  # False for NaN
    return decide(yes=not no and is_inside(exponent.alpha, *BAND) and accurate, no=no)


class SqrtTruth(NamedTuple):
    """What is true in a simulated study; the rule does not know it.

    Attributes:
        alpha: true exponent.
        depth: factor by which each layer deeper multiplies A at equal width.
        shared: standard deviation in log A of what all seeds of a cell share.
        seed: standard deviation in log A over seeds.
    """

    alpha: float
    depth: float
    shared: float
    seed: float


def sqrt_rule(shapes: Sequence[Sequence[int]], truths: Mapping[str, SqrtTruth], seeds: int) -> Rule:
    """Return the rule for simulation on networks of the given hidden widths."""
    widths = np.array([width for shape in shapes for width in shape], dtype=np.float64)
    layers = np.array([layer for shape in shapes for layer in range(len(shape))], dtype=np.float64)
    names = np.array([index for index, shape in enumerate(shapes) for _ in shape], dtype=np.float64)
    design = ExponentDesign(widths, layers, names)

    def outcome(truth: SqrtTruth, rng: np.random.Generator) -> str:
        law = truth.alpha * np.log(widths) + layers * math.log(truth.depth)
        shared = rng.normal(0, truth.shared, len(widths))
        return judge_sqrt(design.fit(law + shared + rng.normal(0, truth.seed, (seeds, len(widths)))), len(shapes))

    return Rule("√N", RULE, truths, outcome)
