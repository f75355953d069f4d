"""The verdict rules say yes, no and undecidable when they should."""

from __future__ import annotations

import math

import numpy as np
import pytest

from actratio.statistics.rules import operating_characteristics
from actratio.statistics.verdict import NO, UNDECIDED, YES
from actratio.studies import TrainingStudy
from actratio.studies.training import judgement

RULES = {rule.name: rule for rule in TrainingStudy.rules()}
# Rule, a truth for which yes is right and one for which no is right.
CLEAR = [
    ("start", "50.0%", "52.0%"),
    ("form", "errors ×4", "errors ×0.25"),
    ("fall", "falls by 0.35", "falls by 0"),
    ("factor", "A changes by -40%", "A changes by 20%"),
    ("frozen", "0 points", "10 points"),
    ("centred", "centred 50%, control 25%", "centred 25%, control 25%"),
    (
        "centred throughout",
        "centred at worst 50%, control 25%",
        "centred at worst 65%, control 25%",
    ),
    ("forecast within 10%", "error 2%", "error 40%"),
]


@pytest.mark.parametrize(("name", "true", "false"), CLEAR)
def test_rules_are_right_when_the_truth_is_clear(name: str, true: str, false: str) -> None:
    table = operating_characteristics(RULES[name], draws=150).set_index("truth")
    # Holm's strictest step asks for a precision of the ratio that five seeds just have.
    assert table.loc[true, "yes"] >= (0.4 if name == "centred" else 0.8)
    assert table.loc[true, "no"] <= 0.02
    assert table.loc[false, "yes"] <= 0.05
    assert table.loc[false, "no"] >= 0.7


def test_the_rule_of_the_asymptote_is_careful() -> None:
    """With three widths and five seeds it mostly misses a true asymptote at Holm's strictest step, but it hardly ever invents one."""
    table = operating_characteristics(RULES["asymptote"], draws=200).set_index("truth")
    assert table.loc["changes by 0", "yes"] >= 0.1
    assert table.loc["changes by -0.1", "yes"] == 0
    assert table.loc["changes by -0.1", "no"] >= 0.2


def test_an_exploratory_rule_can_say_no() -> None:
    assert judgement.judge_below([0.2, 0.21, 0.19], 0.0)[0] == NO
    table = operating_characteristics(RULES["output layer frozen"], draws=100).set_index("truth")
    assert table.loc["ratio ×1", "yes"] <= 0.1
    assert table.loc["ratio ×0.8", "yes"] >= 0.95


def test_one_seed_decides_nothing() -> None:
    assert judgement.judge_form([5.0])[0] == UNDECIDED
    assert judgement.judge_fall([0.4])[0] == UNDECIDED
    assert judgement.judge_within([0.0], 0.05)[0] == UNDECIDED
    assert judgement.judge_centred([0.5], [0.2])[0] == UNDECIDED
    assert judgement.judge_start([[0.5]], [[0.6]])[0] == UNDECIDED
    assert judgement.judge_factor([-1.0], 0)[0] == UNDECIDED
    assert judgement.judge_centred_throughout([[0.5], [0.9]], [0.2])[0] == UNDECIDED


def test_without_a_working_control_the_start_is_not_decidable() -> None:
    plain, raised = [0.5, 0.501, 0.499], [0.54, 0.541, 0.539]
    assert judgement.judge_start([plain], [raised])[0] == YES
    assert judgement.judge_start([plain], [plain])[0] == UNDECIDED
    shifted = [0.55, 0.551, 0.549]
    found = judgement.judge_start([plain, shifted], [raised, raised])
    assert found[:2] == (NO, judgement.mean_interval(shifted))
    assert judgement.judge_start([shifted], [plain])[0] == UNDECIDED


def test_a_fall_is_falsified_by_an_interval_that_includes_a_small_one() -> None:
    assert judgement.judge_fall([0.3, 0.31, 0.29])[0] == YES
    assert judgement.judge_fall([0.2, 0.21, 0.19])[0] == UNDECIDED
    assert judgement.judge_fall([0.05, 0.06, 0.04])[0] == NO


def test_censored_runs_prevent_a_verdict() -> None:
    strong, none = [-0.3, -0.31, -0.29], [0.0, 0.01, -0.01]
    assert [judgement.judge_factor(effects, 0)[0] for effects in (strong, none)] == [YES, NO]
    assert {judgement.judge_factor(effects, 3)[0] for effects in (strong, none)} == {UNDECIDED}


RULINGS = {
    "start": lambda rng: judgement.judge_start([rng.normal(0.506, 0.005, 6)], [rng.normal(0.6, 0.01, 6)]),
    "form": lambda rng: judgement.judge_form(rng.normal(0.3, 0.2, 5)),
    "within": lambda rng: judgement.judge_within(rng.normal(0.0, 0.04, 5), 0.05),
    "outside": lambda rng: judgement.judge_within(rng.normal(0.1, 0.04, 5), 0.05),
    "factor": lambda rng: judgement.judge_factor(rng.normal(-0.15, 0.03, 3), 0),
    "centred": lambda rng: judgement.judge_centred(rng.normal(0.49, 0.03, 5), rng.normal(0.4, 0.04, 5)),
    "sunk": lambda rng: judgement.judge_centred(rng.normal(0.42, 0.03, 5), rng.normal(0.4, 0.04, 5)),
}


@pytest.mark.parametrize("name", RULINGS)
def test_p_is_the_level_at_which_the_rule_still_decides(name: str) -> None:
    """By itself, a claim is decided by its 95% interval exactly if p is at most 0.05."""
    decided = 0
    for seed in range(60):
        ruling = RULINGS[name](np.random.default_rng(seed))
        decided += ruling.verdict != UNDECIDED
        assert math.isnan(ruling.p) if ruling.verdict == UNDECIDED else ruling.p <= 0.05
    assert 5 < decided <= 60


def test_claims_are_corrected_together() -> None:
    sure, borderline = (
        judgement.Ruling(YES, judgement.Estimate(1.0), 1e-4),
        judgement.Ruling(NO, judgement.Estimate(0.0), 0.02),
    )
    untested = judgement.Ruling(NO, judgement.Estimate(0.0))
    assert judgement.corrected([sure, borderline, untested]) == [YES, UNDECIDED, NO]
    assert judgement.corrected([sure, borderline], family=2) == [YES, NO]
    assert judgement.corrected([]) == []
