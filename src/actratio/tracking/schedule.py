"""At which steps of a training the tracker takes a reading."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral

from actratio.errors import TrackerError

Schedule = Callable[[int], bool]
"""Whether to take a reading at a step, counted from 1."""

Every = int | str | Schedule
"""A number of steps, ``"log"``, ``"epoch"`` or a ``Schedule``."""

_PER_DECADE = 10


def to_schedule(every: Every, steps_per_epoch: int | None = None) -> Schedule:
    """Return the schedule that ``every`` stands for.

    Args:
        every: a number n (a reading at steps n, 2n, 3n, …), ``"log"`` (about ten readings per tenfold of steps: 1, 2, 3, 4, 5,
            6, 8, 10, 13, …), ``"epoch"`` (the last step of each epoch), or a function of the step.
        steps_per_epoch: optimizer steps in an epoch, for ``"epoch"``.

    Raises:
        TrackerError: ``every`` is none of these, or ``steps_per_epoch`` is missing or not needed.

    Examples:
        >>> [step for step in range(1, 30) if to_schedule("log")(step)]
        [1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25]
    """
    if every == "epoch":
        if not isinstance(steps_per_epoch, Integral) or steps_per_epoch < 1:
            raise TrackerError(
                f"every='epoch' needs the number of optimizer steps in an epoch, not {steps_per_epoch!r}; "
                "pass steps_per_epoch, such as len(loader)"
            )
        return _every(int(steps_per_epoch))
    if steps_per_epoch is not None:
        raise TrackerError(f"steps_per_epoch is for every='epoch', not for every={every!r}; leave it out")
    if every == "log":
        return _is_log_spaced
    if isinstance(every, Integral) and not isinstance(every, bool) and every >= 1:
        return _every(int(every))
    if callable(every):
        return every
    raise TrackerError(f"every is {every!r}; give a number of steps, 'log', 'epoch' or a function of the step")


def _every(steps: int) -> Schedule:
    return lambda step: step % steps == 0


def _is_log_spaced(step: int) -> bool:
    """Return whether ``step`` is a power of 10^(1/10), rounded to the nearest integer."""
    # No more than a few exponents round to one step; the neighbours make up for the rounding of the logarithm.
    import math

    nearest = round(_PER_DECADE * math.log10(step))
    return any(round(10 ** (exponent / _PER_DECADE)) == step for exponent in (nearest - 1, nearest, nearest + 1))
