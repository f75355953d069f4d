"""The rules of a fine-tuning, by hand."""

from __future__ import annotations

import pytest

from actratio.errors import SiteError
from actratio.relufication import Evaluation, FineTuning
from actratio.relufication.schedule import is_better, learning_rate, next_strength

BOUND = 3.0


def evaluation(loss: float = 2.0, ratio: float = 0.5, strength: float = 0.04, step: int = 50) -> Evaluation:
    return Evaluation(step, loss, ratio, strength)


def test_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    tuning = FineTuning(steps=100, lr=1.0)
    assert [learning_rate(tuning, step) for step in (1, 5)] == [0.2, 1.0]
    rates = [learning_rate(tuning, step) for step in range(5, 101)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("latest", "expected"),
    [
        (evaluation(step=9), 0.0),  # the model recovers from its new function
        (evaluation(strength=0.0), 0.01),
        (evaluation(), 0.16),  # far above the target
        (evaluation(ratio=0.2), 0.08),
        (evaluation(ratio=0.1), 0.04),  # the target is reached
        (evaluation(ratio=0.081), 0.04),
        (evaluation(ratio=0.07), 0.02),
        (evaluation(loss=3.1), 0.02),
        (evaluation(loss=3.1, strength=0.0), 0.0),
        (evaluation(loss=3.0, ratio=0.15), 0.08),
    ],
)
def test_strength_rises_until_the_target_or_the_bound(latest: Evaluation, expected: float) -> None:
    assert next_strength(FineTuning(steps=100), latest, BOUND) == expected


def test_there_is_no_penalty_without_a_target() -> None:
    assert next_strength(FineTuning(steps=100, target=1.0), evaluation(), BOUND) == 0


@pytest.mark.parametrize(
    ("tried", "best", "expected"),
    [
        (evaluation(loss=3.1, ratio=0.05), None, False),
        (evaluation(loss=float("nan")), None, False),
        (evaluation(), None, True),
        (evaluation(ratio=0.09, loss=2.9), evaluation(ratio=0.2, loss=2.0), True),  # one reaches the target
        (evaluation(ratio=0.2, loss=2.0), evaluation(ratio=0.09, loss=2.9), False),
        (evaluation(ratio=0.09, loss=2.4), evaluation(ratio=0.05, loss=2.5), True),  # both do: the loss decides
        (evaluation(ratio=0.05, loss=2.5), evaluation(ratio=0.09, loss=2.4), False),
        (evaluation(ratio=0.2, loss=2.9), evaluation(ratio=0.3, loss=2.0), True),  # none does: the ratio decides
        (evaluation(ratio=0.3, loss=2.0), evaluation(ratio=0.2, loss=2.9), False),
    ],
)
def test_which_model_is_kept(tried: Evaluation, best: Evaluation | None, expected: bool) -> None:
    assert is_better(FineTuning(), tried, best, BOUND) is expected


@pytest.mark.parametrize(
    ("steps", "evaluations", "evaluated"),
    [(10, 5, [2, 4, 6, 8, 10]), (10, 3, [3, 6, 9, 10]), (2, 9, [1, 2]), (7, 1, [7])],
)
def test_when_the_model_is_evaluated(steps: int, evaluations: int, evaluated: list[int]) -> None:
    tuning = FineTuning(steps=steps, evaluations=evaluations)
    assert [step for step in range(1, steps + 1) if tuning.is_evaluated(step)] == evaluated


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"activation": "silu"}, "write relu, relu2 or keep"),
        ({"target": 0.0}, "above 0 and at most 1"),
        ({"target": float("nan")}, "above 0 and at most 1"),
        ({"loss": -1.0}, "0 or more"),
        ({"lr": 0.0}, "above 0 and at most 1"),
        ({"lr": 1.5}, "above 0 and at most 1"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"evaluations": 0}, "evaluations is 0"),
    ],
)
def test_wrong_values(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(SiteError, match=message):
        FineTuning(**wrong)  # type: ignore[arg-type]
