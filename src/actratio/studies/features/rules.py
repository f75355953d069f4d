"""The verdict rules of the study, and how they fare when the truth is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from actratio.statistics.estimate import LEVEL, Estimate
from actratio.statistics.rules import Rule
from actratio.statistics.seeds import over_seeds
from actratio.statistics.verdict import NO, YES, Verdict, decide, interval_name, is_inside

FAMILY = 3  # tests that share the error probability of 5%
_FAMILY_LEVEL = 1 - (1 - LEVEL) / FAMILY
_BOUNDS = interval_name(_FAMILY_LEVEL)
_NO_EFFECT, _EFFECT, _FLAT, _STEEP = 0.15, 0.3, 0.15, 0.35
_HIGHER, _NOT_HIGHER = 0.15, 0.05
_SAME, _BELOW, _CONSTANT_RATIO = 0.15, 0.6, 0.75
_POINTS = 0.5

PLANTED_RULE = (
    f"yes if the lower end of β or γ is at least {_EFFECT} and the upper end of α is below {_FLAT}; "
    f"no if β and γ lie within ±{_NO_EFFECT}, or the lower end of α is above {_STEEP} (98.3% intervals)"
)
LABELS_RULE = f"yes if the lower end is at least {_HIGHER}; no if the upper end is below {_NOT_HIGHER} (98.3% interval)"
PARAMETRISATION_RULE = (
    f"yes if α under muP minus α under standard lies within ±{_SAME} and both α are below {_BELOW}; "
    f"no if α under muP is above {_CONSTANT_RATIO}; with and without weight decay (98.3% intervals)"
)
CAPACITY_RULE = f"yes if the difference lies within ±{_POINTS} points; no if it lies outside (95% interval)"
QUESTION_RULE = "yes if T1, T2 and T3 say yes; no if T1 or T3 says no; otherwise not decidable (98.3% interval of the deciding test)"


@dataclass(frozen=True)
class Arm:
    """α of each seed under both parametrisations, with one weight decay.

    Attributes:
        name: what tells it from the other arm, such as ``no weight decay``.
        standard, mup: one α per seed, in the same order of the seeds.
    """

    name: str
    standard: Sequence[float]
    mup: Sequence[float]


def family_interval(values: Sequence[float]) -> Estimate:
    """Return the mean over seeds, with the interval of one test of the family."""
    return over_seeds(values, _FAMILY_LEVEL)


def judge_planted(
    claim: str,
    beta: Sequence[float],
    gamma: Sequence[float] | None,
    alpha: Sequence[float],
    *,
    confirmatory: bool = True,
) -> Verdict:
    """Judge T1.

    Args:
        claim: the claim.
        beta: for each seed, ∂log A / ∂log K.
        gamma: for each seed, ∂log A / ∂log pK; ``None`` if the generator has no pK.
        alpha: for each seed, the exponent in N.
        confirmatory: whether the verdict enters the answer.
    """
    elasticities = {"β": family_interval(beta)} | ({} if gamma is None else {"γ": family_interval(gamma)})
    exponent = family_interval(alpha)
    steep = exponent.low > _STEEP
    flat = exponent.high < _FLAT
    verdict = decide(
        yes=flat and any(estimate.low >= _EFFECT for estimate in elasticities.values()),
        no=steep or all(is_inside(estimate, -_NO_EFFECT, _NO_EFFECT) for estimate in elasticities.values()),
    )
    largest = max(elasticities, key=lambda name: np.nan_to_num(elasticities[name].value, nan=-math.inf))
    by_elasticity = verdict == YES or (verdict == NO and not steep) or (verdict not in (YES, NO) and flat)
    figure, estimate = (largest, elasticities[largest]) if by_elasticity else ("α", exponent)
    predicted = YES if confirmatory else ""
    return Verdict(claim, verdict, estimate, PLANTED_RULE, confirmatory, figure, _BOUNDS, predicted)


def judge_labels(difference: Sequence[float], *, equal_steps: bool = False) -> Verdict:
    """Judge T2.

    Args:
        difference: for each seed, α with shuffled labels minus α with true labels.
        equal_steps: α was read after equally many steps, which is exploratory, and not at equal loss.
    """
    estimate = family_interval(difference)
    where = "Labels: after equally many steps" if equal_steps else "T2: at equal loss"
    return Verdict(
        f"{where}, active neurons grow faster with the width if the labels are shuffled",
        decide(yes=estimate.low >= _HIGHER, no=estimate.high < _NOT_HIGHER),
        estimate,
        LABELS_RULE,
        confirmatory=not equal_steps,
        figure="α shuffled − α true",
        bounds=_BOUNDS,
        predicted="" if equal_steps else YES,
    )


def judge_parametrisation(arms: Sequence[Arm]) -> Verdict:
    """Judge T3; both weight decays must agree. Without both arms, it is not decidable."""
    differences = [
        family_interval(np.subtract(np.asarray(arm.mup, float), np.asarray(arm.standard, float)).tolist())
        for arm in arms
    ]
    standard = [family_interval(arm.standard) for arm in arms]
    mup = [family_interval(arm.mup) for arm in arms]
    both = len(arms) == 2
    same = [
        is_inside(difference, -_SAME, _SAME) and first.high < _BELOW and second.high < _BELOW
        for difference, first, second in zip(differences, standard, mup, strict=True)
    ]
    verdict = decide(yes=both and all(same), no=both and all(estimate.low > _CONSTANT_RATIO for estimate in mup))
    figure, estimate = "α under muP", Estimate(math.nan)
    if verdict == YES:
        index = int(np.argmax([abs(difference.value) for difference in differences]))
        figure, estimate = f"α muP − α standard, {arms[index].name}", differences[index]
    elif arms:
        index = int(np.argmin([np.nan_to_num(estimate.low, nan=-math.inf) for estimate in mup]))
        figure, estimate = f"α under muP, {arms[index].name}", mup[index]
    return Verdict(
        "T3: active neurons grow with the width as slowly under muP as under the standard parametrisation",
        verdict,
        estimate,
        PARAMETRISATION_RULE,
        figure=figure,
        bounds=_BOUNDS,
        predicted=YES,
    )


def refutation_counts(arms: Sequence[Arm]) -> bool:
    """Return whether a *no* of T3 is evidence: the upper ends of α under the standard parametrisation are below 0.6 in both arms.

    If that α is high too, training hasn't lowered α yet, whatever the parametrisation. This was added before results were read; it
    changes no verdict.
    """
    return len(arms) == 2 and all(family_interval(arm.standard).high < _BELOW for arm in arms)


def judge_capacity(points: Sequence[float]) -> Verdict:
    """Judge T4.

    Args:
        points: for each seed, the accuracy of the cut network minus that of the fresh one, in percentage points.
    """
    estimate = over_seeds(points)
    return Verdict(
        "T4: cut down to as many neurons as are active, a wide network is as accurate as one trained that small",
        decide(yes=is_inside(estimate, -_POINTS, _POINTS), no=estimate.low > _POINTS or estimate.high < -_POINTS),
        estimate,
        CAPACITY_RULE,
        confirmatory=False,
        figure="accuracy, points",
        predicted=YES,
    )


def judge_question(planted: Verdict, labels: Verdict, parametrisation: Verdict) -> Verdict:
    """Return the answer of the study from the verdicts of T1, T2 and T3."""
    tests = (planted, labels, parametrisation)
    verdict = decide(
        yes=all(test.verdict == YES for test in tests), no=NO in (planted.verdict, parametrisation.verdict)
    )
    if verdict == NO:
        deciding = parametrisation if parametrisation.verdict == NO else planted
    else:
        deciding = next((test for test in (parametrisation, planted, labels) if test.verdict != YES), parametrisation)
    return Verdict(
        "A smaller share of neurons is active in wide layers because they run out of features to learn",
        verdict,
        deciding.estimate,
        QUESTION_RULE,
        figure=f"{deciding.claim[:2]}: {deciding.figure}",
        bounds=_BOUNDS,
    )


@dataclass(frozen=True)
class Truth:
    """What is true in a simulated study, and how much a figure varies between seeds."""

    beta: float = 0.0
    gamma: float = 0.0
    alpha: float = 0.5
    shuffled: float = 0.0
    standard: float = 0.5
    mup: float = 0.5
    points: float = 0.0
    spread: float = 0.03
    seeds: int = 5

    def draw(self, rng: np.random.Generator, mean: float) -> list[float]:
        """Return a figure of each seed."""
        return [float(value) for value in rng.normal(mean, self.spread, self.seeds)]

    def planted(self, rng: np.random.Generator) -> Verdict:
        """Return T1's verdict on a simulated study; the other methods do so for the other tests."""
        return judge_planted("T1", *(self.draw(rng, mean) for mean in (self.beta, self.gamma, self.alpha)))

    def labels(self, rng: np.random.Generator) -> Verdict:
        return judge_labels(self.draw(rng, self.shuffled))

    def parametrisation(self, rng: np.random.Generator) -> Verdict:
        return judge_parametrisation(
            [Arm(name, self.draw(rng, self.standard), self.draw(rng, self.mup)) for name in ("none", "some")]
        )

    def capacity(self, rng: np.random.Generator) -> Verdict:
        return judge_capacity(self.draw(rng, self.points))

    def question(self, rng: np.random.Generator) -> Verdict:
        return judge_question(self.planted(rng), self.labels(rng), self.parametrisation(rng))


