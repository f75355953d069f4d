"""The study's verdict rules. Each takes one figure for each seed (or network)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from actratio.statistics.estimate import Estimate, mean_interval
from actratio.statistics.multiple import holm_family, p_value
from actratio.statistics.verdict import NO, UNDECIDED, decide, is_inside


class Ruling(NamedTuple):
    """What a rule says of one claim by itself.

    Attributes:
        verdict: the verdict by 95% intervals.
        estimate: the figure that decided.
        p: the two-sided p-value of the test at the bound that decided; NaN if nothing was decided, or by no test.
    """

    verdict: str
    estimate: Estimate
    p: float = math.nan


FAMILY = 7
"""Confirmatory claims of the study: P1, P2, two of P3, two of P4, and one of P5."""

BAND = (0.49, 0.51)
LEAST_FALL, TOO_SMALL_FALL = 0.25, 0.1
SETTLED = 0.05
TENTH = math.log(0.9)
MOST_CENSORED = 2
UNCHANGED = 0.01
NEAR_HALF = (0.45, 0.55)
BETTER_FORECAST = math.log(1.1)
GOOD_FORECAST = math.log(1.1)
_SIGNIFICANT = 0.05

START_RULE = "yes if every width's interval lies in 49–51% and the control's above 50%; no if a width's lies outside 49–51%; Holm"
FORM_RULE = "yes if the interval of log(error of the exponential / error of the power law) lies above log 1.1; no if below −log 1.1; Holm"
FALL_RULE = (
    "yes if the interval of α(epoch 1) − α(epoch 20) lies above 0.25; no if it includes values below 0.1; Holm for yes"
)
SETTLED_RULE = "yes if the interval of α(epoch 100) − α(epoch 50) lies in ±0.05; no if it lies outside; Holm"
FACTOR_RULE = (
    "yes if the interval of the mean effect on log A lies below log 0.9; no if above; "
    f"not decidable if more than {MOST_CENSORED} runs never reach the loss; Holm"
)
FROZEN_RULE = "yes if the interval of the change lies within ±1 point; no if it lies outside"
CENTRED_RULE = "yes if the centred arm's interval at the end lies in 45–55% and the control's below 45%; no if the centred arm's lies below 45%; Holm"
THROUGHOUT_RULE = (
    "yes if the centred arm's interval lies in 45–55% at every checkpoint and the control's at the end below 45%; "
    "no if one of the centred arm's lies outside 45–55%"
)
FORECAST_RULE = (
    "yes if the interval of the root mean square of log(forecast / measured) lies below log 1.1; no if above"
)
OUTPUT_RULE = "yes if the interval of log(ratio at the end / ratio at the start) lies below 0; no if above"


def corrected(rulings: Sequence[Ruling], family: int = FAMILY) -> list[str]:
    """Return the verdicts with Holm's correction; what was decided by no test stays.

    Args:
        rulings: of the confirmatory claims that can be judged.
        family: number of claims that were planned; those that are missing count as p = 1.
    """
    adjusted = holm_family([ruling.p for ruling in rulings], family)
    return [
        ruling.verdict if math.isnan(ruling.p) or p <= _SIGNIFICANT else UNDECIDED
        for ruling, p in zip(rulings, adjusted, strict=True)
    ]


def judge_start(plain: Sequence[Sequence[float]], raised: Sequence[Sequence[float]]) -> Ruling:
    """Judge whether untrained networks have a ratio of 50%.

    Args:
        plain: the ratios of the networks of each width.
        raised: the same for the control, whose biases are raised.
    """
    estimates = [mean_interval(ratios) for ratios in plain]
    control_works = all(mean_interval(ratios).low > 0.5 for ratios in raised)
    verdict = decide(
        yes=control_works and all(is_inside(estimate, *BAND) for estimate in estimates),
        no=control_works and any(_is_outside(estimate, *BAND) for estimate in estimates),
    )
    farthest = max(estimates, key=lambda estimate: abs(estimate.value - 0.5))
    of_control = [p_value(ratios, 0.5) for ratios in raised]
    if verdict == NO:  # one width is enough, so the smallest p counts as often as there are widths
        outside = min(_p_outside(ratios, *BAND) for ratios in plain)
        return Ruling(verdict, farthest, max(min(1.0, len(plain) * outside), *of_control))
    return _ruled(verdict, farthest, *of_control, *(p_value(ratios, bound) for ratios in plain for bound in BAND))


def judge_form(figures: Sequence[float]) -> Ruling:
    """Judge whether the power law forecasts better, given log(error of the exponential / its error) of each seed.

    Two forms that both miss the course of a run can differ by a tiny amount in every seed, which says nothing.
    """
    estimate = mean_interval(figures)
    verdict = decide(yes=estimate.low > BETTER_FORECAST, no=estimate.high < -BETTER_FORECAST)
    return _ruled(verdict, estimate, p_value(figures, math.copysign(BETTER_FORECAST, estimate.value)))


def judge_fall(falls: Sequence[float]) -> Ruling:
    """Judge whether α falls by at least 0.25, given its fall for each seed. No test says no."""
    estimate = mean_interval(falls)
    verdict = decide(yes=estimate.low > LEAST_FALL, no=estimate.low < TOO_SMALL_FALL)
    return _ruled(verdict, estimate, math.nan if verdict == NO else p_value(falls, LEAST_FALL))


def judge_within(changes: Sequence[float], bound: float) -> Ruling:
    """Judge whether a change lies within ± ``bound``, given the change of each seed."""
    estimate = mean_interval(changes)
    verdict = decide(yes=is_inside(estimate, -bound, bound), no=_is_outside(estimate, -bound, bound))
    if verdict == NO:
        return _ruled(verdict, estimate, _p_outside(changes, -bound, bound))
    return _ruled(verdict, estimate, p_value(changes, -bound), p_value(changes, bound))


def judge_factor(effects: Sequence[float], censored: int) -> Ruling:
    """Judge whether a factor lowers A by at least 10%.

    Args:
        effects: the effect on log A of each seed, in the direction that is predicted to lower A.
        censored: number of runs that never reached the loss.
    """
    estimate = mean_interval(effects)
    decidable = censored <= MOST_CENSORED
    verdict = decide(yes=decidable and estimate.high < TENTH, no=decidable and estimate.low > TENTH)
    return _ruled(verdict, estimate, p_value(effects, TENTH))


def judge_centred(centred: Sequence[float], control: Sequence[float]) -> Ruling:
    """Judge whether the ratio ends near 50% with centred pre-activations, where the control's falls.

    Args:
        centred: final ratio of each seed of the centred arm.
        control: the same for the control.
    """
    estimate = mean_interval(centred)
    low, high = NEAR_HALF
    falls = mean_interval(control).high < low
    verdict = decide(yes=is_inside(estimate, low, high) and falls, no=estimate.high < low)
    if verdict == NO:
        return _ruled(verdict, estimate, p_value(centred, low))
    return _ruled(verdict, estimate, p_value(centred, low), p_value(centred, high), p_value(control, low))


def judge_centred_throughout(centred: Sequence[Sequence[float]], control: Sequence[float]) -> Ruling:
    """Judge whether the ratio stays near 50% at every checkpoint, where the control ends below it.

    Args:
        centred: ratio of each seed of the centred arm, at each checkpoint.
        control: final ratio of each seed of the control.
    """
    estimates = [mean_interval(ratios) for ratios in centred]
    falls = mean_interval(control).high < NEAR_HALF[0]
    verdict = decide(
        yes=falls and all(is_inside(estimate, *NEAR_HALF) for estimate in estimates),
        no=any(_is_outside(estimate, *NEAR_HALF) for estimate in estimates),
    )
    return Ruling(verdict, max(estimates, key=lambda estimate: abs(estimate.value - 0.5)))


def judge_below(figures: Sequence[float], bound: float) -> Ruling:
    """Judge whether the mean lies below ``bound``."""
    estimate = mean_interval(figures)
    return Ruling(decide(yes=estimate.high < bound, no=estimate.low > bound), estimate)


def _is_outside(estimate: Estimate, low: float, high: float) -> bool:
    return estimate.high < low or estimate.low > high


def _p_outside(values: Sequence[float], low: float, high: float) -> float:
    """Return the p-value of the mean at the bound that it lies beyond; 1 for a mean between them."""
    mean = float(np.mean(values))
    return 1.0 if low <= mean <= high else p_value(values, low if mean < low else high)


def _ruled(verdict: str, estimate: Estimate, *p_values: float) -> Ruling:
    """Return a ruling that needs every one of the tests."""
    return Ruling(verdict, estimate, math.nan if verdict == UNDECIDED else max(p_values))
