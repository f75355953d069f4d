"""The rules of a fine-tuning: the learning rate, the strength of the penalty, and which model is kept. They are pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from actratio.errors import SiteError
from actratio.relufication.activations import check_function

_WARMUP = 0.05  # of the steps, until the learning rate is reached
_LAST = 0.1  # of the learning rate, in the last step
_RECOVERY = 0.1  # of the steps, before the penalty begins
_FIRST_STRENGTH = 0.01
_FACTOR = 2.0
_FAR = 2.0  # times the target; above it, the penalty grows by the square of the factor
_SLACK = 0.8  # of the target; at fewer outputs, the penalty costs more loss than it must


@dataclass(frozen=True)
class FineTuning:
    """How a model is fine-tuned.

    Attributes:
        activation: ``relu``, ``relu2`` or ``keep`` (the model's own).
        target: share of the neuron outputs that should not be zero, above 0 and at most 1. At 1, there is no penalty.
        loss: largest increase of the loss over that of the given model, in per cent.
        steps: optimizer steps.
        batch_size: sequences in a step.
        lr: largest learning rate of AdamW.
        evaluations: how often the loss and the ratio are measured on text that isn't trained on, at even intervals; the penalty changes then.
        seed: of the order of the sequences, and of dropout.

    Raises:
        SiteError: a value is out of range.
    """

    activation: str = "relu"
    target: float = 0.1
    loss: float = 5.0
    steps: int = 500
    batch_size: int = 4
    lr: float = 1e-4
    evaluations: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        check_function(self.activation)
        if not 0 < self.target <= 1:
            raise SiteError(f"the target is {self.target:g}; give a share above 0 and at most 1, such as 0.1")
        if not 0 <= self.loss < math.inf:
            raise SiteError(f"the accepted increase of the loss is {self.loss:g}%; give 0 or more")
        if not 0 < self.lr <= 1:
            raise SiteError(f"the learning rate is {self.lr:g}; give a number above 0 and at most 1, such as 1e-4")
        for name in ("steps", "batch_size", "evaluations"):
            if getattr(self, name) < 1:
                raise SiteError(f"{name} is {getattr(self, name)}; give 1 or more")

    @property
    def interval(self) -> int:
        """Steps between two evaluations."""
        return max(1, self.steps // self.evaluations)

    def is_evaluated(self, step: int) -> bool:
        """Return whether the model is evaluated after a step, counted from 1."""
        return step % self.interval == 0 or step == self.steps


@dataclass(frozen=True)
class Evaluation:
    """What was measured on text that isn't trained on.

    Attributes:
        step: optimizer steps before it.
        loss: in nats per token.
        ratio: share of the neuron outputs that aren't zero.
        strength: of the penalty in the steps before it.
    """

    step: int
    loss: float
    ratio: float
    strength: float


def learning_rate(tuning: FineTuning, step: int) -> float:
    """Return the learning rate of a step, counted from 1: a linear warm-up, then a cosine."""
    warmup = max(1, round(_WARMUP * tuning.steps))
    if step <= warmup:
        return tuning.lr * step / warmup
    done = (step - warmup) / max(1, tuning.steps - warmup)
    return tuning.lr * (_LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * done)))


def next_strength(tuning: FineTuning, latest: Evaluation, bound: float) -> float:
    """Return the strength of the penalty after an evaluation.

    It is 0 until a tenth of the steps is over, so that the model recovers from its new function. Then it doubles while the ratio is above
    the target and the loss within its bound, or quadruples while the ratio is above twice the target. It stays
    when the target is reached, and is halved while the ratio is far below the target or the loss above its bound.

    Args:
        bound: largest loss, in nats per token.
    """
    if tuning.target == 1 or latest.step < _RECOVERY * tuning.steps:
        return 0.0
    if latest.loss > bound or latest.ratio < _SLACK * tuning.target:
        return latest.strength / _FACTOR
    if latest.ratio > tuning.target:
        factor = _FACTOR**2 if latest.ratio > _FAR * tuning.target else _FACTOR
        return latest.strength * factor if latest.strength else _FIRST_STRENGTH
    return latest.strength


def is_better(tuning: FineTuning, tried: Evaluation, best: Evaluation | None, bound: float) -> bool:
    """Return whether a model should be kept instead of the best one so far.

    A model whose loss is above the bound is never kept. One that reaches the target is better than one that doesn't; among those that
    reach it, the lower loss is better, among others the lower ratio.
    """
    if not tried.loss <= bound:
        return False
    if best is None:
        return True
    reached = tried.ratio <= tuning.target, best.ratio <= tuning.target
    if reached[0] != reached[1]:
        return reached[0]
    return tried.loss < best.loss if reached[0] else tried.ratio < best.ratio
