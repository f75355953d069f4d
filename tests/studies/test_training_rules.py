"""The verdict rules say yes, no and undecidable when they should."""

from __future__ import annotations

import math

import pytest

from actratio.statistics.rules import operating_characteristics
from actratio.statistics.verdict import NO, UNDECIDED, YES
from actratio.studies import TrainingStudy
from actratio.studies.training import judgement
from actratio.studies.training.conditions import BATCH, RATE

RULES = {rule.name: rule for rule in TrainingStudy.rules()}
# Rule, a truth for which yes is right and one for which no is right.
CLEAR = [
    ("start", "50.0%", "52.0%"),
    ("form", "errors ×2", "errors ×0.5"),
    ("fall", "falls by 0.35", "falls by 0"),
    ("factor", "A changes by -20%", "A changes by 0%"),
    ("frozen", "0 points", "10 points"),
    ("centred", "centred 50%, control 25%", "centred 25%, control 25%"),
    ("forecast within 10%", "error 2%", "error 40%"),
]


@pytest.mark.parametrize(("name", "true", "false"), CLEAR)
def test_rules_are_right_when_the_truth_is_clear(name: str, true: str, false: str) -> None:
    table = operating_characteristics(RULES[name], draws=150).set_index("truth")
    assert table.loc[true, "yes"] >= 0.8
    assert table.loc[true, "no"] <= 0.02
    assert table.loc[false, "yes"] <= 0.05
    assert table.loc[false, "no"] >= 0.7


def test_the_rule_of_the_asymptote_is_careful() -> None:
    """With three widths and five seeds it can miss a true asymptote, but it hardly ever invents one."""
    table = operating_characteristics(RULES["asymptote"], draws=200).set_index("truth")
    assert table.loc["changes by 0", "yes"] >= 0.5
    assert table.loc["changes by -0.1", "yes"] == 0
    assert table.loc["changes by -0.1", "no"] >= 0.7


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
    assert {verdict for verdict, _ in judgement.judge_factors({RATE: [-1.0], BATCH: [-1.0]}, 0).values()} == {UNDECIDED}


def test_without_a_working_control_the_start_is_not_decidable() -> None:
    plain, raised = [0.5, 0.501, 0.499], [0.54, 0.541, 0.539]
    assert judgement.judge_start([plain], [raised])[0] == YES
    assert judgement.judge_start([plain], [plain])[0] == UNDECIDED
    shifted = [0.55, 0.551, 0.549]
    assert judgement.judge_start([plain, shifted], [raised, raised]) == (NO, judgement.mean_interval(shifted))
    assert judgement.judge_start([shifted], [plain])[0] == UNDECIDED


def test_a_fall_is_falsified_by_an_interval_that_includes_a_small_one() -> None:
    assert judgement.judge_fall([0.3, 0.31, 0.29])[0] == YES
    assert judgement.judge_fall([0.2, 0.21, 0.19])[0] == UNDECIDED
    assert judgement.judge_fall([0.05, 0.06, 0.04])[0] == NO


def test_factors_are_adjusted_together_and_censored_runs_prevent_a_verdict() -> None:
    strong, none = [-0.3, -0.31, -0.29], [0.0, 0.01, -0.01]
    effects = {RATE: strong, BATCH: none}
    assert [verdict for verdict, _ in judgement.judge_factors(effects, 0).values()] == [YES, NO]
    assert {verdict for verdict, _ in judgement.judge_factors(effects, 3).values()} == {UNDECIDED}
    # p = 0.04 alone, which Holm doubles.
    borderline = [math.log(0.9) - 0.1 - spread for spread in (0.0, 0.055, -0.055)]
    p = judgement.p_value(borderline, judgement.TENTH)
    assert 0.025 < p < 0.1
    assert judgement.judge_factors({RATE: borderline, BATCH: borderline}, 0)[RATE][0] == UNDECIDED
