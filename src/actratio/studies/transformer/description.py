"""Verdicts on the article's description of its GPT models, for the models of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from actratio.statistics.estimate import Estimate
from actratio.statistics.verdict import Verdict, decide
from actratio.studies.transformer.profiles import FIRST, MAX_DRIFT, PLATEAU, Profile

if TYPE_CHECKING:
    import pandas as pd

LATE = (0.11, 0.18)
"""A wider band than ``PLATEAU``, for each layer after the first third by itself."""

DESCRIPTION_RULE = (
    f"yes if all three parts hold in every model: {FIRST[0]:.0%} to {FIRST[1]:.0%} in the first layer, {PLATEAU[0]:.0%} to {PLATEAU[1]:.0%} "
    f"after the first third, and a change of at most {MAX_DRIFT:.0%} from there to the last layer; otherwise no. Means over the inputs of the "
    "table, without an interval"
)
"""The rule in words."""

LATE_RULE = f"yes if the ratio of every layer after the first third is {LATE[0]:.0%} to {LATE[1]:.0%}; otherwise no"
"""The rule of the weaker claim in words."""


def judge_description(profiles: Sequence[Profile]) -> str:
    """Return what ``DESCRIPTION_RULE`` says."""
    holds = all(profile.holds for profile in profiles)
    return decide(yes=holds, no=not holds)


def description_verdict(profiles: Sequence[Profile], whose: str) -> Verdict:
    """Return the verdict on whether the article's description holds in all models, with the number of models in which it does.

    Args:
        profiles: at least one.
        whose: which models, such as ``published``.
    """
    return Verdict(
        f"The article's description (4%, rising to 14% over the first third, then flat) holds in all {whose} models",
        judge_description(profiles),
        Estimate(sum(profile.holds for profile in profiles)),
        DESCRIPTION_RULE,
        confirmatory=False,
        figure=f"models of {len(profiles)} in which all parts hold",
    )


def late_layers_verdict(table: pd.DataFrame, whose: str) -> Verdict:
    """Return the verdict that all layers after the first third lie in ``LATE``, with the share that does.

    Args:
        table: a table with ``GPT_COLUMNS``.
        whose: which models, such as ``published``.
    """
    late = []
    for _, rows in table.groupby("model", sort=False):
        ratios = rows.groupby("layer")["activation_ratio"].mean().sort_index().to_numpy()
        late.append(ratios[len(ratios) // 3 :])
    inside = np.concatenate([(layers >= LATE[0]) & (layers <= LATE[1]) for layers in late])
    return Verdict(
        f"All layers after the first third of the {whose} models have {LATE[0]:.0%} to {LATE[1]:.0%}",
        decide(yes=bool(inside.all()), no=not inside.all()),
        Estimate(float(inside.mean())),
        LATE_RULE,
        confirmatory=False,
        figure=f"share of {len(inside)} layers",
    )
