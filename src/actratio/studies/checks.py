"""Checks of a study's options that several studies share."""

from __future__ import annotations

from collections.abc import Sequence

from actratio.errors import ActratioError

_LONGEST = 5  # digits of a width


def check_unique(kind: str, names: Sequence[object]) -> None:
    """Raise an error if a name, or a number, is given twice.

    Args:
        kind: what a name stands for, such as ``data set``.
        names: the names.

    Raises:
        ActratioError: see above.
    """
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ActratioError(f"the {kind} {repeated!r} is given twice; give each {kind} once")


def check_at_least(least: int, **numbers: int | None) -> None:
    """Raise an error if a number is smaller than ``least``; ``None`` stands for a default, and is not checked.

    Args:
        least: the smallest number that is allowed.
        numbers: the numbers, by what they are, with underscores for spaces.

    Raises:
        ActratioError: see above.
    """
    for name, number in numbers.items():
        if number is not None and number < least:
            raise ActratioError(f"the {name.replace('_', ' ')} is {number}; it must be at least {least}")


def check_widths(widths: Sequence[str]) -> None:
    """Raise an error if a width is not a whole number from 1 to 99999, or is given twice.

    Raises:
        ActratioError: see above.
    """
    for width in widths:
        if not (width.isascii() and width.isdigit() and len(width) <= _LONGEST and int(width)):
            raise ActratioError(
                f"the width {width!r} is not a whole number from 1 to 99999; give widths such as 16,64,256"
            )
    check_unique("width", [int(width) for width in widths])
