"""Conditions on the figures of an audit, such as ``useful_ratio<0.3``, for continuous integration."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from actratio.errors import DataError, short

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
FIGURES = ("useful_ratio", "layer_useful_ratio", "nonzero_ratio", "dead_ratio", "speedup")
"""What a condition can name; ``Audit.figures`` has the values."""


@dataclass(frozen=True)
class Condition:
    """A comparison of a figure with a number.

    >>> Condition.parse("useful_ratio<0.3").holds({"useful_ratio": 0.25})
    True
    """

    figure: str
    comparison: str
    bound: float

    def __str__(self) -> str:
        return f"{self.figure}{self.comparison}{self.bound:g}"

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition.

        Raises:
            DataError: it isn't a figure, a comparison and a number.
        """
        match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([0-9]*\.?[0-9]+)\s*", text)
        if match is None or match[1] not in FIGURES:
            raise DataError(
                f"{short(text)!r} is not a condition; write one of {', '.join(FIGURES)}, then <, <=, > or >=, and a number, "
                "such as useful_ratio<0.3"
            )
        return cls(match[1], match[2], float(match[3]))

    def holds(self, figures: Mapping[str, float]) -> bool:
        """Return whether the condition is true.

        Raises:
            DataError: the figure wasn't measured.
        """
        if self.figure not in figures:
            raise DataError(
                f"{self} cannot be checked: {self.figure} was not measured, and the sentences above say why; give another condition or a longer "
                "text, or try again"
            )
        return _COMPARISONS[self.comparison](figures[self.figure], self.bound)
