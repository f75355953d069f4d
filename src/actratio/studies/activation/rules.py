"""The rules of the verdicts in words, and studies simulated with a known truth to try them on."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from actratio.statistics.rules import Rule
from actratio.studies.activation.judging import (
    FAMILY,
    Judgement,
    Values,
    judge_impact,
    judge_inactive,
    judge_least,
    judge_mean,
    judge_switch,
    linearised_costs,
    settle,
)

INACTIVE = "yes if the interval of the cost of zeroing them in all layers lies below 1 % of the loss, no if it lies above 10 %; Holm"
LEAST = "yes if the interval of cost(sign) − cost(least) lies above 0, no if it lies below; Holm"
MEAN = (
    "yes if the intervals of cost(sign)/2 − cost(mean) and of cost(sign) lie above 0, no if the first lies below; Holm"
)
IMPACT = "yes if the interval of GELU/ReLU lies between 0.9 and 1.1, no if it lies outside; Holm"
SWITCH = "yes if the interval of switched/other arm lies between 0.9 and 1.1 and that of own/other arm outside, no if the first lies outside; Holm"

_DOCUMENTS, _SEEDS = 120, 5
_NOISE = 0.03  # standard deviation of a log ratio over seeds


def _costs(rng: np.random.Generator, *costs: float) -> list[Values]:
    """Simulate the costs of several interventions on the same documents. They vary with the document and with the intervention."""
    loss = rng.gamma(8.0, 0.25, _DOCUMENTS)
    size = rng.lognormal(-0.125, 0.5, _DOCUMENTS)  # how much a document suffers, 1 on average
    dropped = [loss * (1 + cost * size * rng.lognormal(-0.045, 0.3, _DOCUMENTS)) for cost in costs]
    return [linearised_costs(loss, values + rng.normal(0, 0.02, _DOCUMENTS)) for values in dropped]


def _log_ratios(rng: np.random.Generator, ratio: float) -> Values:
    return rng.normal(math.log(ratio), _NOISE, _SEEDS)


def _inactive(cost: float, rng: np.random.Generator) -> Judgement:
    return judge_inactive(_costs(rng, cost)[0])


def _least(truth: tuple[float, float], rng: np.random.Generator) -> Judgement:
    return judge_least(*_costs(rng, *truth))


def _mean(truth: tuple[float, float], rng: np.random.Generator) -> Judgement:
    return judge_mean(*_costs(rng, *truth))


def _impact(ratio: float, rng: np.random.Generator) -> Judgement:
    return judge_impact(_log_ratios(rng, ratio))


def _switch(truth: tuple[float, float], rng: np.random.Generator) -> Judgement:
    """Simulate arms whose ratios are ``truth[0]`` apart, and a switch that moves by the share ``truth[1]`` of the way."""
    apart, moved = truth
    own = _log_ratios(rng, apart)
    return judge_switch(_log_ratios(rng, apart ** (1 - moved)), own)


def _alone(judge: Callable[[Any, np.random.Generator], Judgement], truth: Any, rng: np.random.Generator) -> str:
    """Return the verdict at Holm's strictest step: of the family, only this claim is decided."""
    return settle([judge(truth, rng)], FAMILY)[0]


RULES = (
    Rule(
        "inactive",
        INACTIVE,
        {
            "cost 0.2 %": 0.002,
            "cost 1 %": 0.01,
            "cost 5 %": 0.05,
            "cost 10 %": 0.1,
            "cost 15 %": 0.15,
            "cost 50 %": 0.5,
        },
        partial(_alone, _inactive),
    ),
    Rule(
        "least",
        LEAST,
        {
            "costs 50 % and 5 %": (0.5, 0.05),
            "costs 50 % and 45 %": (0.5, 0.45),
            "costs 50 % and 50 %": (0.5, 0.5),
            "costs 5 % and 50 %": (0.05, 0.5),
        },
        partial(_alone, _least),
    ),
    Rule(
        "mean",
        MEAN,
        {
            "recovers 90 % of 50 %": (0.5, 0.05),
            "recovers 60 % of 50 %": (0.5, 0.2),
            "recovers half of 50 %": (0.5, 0.25),
            "recovers 20 % of 50 %": (0.5, 0.4),
            "recovers 90 % of 0": (0.0, 0.0),
        },
        partial(_alone, _mean),
    ),
    Rule(
        "impact",
        IMPACT,
        {
            "ratio 1": 1.0,
            "ratio 1.05": 1.05,
            "ratio 1.1": 1.1,
            "ratio 0.9": 0.9,
            "ratio 1.3": 1.3,
            "ratio 0.5": 0.5,
        },
        partial(_alone, _impact),
    ),
    Rule(
        "switch",
        SWITCH,
        {
            "arms 0.5 apart, moves all the way": (0.5, 1.0),
            "arms 0.5 apart, moves half the way": (0.5, 0.5),
            "arms 0.5 apart, stays": (0.5, 0.0),
            "arms equal": (1.0, 1.0),
        },
        partial(_alone, _switch),
    ),
)
"""The rules of the study. Pretrained models: 120 documents. Trained ones: five seeds, whose log ratios deviate by 0.03."""
