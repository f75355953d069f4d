"""Verdicts: what an estimate says about a claim, by a rule that was fixed before the estimate was known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from actratio.statistics.estimate import Estimate, finite_or_none

YES, NO, UNDECIDED = "yes", "no", "not decidable from this"
"""The outcomes of a rule. Failing to reject a claim is never ``YES``."""

MET, FAILED = "met", "failed"
"""What can become of a prediction, besides staying undecided."""

INTERVAL = "95% interval"
"""What the bounds of an estimate are, unless a verdict says otherwise."""


@dataclass(frozen=True)
class Verdict:
    """What a study says about one claim.

    Attributes:
        claim: the claim, as a statement that can be true or false.
        verdict: ``YES``, ``NO`` or ``UNDECIDED``.
        estimate: the figure that decided, with its interval.
        rule: the rule, in words.
        confirmatory: whether the claim and the rule were written down before the run; otherwise the verdict is exploratory.
        figure: name of the figure that ``estimate`` holds, with its unit, such as ``α`` or ``ratio, points``.
        bounds: what the bounds of ``estimate`` are, such as ``98.3% interval``.
        predicted: the outcome that was predicted before the run; empty without a prediction.
        excluded: the estimate excludes the prediction, although the rule decides nothing.
    """

    claim: str
    verdict: str
    estimate: Estimate
    rule: str
    confirmatory: bool = True
    figure: str = ""
    bounds: str = INTERVAL
    predicted: str = ""
    excluded: bool = False

    def __post_init__(self) -> None:
        for name, value in (("verdict", self.verdict), ("prediction", self.predicted or YES)):
            if value not in (YES, NO, UNDECIDED):
                raise ValueError(f"the {name} is {value!r}; use {YES!r}, {NO!r} or {UNDECIDED!r}")

    @property
    def prediction(self) -> str:
        """What became of the prediction: ``MET``, ``FAILED`` or ``UNDECIDED``; empty without one."""
        if not self.predicted:
            return ""
        if self.verdict == self.predicted:
            return MET
        return FAILED if self.excluded or self.verdict != UNDECIDED else UNDECIDED

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict for JSON; numbers that are not finite become ``None``."""
        return {
            "claim": self.claim,
            "verdict": self.verdict,
            "figure": self.figure,
            "estimate": finite_or_none(self.estimate.value),
            "interval": [finite_or_none(self.estimate.low), finite_or_none(self.estimate.high)],
            "bounds": self.bounds,
            "rule": self.rule,
            "confirmatory": self.confirmatory,
            "predicted": self.predicted or None,
            "prediction": self.prediction or None,
        }


def interval_name(level: float) -> str:
    """Return what an interval of a level is called in ``Verdict.bounds``.

    >>> interval_name(1 - 0.05 / 3)
    '98.3% interval'
    """
    return f"{100 * level:.3g}% interval"


def is_inside(estimate: Estimate, low: float, high: float) -> bool:
    """Return whether the whole interval lies in (low, high); ``False`` if there is no interval.

    >>> is_inside(Estimate(0.5, 0.45, 0.55), 0.4, 0.6)
    True
    """
    return low < estimate.low and estimate.high < high


def excludes(estimate: Estimate, value: float) -> bool:
    """Return whether there is an interval and ``value`` is not in it."""
    return not math.isnan(estimate.low) and not estimate.contains(value)


def decide(*, yes: bool, no: bool) -> str:
    """Return ``YES``, ``NO`` or, if neither condition holds, ``UNDECIDED``.

    Raises:
        ValueError: both hold, so that the rule contradicts itself.
    """
    if yes and no:
        raise ValueError("a rule cannot say yes and no at once")
    return YES if yes else NO if no else UNDECIDED
