"""The rules of the study's verdicts: each takes one value per document or seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actratio.statistics.estimate import LEVEL
from actratio.statistics.multiple import holm_family, p_value
from actratio.statistics.verdict import NO, UNDECIDED, YES

HARMLESS, FALSE = 0.01, 0.10
"""Costs, as shares of the loss: below the first, outputs at or below 0 are inactive; above the second, they aren't."""

BAND = (math.log(0.9), math.log(1.1))
"""Log ratios of two activation ratios that count as no impact."""

RECOVERED = 0.5
"""Share of the cost that the mean has to recover."""

FAMILY = 13
"""Number of claims in the confirmatory family of the default study."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Judgement:
    """What a claim's values say before the correction for several claims.

    Attributes:
        direction: ``YES``, ``NO``, or ``UNDECIDED`` if the mean itself supports neither.
        p: the two-sided p-value at the bound that decides, the largest if there are several.
    """

    direction: str
    p: float = 1.0


def linearised_costs(dense: ArrayLike, dropped: ArrayLike) -> Values:
    """Return one value for each document, whose mean is the relative increase of the mean loss.

    With l the dense loss, d the increase and R = mean(d)/mean(l), the values are R + (d − R·l)/mean(l), so that Student's interval of
    their mean is that of the linearised ratio.

    >>> linearised_costs([1.0, 3.0], [2.0, 4.0]).mean()
    np.float64(0.5)

    Args:
        dense: loss of each document without an intervention.
        dropped: with it.
    """
    loss = np.asarray(dense, dtype=np.float64)
    increase = np.asarray(dropped, dtype=np.float64) - loss
    ratio = increase.mean() / loss.mean()
    values: Values = ratio + (increase - ratio * loss) / loss.mean()
    return values


def judge_inactive(sign: Values) -> Judgement:
    """Judge that outputs at or below 0 are inactive, from the costs of zeroing them."""
    cost = float(np.mean(sign))
    if cost < HARMLESS:
        return _judged(YES, (sign, HARMLESS))
    return _judged(NO, (sign, FALSE)) if cost > FALSE else Judgement(UNDECIDED)


def judge_least(sign: Values, least: Values) -> Judgement:
    """Judge that dropping the least contributions costs less than dropping as many by sign."""
    saved = sign - least
    return _judged(YES if saved.mean() > 0 else NO, (saved, 0.0))


def judge_mean(sign: Values, mean: Values) -> Judgement:
    """Judge that the mean instead of zero recovers at least half of the cost."""
    beyond = recovered_beyond_half(sign, mean)
    if beyond.mean() <= 0:
        return _judged(NO, (beyond, 0.0))
    return _judged(YES, (beyond, 0.0), (sign, 0.0)) if sign.mean() > 0 else Judgement(UNDECIDED)


def recovered_beyond_half(sign: Values, mean: Values) -> Values:
    """Return by how much the cost that is recovered exceeds half of the cost."""
    beyond: Values = (1 - RECOVERED) * sign - mean
    return beyond


def judge_impact(log_ratios: Values) -> Judgement:
    """Judge that an activation function has no impact, from the log ratios of the activation ratios."""
    mean = float(np.mean(log_ratios))
    if BAND[0] < mean < BAND[1]:
        return _judged(YES, *((log_ratios, bound) for bound in BAND))
    return _judged(NO, (log_ratios, BAND[0] if mean <= BAND[0] else BAND[1]))


def judge_switch(to_other: Values, own_to_other: Values) -> Judgement:
    """Judge that a network moves to the other arm's ratio when its activation function is switched.

    Args:
        to_other: log(switched/other arm).
        own_to_other: log(own arm/other arm), which must differ for anything to move.
    """
    moved, apart = judge_impact(to_other), judge_impact(own_to_other)
    if moved.direction == NO:
        return moved
    return Judgement(YES, max(moved.p, apart.p)) if apart.direction == NO else Judgement(UNDECIDED)


def settle(judgements: Sequence[Judgement], family: int | None = None) -> list[str]:
    """Return the verdicts with Holm's correction over the judgements.

    Args:
        family: number of claims in the family, if more were planned than are judged; the others are taken to be undecided.
    """
    adjusted = holm_family([judgement.p for judgement in judgements], family)
    return [
        judgement.direction if p <= 1 - LEVEL else UNDECIDED for judgement, p in zip(judgements, adjusted, strict=True)
    ]


def _judged(direction: str, *tests: tuple[Values, float]) -> Judgement:
    """Return a judgement that holds if the mean of each values differs from its bound."""
    return Judgement(direction, max(p_value(values.tolist(), bound) for values, bound in tests))
