"""Operating characteristics: how often a verdict rule says yes, no or undecidable when the truth is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from actratio.statistics.verdict import NO, UNDECIDED, YES

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 1000
"""Default number of simulated studies for each truth."""


@dataclass(frozen=True)
class Rule:
    """A verdict rule that can be tried on simulated studies.

    Attributes:
        name: what the rule judges, unique in a study.
        statement: the rule in words, as the page and the verdicts give it.
        truths: the truths that are simulated, by the name that the table shows.
        outcome: returns the verdict on one study that is simulated with the given truth. It calls the function that judges
            the real study.
    """

    name: str
    statement: str
    truths: Mapping[str, Any]
    outcome: Callable[[Any, np.random.Generator], str]


def operating_characteristics(rule: Rule, draws: int = DRAWS) -> pd.DataFrame:
    """Return how often the rule gives each verdict, by truth.

    The random numbers depend on the position of the truth and of the draw only, so that the table is repeatable.

    Args:
        rule: the rule.
        draws: number of simulated studies for each truth.

    Returns:
        One row per truth, with the columns ``rule``, ``truth``, ``yes``, ``no``, ``undecidable`` (shares) and ``draws``.
    """
    import pandas as pd

    rows = []
    for position, (name, truth) in enumerate(rule.truths.items()):
        outcomes = [rule.outcome(truth, np.random.default_rng((position, draw))) for draw in range(draws)]
        shares = {
            key: outcomes.count(value) / draws for key, value in (("yes", YES), ("no", NO), ("undecidable", UNDECIDED))
        }
        rows.append({"rule": rule.name, "truth": name, **shares, "draws": draws})
    return pd.DataFrame(rows)
