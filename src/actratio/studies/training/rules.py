"""Studies simulated with a known truth, to try the rules of the verdicts on."""

from __future__ import annotations

import math

import numpy as np

from actratio.statistics.rules import Rule
from actratio.studies.training.judgement import (
    CENTRED_RULE,
    FACTOR_RULE,
    FALL_RULE,
    FORECAST_RULE,
    FORM_RULE,
    FROZEN_RULE,
    GOOD_FORECAST,
    OUTPUT_RULE,
    SETTLED,
    SETTLED_RULE,
    START_RULE,
    THROUGHOUT_RULE,
    UNCHANGED,
    Ruling,
    corrected,
    judge_below,
    judge_centred,
    judge_centred_throughout,
    judge_factor,
    judge_fall,
    judge_form,
    judge_start,
    judge_within,
)

# Standard deviations between seeds are those that docs/studies/training.md assumes.
_SEEDS, _FEW_SEEDS = 5, 3
_NETWORKS = {32: 1200, 128: 300, 512: 200}
_NEURON, _FORM, _ALPHA, _EFFECT, _RATIO = 0.45, 0.3, 0.03, 0.025, 0.02
_RAISED = 0.035
_OBSERVED_ALPHA = 0.11  # of α(100) − α(50); added on 27 November 2026, after the run
_CHECKPOINTS = 15


def _alone(ruling: Ruling) -> str:
    """Return the verdict at Holm's strictest step: of the family, only this claim is decided."""
    return corrected([ruling])[0]


def _start_outcome(truth: float, rng: np.random.Generator) -> str:
    drawn = [truth + _NEURON / math.sqrt(2 * width) * rng.standard_normal(count) for width, count in _NETWORKS.items()]
    return _alone(judge_start([list(ratios) for ratios in drawn], [list(ratios + _RAISED) for ratios in drawn]))


def _factor_outcome(change: float, rng: np.random.Generator) -> str:
    return _alone(judge_factor(list(math.log1p(change) + _EFFECT * rng.standard_normal(_FEW_SEEDS)), 0))


def _centred_outcome(truth: tuple[float, float], rng: np.random.Generator) -> str:
    return _alone(judge_centred(*(_seeds(ratio, _RATIO, rng) for ratio in truth)))


def _throughout_outcome(truth: tuple[float, float], rng: np.random.Generator) -> str:
    """Simulate a ratio that goes from 50% to the worst one and back; a seed's deviation grows over training."""
    worst, control = truth
    places = np.sin(np.linspace(0, math.pi, _CHECKPOINTS))
    deviations = _RATIO * rng.standard_normal(_SEEDS)
    path = 0.5 + (worst - 0.5) * places[:, None] + np.linspace(0, 1, _CHECKPOINTS)[:, None] * deviations
    return judge_centred_throughout(path.tolist(), _seeds(control, _RATIO, rng)).verdict


def _asymptote_outcome(truth: tuple[float, float], rng: np.random.Generator) -> str:
    change, deviation = truth
    return _alone(judge_within(_seeds(change, deviation, rng), SETTLED))


def _seeds(truth: float, deviation: float, rng: np.random.Generator) -> list[float]:
    return list(truth + deviation * rng.standard_normal(_SEEDS))


RULES = (
    Rule("start", START_RULE, {f"{ratio:.1%}": ratio for ratio in (0.5, 0.505, 0.51, 0.52, 0.55)}, _start_outcome),
    Rule(
        "form",
        FORM_RULE,
        {f"errors ×{factor:g}": math.log(factor) for factor in (0.25, 0.5, 1.0, 1.25, 1.5, 2.0, 4.0)},
        lambda truth, rng: _alone(judge_form(_seeds(truth, _FORM, rng))),
    ),
    Rule(
        "fall",
        FALL_RULE,
        {f"falls by {fall:g}": fall for fall in (0.0, 0.1, 0.2, 0.25, 0.3, 0.35)},
        lambda truth, rng: _alone(judge_fall(_seeds(truth, _ALPHA, rng))),
    ),
    Rule(
        "asymptote",
        SETTLED_RULE,
        {
            **{f"changes by {change:g}": (change, _ALPHA) for change in (0.0, -0.025, -0.05, -0.075, -0.1)},
            **{
                f"changes by {change:g}, spread {_OBSERVED_ALPHA:g}": (change, _OBSERVED_ALPHA)
                for change in (0.0, -0.1, -0.3)
            },
        },
        _asymptote_outcome,
    ),
    Rule(
        "factor",
        FACTOR_RULE,
        {f"A changes by {change:.0%}": change for change in (0.2, 0.0, -0.05, -0.1, -0.2, -0.3, -0.4)},
        _factor_outcome,
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
            for centred, control in (
                *((0.5, 0.25), (0.47, 0.25), (0.45, 0.25), (0.4, 0.25), (0.25, 0.25), (0.5, 0.5)),
                (0.48, 0.57),  # added on 27 November 2026: what was observed
            )
        },
        _centred_outcome,
    ),
    Rule(
        "centred throughout",
        THROUGHOUT_RULE,
        {
            f"centred at worst {worst:.0%}, control {control:.0%}": (worst, control)
            for worst, control in ((0.5, 0.25), (0.52, 0.25), (0.55, 0.25), (0.65, 0.25), (0.35, 0.25), (0.5, 0.5))
        },
        _throughout_outcome,
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
"""Every rule of the study, for ``actratio rules training``. Those of confirmatory claims are simulated at Holm's strictest step."""
