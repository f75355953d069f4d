"""The rule for √N discriminates: how often it says yes and no when the truth is known."""

from __future__ import annotations

import time

import numpy as np
import pytest

from actratio.laws.exponent import ExponentDesign
from actratio.laws.root_rule import SqrtTruth, sqrt_rule
from actratio.statistics.rules import operating_characteristics
from actratio.statistics.verdict import excludes
from actratio.training import ARTICLE_HIDDEN


def shares(truth: SqrtTruth, draws: int = 300) -> tuple[float, float]:
    rule = sqrt_rule(ARTICLE_HIDDEN, {"truth": truth}, seeds=5)
    row = operating_characteristics(rule, draws).iloc[0]
    assert row["yes"] + row["no"] + row["undecidable"] == pytest.approx(1)
    return row["yes"], row["no"]


def test_it_says_yes_if_one_half_is_clearly_true() -> None:
    yes, no = shares(SqrtTruth(0.5, 0.8, 0.05, 0.03))
    assert yes > 0.8
    assert no < 0.08


@pytest.mark.parametrize("alpha", [0.25, 0.35, 0.65])
@pytest.mark.parametrize("depth", [1.0, 0.8])
def test_it_hardly_ever_says_yes_if_one_half_is_false(alpha: float, depth: float) -> None:
    yes, no = shares(SqrtTruth(alpha, depth, 0.19, 0.05))
    assert yes < 0.01
    assert no > 0.5


def test_it_hardly_ever_says_no_if_one_half_is_true() -> None:
    """Even if all seeds share the cells' deviations, which the interval over seeds does not contain."""
    for truth in (SqrtTruth(0.5, 0.8, 0.19, 0.05), SqrtTruth(0.5, 1.0, 0.0, 0.2)):
        assert shares(truth)[1] < 0.1


def test_seeds_alone_would_say_no_too_often() -> None:
    """Why the interval over cells counts too: in about three of four such studies, that over seeds excludes a true ½."""
    widths = np.array([float(width) for hidden in ARTICLE_HIDDEN for width in hidden])
    layers = np.array([layer for hidden in ARTICLE_HIDDEN for layer in range(len(hidden))])
    names = np.array([index for index, hidden in enumerate(ARTICLE_HIDDEN) for _ in hidden])
    design, rng, seeds, wide = ExponentDesign(widths, layers, names), np.random.default_rng(0), 0, 0
    for _ in range(300):
        cells = 0.5 * np.log(widths) + rng.normal(0, 0.19, len(widths))
        exponent = design.fit(cells + rng.normal(0, 0.05, (5, len(widths))))
        seeds += excludes(exponent.over_seeds, 0.5)
        wide += excludes(exponent.alpha, 0.5)
    assert seeds > 0.65 * 300
    assert wide < 0.1 * 300


def test_a_simulated_study_is_fast() -> None:
    rule = sqrt_rule(ARTICLE_HIDDEN, {"truth": SqrtTruth(0.5, 1, 0.2, 0.05)}, seeds=5)
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(100):
        rule.outcome(rule.truths["truth"], rng)
    assert (time.perf_counter() - start) / 100 < 0.01
