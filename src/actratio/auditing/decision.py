"""Decide between ways to run a model.

- A way qualifies if it was measured on the first kind of work, the interval of its speed-up lies above 1, the speed-up is at
  least 1.1, and its outputs are exact or its loss rises by no more than the target.
- Of those, the fastest is chosen; an exact one if it is at most a tenth slower.
- If none qualifies, the model stays dense. The reason is the first of these that holds: a way whose loss is accepted was measured, but
  this process waited for a CPU for more than 5% of the time, so the machine was too busy to tell; the interval of such a way reaches 1.1,
  so it isn't certain; the loss of a faster way misses the target; nothing is that fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from actratio.auditing.results import UNCHANGED, Decision, Gain, Way
from actratio.sparse.contention import BUSY, waited_in_words
from actratio.sparse.thresholds import increase_in_words
from actratio.statistics.estimate import Estimate

WORTH = 1.1
"""The smallest speed-up that is worth another way to run a model."""

_PREFERENCE = 0.9  # an exact way is chosen if it reaches this share of the fastest way's speed-up


def decide(ways: Sequence[Way], target: float, waited: float = math.nan) -> Decision:
    """Choose a way to run a model, or none.

    Args:
        ways: those that were tried.
        target: the largest increase of the loss that is accepted, in per cent.
        waited: as in ``Audit``.
    """
    fit = qualifying(ways, target)
    if fit:
        best = max(fit, key=_speedup)
        exact = [way for way in fit if way.exact and _speedup(way) >= _PREFERENCE * _speedup(best)]
        chosen = max(exact, key=_speedup) if exact else best
        busy = (
            [f"These speed-ups may differ on an idle machine: while speeds were timed, {waited_in_words(waited)}."]
            if waited > BUSY
            else []
        )
        return Decision(chosen, (*_recommendation(chosen, best, target), *busy))
    accepted = [way for way in ways if _is_timed(way) and (way.exact or _keeps(way.loss, target))]
    if accepted and waited > BUSY:
        best = max(accepted, key=_speedup)
        sentence = (
            f"Keep it dense for now: this machine is too busy to tell. While speeds were timed, {waited_in_words(waited)}. The best way "
            f"was {best.name!r}, {_times(best.main)} as fast. Run this again when the machine is idle."
        )
        return Decision(None, (sentence,), too_busy=True)
    return Decision(None, (_reason(ways, accepted, target),))


def qualifying(ways: Sequence[Way], target: float) -> list[Way]:
    """Return the ways that are faster for sure, and that keep the outputs or lose no more than the target.

    Args:
        ways, target: as for ``decide``.
    """
    return [way for way in ways if _is_faster(way.main.measured) and (way.exact or _keeps(way.loss, target))]


def _is_faster(measured: Estimate | None) -> bool:
    return measured is not None and measured.value >= WORTH and measured.low > 1


def _keeps(loss: Estimate | None, target: float) -> bool:
    return loss is not None and loss.value <= target


def _speedup(way: Way) -> float:
    return way.main.measured.value if way.main.measured is not None else 0.0


def _recommendation(chosen: Way, best: Way, target: float) -> list[str]:
    sentences = [f"Do this: {chosen.name}. {_gains(chosen.gains)}"]
    if chosen.exact:
        sentences.append("The outputs stay the same, up to the order in which sums are added.")
    elif chosen.loss is not None:
        sentences.append(_loss(chosen.loss, target))
    if chosen != best:
        sentences.append(
            f"With {best.name!r} it is {_times(best.main)} as fast, which isn't much more, and the outputs change."
        )
    slower = [gain for gain in chosen.gains if gain.measured is not None and gain.measured.high < 1]
    sentences += [f"It gets slower at other work: {gain.work}, {_times(gain)} as fast." for gain in slower]
    return sentences


def _reason(ways: Sequence[Way], accepted: Sequence[Way], target: float) -> str:
    unsure = [way for way in accepted if _may_be_faster(way.main.measured)]
    if unsure:
        best = max(unsure, key=_speedup)
        return (
            f"Keep it dense for now: it is not certain that anything is {WORTH} times as fast. With {best.name!r}, it was "
            f"{_times(best.main)} as fast ({best.main.expected:.2f} was expected). Run this again when the machine is idle."
        )
    faster = [way for way in ways if _is_faster(way.main.measured)]
    if faster:
        best = max(faster, key=_speedup)
        cost = (
            "it changes the outputs, and its loss was not measured"
            if best.loss is None
            else f"the change of the loss is {increase_in_words(best.loss)}, more than the {target:g}% that you accept"
        )
        return f"Keep it dense: with {best.name!r} it is {_times(best.main)} as fast, but {cost}."
    if not ways:
        return "Keep it dense: there is no faster way to try."
    best = max(
        [way for way in ways if way.main.measured is not None] or ways,
        key=lambda way: _speedup(way) or way.main.expected,
    )
    gain = best.main
    if gain.measured == UNCHANGED:
        found = "which would change nothing here"
    else:
        measured = "" if gain.measured is None else f"{_times(gain)} as fast; "
        found = f"{measured}{gain.expected:.2f} was expected"
    because = f", because {gain.reason}" if gain.reason else ""
    return (
        f"Keep it dense: none of the ways tried is {WORTH} times as fast. The best was {best.name!r}, {found}{because}."
    )


def _is_timed(way: Way) -> bool:
    return way.main.measured not in (None, UNCHANGED)


def _may_be_faster(measured: Estimate | None) -> bool:
    return measured is not None and measured.high >= WORTH


def _gains(gains: Sequence[Gain]) -> str:
    measured = [gain for gain in gains if gain.measured is not None]
    return " ".join(
        f"{_capitalised(str(gain.work))}: {_times(gain)} as fast (expected {gain.expected:.2f})." for gain in measured
    )


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def _times(gain: Gain) -> str:
    assert gain.measured is not None
    return f"{gain.measured.value:.2f} ({gain.measured.low:.2f} to {gain.measured.high:.2f}) times"


def _loss(loss: Estimate, target: float) -> str:
    sure = "" if loss.high <= target else f", which may be more than the {target:g}% that you accept"
    return f"The loss on text that was not used to choose changes by {increase_in_words(loss)}{sure}."
