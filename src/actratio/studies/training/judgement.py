"""The study's verdict rules. Each takes one figure for each seed (or network), and returns a verdict and the figure that decided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from actratio.statistics.estimate import Estimate, mean_interval
from actratio.statistics.multiple import holm, p_value
from actratio.statistics.rules import Rule
from actratio.statistics.verdict import decide, is_inside
from actratio.studies.training.conditions import BATCH, RATE

Outcome = tuple[str, Estimate]
"""A verdict, and the figure that decided."""

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

START_RULE = (
    "yes if every width's interval lies in 49–51% and the control's above 50%; no if a width's lies outside 49–51%"
)
FORM_RULE = "yes if the interval of log(error of the exponential / error of the power law) lies above log 1.1; no if below −log 1.1"
FALL_RULE = "yes if the interval of α(epoch 1) − α(epoch 20) lies above 0.25; no if it includes values below 0.1"
SETTLED_RULE = "yes if the interval of α(epoch 100) − α(epoch 50) lies in ±0.05; no if it lies outside"
FACTOR_RULE = (
    "yes if the mean effect on log A is below log 0.9 and Holm's p against log 0.9 is below 0.05; no if it is above with p below 0.05; "
    f"not decidable if more than {MOST_CENSORED} runs never reach the loss"
)
FROZEN_RULE = "yes if the interval of the change lies within ±1 point; no if it lies outside"
CENTRED_RULE = "yes if the centred arm's interval lies in 45–55% and the control's below 45%; no if the centred arm's lies below 45%"
FORECAST_RULE = (
    "yes if the interval of the root mean square of log(forecast / measured) lies below log 1.1; no if above"
)
OUTPUT_RULE = "yes if the interval of log(ratio at the end / ratio at the start) lies below 0; no if above"


def judge_start(plain: Sequence[Sequence[float]], raised: Sequence[Sequence[float]]) -> Outcome:
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
    return verdict, max(estimates, key=lambda estimate: abs(estimate.value - 0.5))


def judge_form(figures: Sequence[float]) -> Outcome:
    """Judge whether the power law forecasts better, given log(error of the exponential / its error) of each seed.

    Two forms that both miss the course of a run can differ by a tiny amount in every seed, which says nothing.
    """
    estimate = mean_interval(figures)
    return decide(yes=estimate.low > BETTER_FORECAST, no=estimate.high < -BETTER_FORECAST), estimate


def judge_fall(falls: Sequence[float]) -> Outcome:
    """Judge whether α falls by at least 0.25, given its fall for each seed."""
    estimate = mean_interval(falls)
    return decide(yes=estimate.low > LEAST_FALL, no=estimate.low < TOO_SMALL_FALL), estimate


def judge_within(changes: Sequence[float], bound: float) -> Outcome:
    """Judge whether a change lies within ± ``bound``, given the change of each seed."""
    estimate = mean_interval(changes)
    return decide(yes=is_inside(estimate, -bound, bound), no=_is_outside(estimate, -bound, bound)), estimate


def judge_factors(effects: Mapping[str, Sequence[float]], censored: int) -> dict[str, Outcome]:
    """Judge whether each factor lowers A by at least 10%.

    Args:
        effects: by factor, the effect on log A of each seed, in the direction that is predicted to lower A.
        censored: number of runs that never reached the loss.
    """
    estimates = {factor: mean_interval(values) for factor, values in effects.items()}
    p_values = [p_value(list(values), TENTH) for values in effects.values()]
    adjusted = holm(p_values) if all(map(math.isfinite, p_values)) else [1.0] * len(p_values)
    outcomes = {}
    for (factor, estimate), p in zip(estimates.items(), adjusted, strict=True):
        decided = p < _SIGNIFICANT and censored <= MOST_CENSORED
        verdict = decide(yes=decided and estimate.value < TENTH, no=decided and estimate.value > TENTH)
        outcomes[factor] = (verdict, estimate)
    return outcomes


def judge_centred(centred: Sequence[float], control: Sequence[float]) -> Outcome:
    """Judge whether the ratio stays near 50% with centred pre-activations, where the control's falls.

    Args:
        centred: final ratio of each seed of the centred arm.
        control: the same for the control.
    """
    estimate = mean_interval(centred)
    falls = mean_interval(control).high < NEAR_HALF[0]
    return decide(yes=is_inside(estimate, *NEAR_HALF) and falls, no=estimate.high < NEAR_HALF[0]), estimate


def judge_below(figures: Sequence[float], bound: float) -> Outcome:
    """Judge whether the mean lies below ``bound``."""
    estimate = mean_interval(figures)
    return decide(yes=estimate.high < bound, no=estimate.low > bound), estimate


def _is_outside(estimate: Estimate, low: float, high: float) -> bool:
    return estimate.high < low or estimate.low > high


# The rules on simulated studies. Standard deviations between seeds are those that docs/studies/training.md assumes.
_SEEDS, _FEW_SEEDS = 5, 3
_NETWORKS = {32: 1200, 128: 300, 512: 200}
_NEURON, _FORM, _ALPHA, _EFFECT, _RATIO = 0.45, 0.3, 0.03, 0.025, 0.02
_RAISED = 0.035


def _start_outcome(truth: float, rng: np.random.Generator) -> str:
    drawn = [truth + _NEURON / math.sqrt(2 * width) * rng.standard_normal(count) for width, count in _NETWORKS.items()]
    return judge_start([list(ratios) for ratios in drawn], [list(ratios + _RAISED) for ratios in drawn])[0]


def _factors_outcome(truth: tuple[float, float], rng: np.random.Generator) -> str:
    effects = {
        factor: list(math.log1p(change) + _EFFECT * rng.standard_normal(_FEW_SEEDS))
        for factor, change in zip((RATE, BATCH), truth, strict=True)
    }
    return judge_factors(effects, 0)[RATE][0]


def _centred_outcome(truth: tuple[float, float], rng: np.random.Generator) -> str:
    centred, control = (list(ratio + _RATIO * rng.standard_normal(_SEEDS)) for ratio in truth)
    return judge_centred(centred, control)[0]


def _seeds(truth: float, deviation: float, rng: np.random.Generator) -> list[float]:
    return list(truth + deviation * rng.standard_normal(_SEEDS))


RULES = (
    Rule("start", START_RULE, {f"{ratio:.1%}": ratio for ratio in (0.5, 0.505, 0.51, 0.52, 0.55)}, _start_outcome),
    Rule(
        "form",
        FORM_RULE,
        {f"errors ×{factor:g}": math.log(factor) for factor in (0.5, 1.0, 1.25, 1.5, 2.0, 4.0)},
        lambda truth, rng: judge_form(_seeds(truth, _FORM, rng))[0],
    ),
    Rule(
        "fall",
        FALL_RULE,
        {f"falls by {fall:g}": fall for fall in (0.0, 0.1, 0.2, 0.25, 0.3, 0.35)},
        lambda truth, rng: judge_fall(_seeds(truth, _ALPHA, rng))[0],
    ),
    Rule(
        "asymptote",
        SETTLED_RULE,
        {f"changes by {change:g}": change for change in (0.0, -0.025, -0.05, -0.075, -0.1)},
        lambda truth, rng: judge_within(_seeds(truth, _ALPHA, rng), SETTLED)[0],
    ),
    Rule(
        "factor",
        FACTOR_RULE,
        {f"A changes by {change:.0%}": (change, change) for change in (0.0, -0.05, -0.1, -0.2, -0.3)},
        _factors_outcome,
    ),
    Rule(
        "frozen",
        FROZEN_RULE,
        {f"{points:g} points": points / 100 for points in (0, 1, 2, 5, 10)},
        lambda truth, rng: judge_within(_seeds(truth, 0.0 if truth == 0 else _RATIO, rng), UNCHANGED)[0],
    ),
    Rule(
        "centred",
        CENTRED_RULE,
        {
            f"centred {centred:.0%}, control {control:.0%}": (centred, control)
            for centred, control in ((0.5, 0.25), (0.47, 0.25), (0.45, 0.25), (0.4, 0.25), (0.25, 0.25), (0.5, 0.5))
        },
        _centred_outcome,
    ),
    Rule(
        "forecast within 10%",
        FORECAST_RULE,
        {f"error {error:.0%}": error for error in (0.02, 0.05, 0.1, 0.2, 0.4)},
        lambda truth, rng: judge_below([truth * math.exp(z) for z in _seeds(0.0, _FORM, rng)], GOOD_FORECAST)[0],
    ),
    Rule(
        "output layer frozen",
        OUTPUT_RULE,
        {f"ratio ×{factor:g}": math.log(factor) for factor in (1.0, 0.95, 0.8, 0.5)},
        lambda truth, rng: judge_below(_seeds(truth, 2 * _RATIO, rng), 0.0)[0],
    ),
)
"""Every rule of the study, for ``actratio rules training``."""