_EXHAUSTED = Truth(beta=0.5, gamma=0.1, alpha=0.0, shuffled=0.3)
_ALPHA_TRUE = 0.95  # about that of a pilot at losses that shuffled labels reach; see docs/studies/features.md
_SPREADS = (0.03, 0.05)  # of α between seeds
# α under both parametrisations, if α under the standard one is not below 0.6: see the additions of docs/studies/features.md
_HIGH_STANDARD = ((0.7, 0.7), (0.75, 0.75), (0.8, 0.8), (0.85, 0.85), (0.75, 0.85), (0.75, 0.95))

RULES = (
    Rule(
        "T1",
        PLANTED_RULE,
        {
            "β = 0.5, α = 0": _EXHAUSTED,
            "β = 0.3, α = 0.1": Truth(beta=0.3, alpha=0.1),
            "β = 0.25, α = 0": Truth(beta=0.25, alpha=0.0),
            "β = 0.5, α = 0.2": Truth(beta=0.5, alpha=0.2),
            "β = γ = 0, α = 0.2": Truth(alpha=0.2),
            "β = 0.5, α = 0.5": Truth(beta=0.5, alpha=0.5),
        },
        lambda truth, rng: truth.planted(rng).verdict,
    ),
    Rule(
        "T2",
        LABELS_RULE,
        {
            f"difference {value:g}, spread {spread:g}": Truth(shuffled=value, spread=spread)
            for value in (0.3, 0.15, 0.1, 0.05, 0.0, -0.1)
            for spread in (0.03, 0.1)
        }
        | {
            f"α = {_ALPHA_TRUE:g} with true labels, {shuffled:g} with shuffled ones": Truth(
                shuffled=shuffled - _ALPHA_TRUE
            )
            for shuffled in (0.9, 0.95, 1.0)
        },
        lambda truth, rng: truth.labels(rng).verdict,
    ),
    Rule(
        "T3",
        PARAMETRISATION_RULE,
        {
            f"α = {standard:g} and {mup:g} under muP, spread {spread:g}": Truth(
                standard=standard, mup=mup, spread=spread
            )
            for standard, mup in (
                *((0.5, 0.5), (0.5, 0.65), (0.5, 0.75), (0.5, 0.85), (0.5, 1.0), (0.6, 0.6)),
                *_HIGH_STANDARD,
            )
            for spread in _SPREADS
        },
        lambda truth, rng: truth.parametrisation(rng).verdict,
    ),
    Rule(
        "T4",
        CAPACITY_RULE,
        {f"difference of {value:g} points": Truth(points=value, spread=0.3) for value in (0.0, 0.25, 0.5, -1.0, -2.0)},
        lambda truth, rng: truth.capacity(rng).verdict,
    ),
    Rule(
        "the answer",
        QUESTION_RULE,
        {
            **{f"features run out, spread {spread:g}": replace(_EXHAUSTED, spread=spread) for spread in _SPREADS},
            f"features run out, but α = {_ALPHA_TRUE:g} with true labels and 1 with shuffled ones": replace(
                _EXHAUSTED, shuffled=1 - _ALPHA_TRUE
            ),
            "features run out, but shuffled labels do not matter": Truth(beta=0.5, alpha=0.0),
            "neither number of features nor labels matter, α = 0.3": Truth(alpha=0.3),
            "the parametrisation causes it": Truth(beta=0.2, alpha=0.3, mup=0.95),
            "features run out, but α = 0.75 under the standard parametrisation and 0.85 under muP": replace(
                _EXHAUSTED, standard=0.75, mup=0.85
            ),
            "features run out, but α = 0.85 under both parametrisations": replace(_EXHAUSTED, standard=0.85, mup=0.85),
            "between all": Truth(beta=0.25, alpha=0.25, shuffled=0.1, mup=0.7),
        },
        lambda truth, rng: truth.question(rng).verdict,
    ),
)
"""The rules with the truths that ``actratio rules features`` simulates."""
