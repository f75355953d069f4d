"""The rule that decides between ways to run a model, on hand-made figures."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from actratio.auditing.conditions import Condition
from actratio.auditing.decision import decide
from actratio.auditing.results import Gain, Way, Work
from actratio.errors import DataError
from actratio.statistics.estimate import Estimate


def way(
    name: str,
    measured: tuple[float, float, float] | None,
    *,
    exact: bool = False,
    loss: tuple[float, float, float] | None = None,
    expected: float = 2.0,
    reason: str = "",
) -> Way:
    gain = Gain(Work(1), expected, reason, None if measured is None else Estimate(*measured))
    return Way(name, "--target zeros", exact, 0.5, (gain,), None if loss is None else Estimate(*loss))


EXACT = way("skip zeros", (1.5, 1.4, 1.6), exact=True)
GOOD = way("8-bit weights", (2.0, 1.9, 2.1), loss=(0.5, 0.4, 0.6))


@pytest.mark.parametrize(
    ("ways", "chosen"),
    [
        ([], None),
        ([EXACT], "skip zeros"),
        ([EXACT, GOOD], "8-bit weights"),  # more than a tenth faster
        ([way("exact", (1.85, 1.8, 1.9), exact=True), GOOD], "exact"),
        ([way("exact", (1.79, 1.7, 1.9), exact=True), GOOD], "8-bit weights"),
        ([way("slow", (1.09, 1.08, 1.1), exact=True)], None),  # not worth it
        ([way("unsure", (1.3, 0.99, 1.7), exact=True)], None),  # the interval has 1 in it
        ([way("sure", (1.3, 1.01, 1.7), exact=True)], "sure"),
        ([way("costly", (2.0, 1.9, 2.1), loss=(1.01, 0.9, 1.2))], None),
        ([way("at the target", (2.0, 1.9, 2.1), loss=(1.0, 0.9, 1.2))], "at the target"),
        ([way("better", (2.0, 1.9, 2.1), loss=(-0.1, -0.2, 0.0))], "better"),
        ([way("loss unknown", (2.0, 1.9, 2.1), loss=None)], None),
        ([way("loss is nan", (2.0, 1.9, 2.1), loss=(math.nan, math.nan, math.nan))], None),
        ([way("not measured", None, exact=True)], None),
        ([way("no interval", (2.0, math.nan, math.nan), exact=True)], None),
    ],
)
def test_way_that_is_chosen(ways: list[Way], chosen: str | None) -> None:
    decision = decide(ways, target=1.0)
    assert (decision.way and decision.way.name) == chosen
    assert decision.sentences[0].startswith("Keep it dense" if chosen is None else "Do this")


def test_recommendation_says_gain_expectation_and_loss() -> None:
    assert decide([GOOD], 1.0).sentences == (
        "Do this: 8-bit weights. Decoding, batch 1: 2.00 (1.90 to 2.10) times as fast (expected 2.00).",
        "The loss on text that was not used to choose changes by +0.50%, 95% interval +0.40 to +0.60%.",
    )
    unsure = way("8-bit weights", (2.0, 1.9, 2.1), loss=(0.9, 0.6, 1.2))
    assert "which may be more than the 1% that you accept" in decide([unsure], 1.0).sentences[1]
    exact = way("skip zeros", (1.9, 1.8, 2.0), exact=True)
    _, same, faster = decide([exact, GOOD], 1.0).sentences
    assert same == "The outputs stay the same, up to the order in which sums are added."
    assert (
        faster
        == "With '8-bit weights' it is 2.00 (1.90 to 2.10) times as fast, which isn't much more, and the outputs change."
    )


def test_work_that_gets_slower_is_said() -> None:
    prompt = Gain(Work(1, prompt=128), 0.9, "", Estimate(0.85, 0.77, 0.94))
    unsure = Gain(Work(4), 1.0, "", Estimate(0.98, 0.94, 1.02))
    decision = decide([replace(GOOD, gains=(*GOOD.gains, unsure, prompt))], 1.0)
    assert decision.way is not None
    assert (
        decision.sentences[-1]
        == "It gets slower at other work: a prompt of 128 tokens, 0.85 (0.77 to 0.94) times as fast."
    )
    assert sum("slower" in sentence for sentence in decision.sentences) == 1


@pytest.mark.parametrize(
    ("ways", "reason"),
    [
        (
            [way("zeros", (1.4, 0.9, 2.1), exact=True)],
            "it is not certain that anything is 1.1 times as fast. With 'zeros', it was 1.40 (0.90 to 2.10) times as fast (2.00 was "
            "expected). Run this again when the machine is idle.",
        ),
        ([way("zeros", (1.05, 1.0, 1.1), exact=True, expected=1.0)], "it is not certain"),
        (
            [way("costly", (1.4, 0.9, 2.1), loss=(5, 4, 6)), way("zeros", (1.0, 0.98, 1.02), exact=True)],
            "none of the ways tried is 1.1 times as fast. The best was 'costly', 1.40 (0.90 to 2.10) times as fast; 2.00 was "
            "expected.",
        ),
        ([way("zeros", (1.0, 0.98, 1.02), exact=True)], "none of the ways tried is 1.1 times as fast"),
        (
            [way("8-bit weights", (2.0, 1.9, 2.1), loss=(1.5, 1.2, 1.8))],
            "the change of the loss is +1.50%, 95% interval +1.20 to +1.80%, more than the 1% that you accept",
        ),
        (
            [way("zeros", None, exact=True, expected=1.0, reason="a token needs 99% of the neurons")],
            "The best was 'zeros', 1.00 was expected, because a token needs 99% of the neurons.",
        ),
        (
            [way("8-bit weights", (2.0, 1.9, 2.1), loss=(math.inf, math.nan, math.nan))],
            "the change of the loss is an infinite amount, more than the 1% that you accept",
        ),
    ],
)
def test_reason_to_stay_dense(ways: list[Way], reason: str) -> None:
    (sentence,) = decide(ways, 1.0).sentences
    assert sentence.startswith("Keep it dense")
    assert reason in sentence


@pytest.mark.parametrize(
    ("ways", "is_busy"),
    [
        ([way("zeros", (0.2, 0.1, 0.3), exact=True)], True),
        ([way("8-bit weights", (0.2, 0.1, 0.3), loss=(0.5, 0.4, 0.6))], True),
        ([way("8-bit weights", (0.2, 0.1, 0.3), loss=(1.5, 1.4, 1.6))], False),  # its loss is known
        ([way("zeros", (1.0, 1.0, 1.0), exact=True)], False),  # it would change nothing
        ([way("zeros", None, exact=True)], False),
    ],
)
def test_a_busy_machine_cannot_tell(ways: list[Way], is_busy: bool) -> None:
    (sentence,) = decide(ways, 1.0, waited=0.06).sentences
    assert ("this machine is too busy to tell" in sentence) == decide(ways, 1.0, waited=0.06).too_busy == is_busy
    assert decide(ways, 1.0, waited=0.04) == decide(ways, 1.0, waited=math.nan) == decide(ways, 1.0)
    assert "too busy" not in decide(ways, 1.0).sentences[0]


def test_what_is_faster_on_a_busy_machine_is_recommended_with_a_warning() -> None:
    *sentences, warning = decide([GOOD], 1.0, waited=0.33).sentences
    assert sentences == list(decide([GOOD], 1.0).sentences)
    assert warning == (
        "These speed-ups may differ on an idle machine: while speeds were timed, this process waited for a CPU for 33% of the time, "
        "because other programs ran or it has more threads than there are CPUs."
    )


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("useful_ratio<0.3", True),
        ("useful_ratio <= 0.25", True),
        ("useful_ratio<0.25", False),
        ("speedup>1.5", True),
        ("speedup>=2.5", False),
    ],
)
def test_conditions(text: str, holds: bool) -> None:
    assert Condition.parse(text).holds({"useful_ratio": 0.25, "speedup": 2.0}) == holds


@pytest.mark.parametrize(
    "text",
    ["", "useful_ratio", "useful_ratio=0.3", "usefulness<1", "speedup>x", "1<speedup", "speedup>1,5", "speedup>\u0663"],
)
def test_text_that_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="is not a condition; write one of useful_ratio"):
        Condition.parse(text)


def test_condition_on_a_figure_that_was_not_measured_is_refused() -> None:
    with pytest.raises(DataError, match=r"useful_ratio<0\.3 cannot be checked: useful_ratio was not measured"):
        Condition.parse("useful_ratio<0.3").holds({"speedup": 1.0})
