"""The command ``rules``, and what every study's rules must have."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from actratio.statistics.verdict import NO, UNDECIDED, YES
from actratio.studies import STUDIES
from actratio.studies.base import Study


@pytest.mark.parametrize("name", STUDIES)
def test_rules_are_named_and_give_a_verdict(name: str) -> None:
    rules = STUDIES[name].rules()
    assert rules
    assert len({rule.name for rule in rules}) == len(rules)
    for rule in rules:
        assert len(rule.truths) >= 2
        assert rule.statement
        for position, truth in enumerate(rule.truths.values()):
            assert rule.outcome(truth, np.random.default_rng(position)) in (YES, NO, UNDECIDED)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_can_say_no(name: str) -> None:
    """Of each study's simulated truths, at least one gets a no."""
    outcomes = {
        rule.outcome(truth, np.random.default_rng(seed))
        for rule in STUDIES[name].rules()
        for truth in rule.truths.values()
        for seed in range(5)
    }
    assert NO in outcomes


def test_the_command_prints_shares_that_add_up(
    run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("rules", "mlp", "--draws", "5", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert {row["rule"] for row in said["rows"]} == set(said["settings"]["rules"])
    for row in said["rows"]:
        assert row["yes"] + row["no"] + row["undecidable"] == pytest.approx(1)
    assert run_command("rules", "mlp", "--draws", "5") == 0
    assert "undecidable" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there is no study 'nothing'; use one of mlp"),
        (["silent"], "has no verdict rules to simulate"),
    ],
)
def test_a_study_without_rules_is_refused(
    arguments: list[str],
    message: str,
    run_command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(STUDIES, "silent", Study)  # a study's rules are none unless it says otherwise
    assert run_command("rules", *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
