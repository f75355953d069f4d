from __future__ import annotations

import json
import math

import numpy as np
import pytest

from actratio.statistics.estimate import Estimate, mean_interval
from actratio.statistics.rules import Rule, operating_characteristics
from actratio.statistics.verdict import (
    FAILED,
    MET,
    NO,
    UNDECIDED,
    YES,
    Verdict,
    decide,
    excludes,
    interval_name,
    is_inside,
)


def test_an_interval_inside_a_band_and_one_that_excludes_a_value() -> None:
    assert is_inside(Estimate(0.5, 0.45, 0.55), 0.4, 0.6)
    assert not is_inside(Estimate(0.5, 0.35, 0.55), 0.4, 0.6)
    assert not is_inside(Estimate(0.5), 0.4, 0.6)  # no interval, no equivalence
    assert excludes(Estimate(0.3, 0.2, 0.4), 0.5)
    assert not excludes(Estimate(0.3, 0.2, 0.6), 0.5)
    assert not excludes(Estimate(0.3), 0.5)


def test_a_rule_that_contradicts_itself_is_an_error() -> None:
    assert [decide(yes=True, no=False), decide(yes=False, no=True), decide(yes=False, no=False)] == [YES, NO, UNDECIDED]
    with pytest.raises(ValueError, match="at once"):
        decide(yes=True, no=True)
    with pytest.raises(ValueError, match="maybe"):
        Verdict("claim", "maybe", Estimate(1.0), "rule")


def test_a_verdict_is_data() -> None:
    verdict = Verdict("α is ½", YES, Estimate(0.5, 0.45, 0.55), "inside (0.4, 0.6)", figure="α")
    assert json.loads(json.dumps(verdict.to_dict())) == {
        "claim": "α is ½",
        "verdict": "yes",
        "figure": "α",
        "estimate": 0.5,
        "interval": [0.45, 0.55],
        "bounds": "95% interval",
        "rule": "inside (0.4, 0.6)",
        "confirmatory": True,
        "predicted": None,
        "prediction": None,
    }
    assert Verdict("c", NO, Estimate(math.nan), "r").to_dict()["interval"] == [None, None]


def test_a_prediction_is_met_or_failed_or_undecided() -> None:
    def became(verdict: str, predicted: str, excluded: bool = False) -> str:
        return Verdict("c", verdict, Estimate(1.0), "r", predicted=predicted, excluded=excluded).prediction

    assert became(NO, NO) == became(YES, YES) == became(UNDECIDED, UNDECIDED) == MET
    assert became(YES, NO) == became(NO, YES) == became(YES, UNDECIDED) == FAILED
    assert became(UNDECIDED, YES) == UNDECIDED
    assert became(UNDECIDED, YES, excluded=True) == FAILED
    assert became(YES, "") == ""
    data = Verdict("c", NO, Estimate(1.0), "r", bounds=interval_name(1 - 0.05 / 9), predicted=YES).to_dict()
    assert (data["predicted"], data["prediction"], data["bounds"]) == ("yes", "failed", "99.4% interval")
    with pytest.raises(ValueError, match="the prediction is 'maybe'"):
        Verdict("c", NO, Estimate(1.0), "r", predicted="maybe")


def test_operating_characteristics_of_an_equivalence_rule() -> None:
    def outcome(truth: float, rng: np.random.Generator) -> str:
        estimate = mean_interval(rng.normal(truth, 0.05, 5).tolist())
        inside = is_inside(estimate, 0.4, 0.6)
        return decide(yes=inside, no=not inside and excludes(estimate, 0.5))

    rule = Rule("√N", "inside (0.4, 0.6)", {"α = 0.9": 0.9, "α = 0.6": 0.6}, outcome)
    table = operating_characteristics(rule, draws=400)
    assert table["truth"].tolist() == ["α = 0.9", "α = 0.6"]
    assert (table[["yes", "no", "undecidable"]].sum(axis=1) == 1).all()
    assert table.loc[0, "no"] == 1.0
    assert (
        table.loc[1, "yes"] <= 0.05
    )  # at the edge of the band, equivalence is said at most as often as the level allows
    assert table.equals(operating_characteristics(rule, draws=400))
