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

INACTIVE = "yes if the interval of the cost of zeroing them in all layers lies below 1% of the loss, no if it lies above 10%; Holm"
LEAST = "yes if the interval of cost(sign) − cost(least) lies above 0, no if it lies below; Holm"
MEAN = (
    "yes if the intervals of cost(sign)/2 − cost(mean) and of cost(sign) lie above 0, no if the first lies below; Holm"
)
IMPACT = "yes if the interval of GELU/ReLU lies between 0.9 and 1.1, no if it lies outside; Holm"
EQUAL_LOSS = "yes if the 95% interval of GELU/ReLU lies between 0.9 and 1.1, no if it lies outside"
SWITCH = "yes if the interval of switched/other arm lies between 0.9 and 1.1 and that of own/other arm outside, no if the first lies outside; Holm"

_DOCUMENTS, _SEEDS = 120, 5
_NOISE = 0.03  # standard deviation of a log ratio over seeds, planned
_OBSERVED = 0.12  # that of GELU/ReLU on MNIST in the finished study, after the last step
_SWITCHED = 0.025  # that of switched networks, and of their arms at two thirds of the steps
_PROBE_DOCUMENTS = 600
_PROBE_LOSS, _PROBE_SHAPE = (
    0.3,
    0.15,
)  # mean of the probe's losses in nats; shape of their gamma distribution, skewed as observed
_PROBE_NOISE = 0.15  # nats by which dropping changes the probe's loss of a document in either direction


def _costs(rng: np.random.Generator, *costs: float) -> list[Values]:
    """Simulate the costs of several interventions on the same documents. They vary with the document and with the intervention."""
    loss = rng.gamma(8.0, 0.25, _DOCUMENTS)
    size = rng.lognormal(-0.125, 0.5, _DOCUMENTS)  # how much a document suffers, 1 on average
    dropped = [loss * (1 + cost * size * rng.lognormal(-0.045, 0.3, _DOCUMENTS)) for cost in costs]
    return [linearised_costs(loss, values + rng.normal(0, 0.02, _DOCUMENTS)) for values in dropped]


def _probe_costs(rng: np.random.Generator, *costs: float) -> list[Values]:
    """Simulate the costs for a linear probe as it was observed: most documents have hardly any loss, a few have much."""
    loss = rng.gamma(_PROBE_SHAPE, _PROBE_LOSS / _PROBE_SHAPE, _PROBE_DOCUMENTS)
    size = rng.lognormal(-0.405, 0.9, _PROBE_DOCUMENTS)  # how much a document suffers, 1 on average
    found = []
    for cost in costs:
        own = size * rng.lognormal(-0.045, 0.3, _PROBE_DOCUMENTS)
        found.append(
            linearised_costs(loss, loss + cost * _PROBE_LOSS * own + rng.normal(0, _PROBE_NOISE, _PROBE_DOCUMENTS))
        )
    return found


def _log_ratios(rng: np.random.Generator, ratio: float, noise: float = _NOISE) -> Values:
    return rng.normal(math.log(ratio), noise, _SEEDS)


def _inactive(cost: float, rng: np.random.Generator) -> Judgement:
    return judge_inactive(_costs(rng, cost)[0])


def _least(truth: tuple[float, float], rng: np.random.Generator) -> Judgement:
    return judge_least(*_costs(rng, *truth))


def _mean(truth: tuple[float, float], rng: np.random.Generator) -> Judgement:
    return judge_mean(*_costs(rng, *truth))


def _probe_inactive(cost: float, rng: np.random.Generator) -> Judgement:
    return judge_inactive(_probe_costs(rng, cost)[0])


def _probe_least(truth: tuple[float, float], rng: np.random.Generator) -> Judgement:
    return judge_least(*_probe_costs(rng, *truth))


def _probe_mean(truth: tuple[float, float], rng: np.random.Generator) -> Judgement:
    return judge_mean(*_probe_costs(rng, *truth))


def _impact(truth: tuple[float, float], rng: np.random.Generator) -> Judgement:
    return judge_impact(_log_ratios(rng, *truth))


def _switch(truth: tuple[float, float, float], rng: np.random.Generator) -> Judgement:
    """Simulate arms whose ratios are ``truth[0]`` apart, and a switch that moves by the share ``truth[1]`` of the way."""
    apart, moved, noise = truth
    own = _log_ratios(rng, apart, noise)
    return judge_switch(_log_ratios(rng, apart ** (1 - moved), noise), own)


def _alone(judge: Callable[[Any, np.random.Generator], Judgement], truth: Any, rng: np.random.Generator) -> str:
    """Return the verdict at Holm's strictest step: of the family, only this claim is decided."""
    return settle([judge(truth, rng)], FAMILY)[0]


_MOVES = {"moves all the way": 1.0, "moves half the way": 0.5, "stays": 0.0}

RULES = (
    Rule(
        "inactive",
        INACTIVE,
        {
            "cost 0.2%": 0.002,
            "cost 1%": 0.01,
            "cost 5%": 0.05,
            "cost 10%": 0.1,
            "cost 15%": 0.15,
            "cost 50%": 0.5,
        },
        partial(_alone, _inactive),
    ),
    Rule(
        "least",
        LEAST,
        {
            "costs 50% and 5%": (0.5, 0.05),
            "costs 50% and 45%": (0.5, 0.45),
            "costs 50% and 50%": (0.5, 0.5),
            "costs 5% and 50%": (0.05, 0.5),
        },
        partial(_alone, _least),
    ),
    Rule(
        "mean",
        MEAN,
        {
            "recovers 90% of 50%": (0.5, 0.05),
            "recovers 60% of 50%": (0.5, 0.2),
            "recovers half of 50%": (0.5, 0.25),
            "recovers 20% of 50%": (0.5, 0.4),
            "recovers 90% of 0": (0.0, 0.0),
        },
        partial(_alone, _mean),
    ),
    Rule(
        "inactive, for a probe",
        INACTIVE,
        {f"cost {100 * cost:g}%": cost for cost in (0.002, 0.01, 0.05, 0.1, 0.15, 0.5, 2.5)},
        partial(_alone, _probe_inactive),
    ),
    Rule(
        "least, for a probe",
        LEAST,
        {"costs 50% and 5%": (0.5, 0.05), "costs 50% and 45%": (0.5, 0.45), "costs 50% and 50%": (0.5, 0.5)},
        partial(_alone, _probe_least),
    ),
    Rule(
        "mean, for a probe",
        MEAN,
        {
            "recovers 90% of 50%": (0.5, 0.05),
            "recovers 60% of 50%": (0.5, 0.2),
            "recovers half of 50%": (0.5, 0.25),
        },
        partial(_alone, _probe_mean),
    ),
    Rule(
        "impact",
        IMPACT,
        {f"ratio {ratio:g}": (ratio, _NOISE) for ratio in (1.0, 1.05, 1.1, 0.9, 1.3, 0.5)}
        | {f"ratio {ratio:g}, spread {_OBSERVED:g}": (ratio, _OBSERVED) for ratio in (1.0, 1.1, 1.3, 1.6, 0.5)},
        partial(_alone, _impact),
    ),
    Rule(
        "switch",
        SWITCH,
        {f"arms 0.5 apart, {name}": (0.5, moved, _NOISE) for name, moved in _MOVES.items()}
        | {"arms equal": (1.0, 1.0, _NOISE)}
        | {
            f"arms {apart:g} apart, spread {_SWITCHED:g}, {name}": (apart, moved, _SWITCHED)
            for apart in (0.9, 0.97)
            for name, moved in _MOVES.items()
        },
        partial(_alone, _switch),
    ),
)
"""The rules of the study. Pretrained models: 120 documents; for a probe, 600 whose losses are as skewed as MiniLM's. Trained ones: five
seeds, whose log ratios deviate by 0.03 unless a truth says otherwise. The rows for a probe and those with another spread were added when
the results were known."""
