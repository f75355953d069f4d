"""Interactions of two factors in the factorial. They were looked at on 27 November 2026, after the results were known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from actratio.report.findings import Table
from actratio.statistics.multiple import holm_family, p_value
from actratio.statistics.seeds import over_seeds
from actratio.studies.training.conditions import CONTRASTS, FACTORS, LEVELS
from actratio.studies.training.part import Part, change_shown, shown

if TYPE_CHECKING:
    import pandas as pd

_SIGNIFICANT = 0.05


def pair_effects(
    levels: Mapping[str, Sequence[int]], response: pd.DataFrame, factors: Sequence[str]
) -> dict[tuple[str, str], pd.Series]:
    """Return the interaction of each pair of factors, one value per seed.

    It is half of what the effect of the first factor changes by when the second one goes from its low to its high level. A seed with a missing run
    has none: in this design, main effects and pairs need all 16 runs.

    Args:
        levels: −1 or +1 for each factor, by run.
        response: one row per run, one column per seed; NaN for a run without response.
        factors: names of the factors, in the order of the levels.
    """
    signs = np.array([levels[run] for run in response.index], dtype=float)
    values = response.to_numpy(dtype=float)
    return {
        (factors[first], factors[second]): response.iloc[0] * 0
        + 2 * (signs[:, first] * signs[:, second] @ values) / len(values)
        for first, second in combinations(range(len(factors)), 2)
    }


def interactions_part(
    response: pd.DataFrame, levels: Mapping[str, Sequence[int]], effects: pd.DataFrame, place: str
) -> Part:
    """Return the interactions as a table, and the largest one as a sentence.

    Args:
        response: log A, one row per run, one column per seed.
        levels: −1 or +1 for each factor, by run.
        effects: main effects, one row per factor, one column per seed.
        place: where log A was taken, such as ``a training loss of 0.1``.
    """
    pairs = {pair: values.dropna() for pair, values in pair_effects(levels, response, FACTORS).items()}
    if not all(len(values) for values in pairs.values()):
        return Part()
    adjusted = dict(zip(pairs, holm_family([p_value(values.tolist(), 0.0) for values in pairs.values()]), strict=True))
    ordered = sorted(pairs, key=lambda pair: -abs(float(pairs[pair].mean())))
    rows = []
    for pair in ordered:
        first, second = pair
        low, high = _simple_effects(effects.loc[first], pairs[pair])
        rows.append(
            [
                f"{first} × {second}",
                shown(over_seeds(pairs[pair].tolist()), "{:+.2f}"),
                f"{adjusted[pair]:.3g}",
                f"{CONTRASTS[first]}: {low} ({LEVELS[second][0]}), {high} ({LEVELS[second][1]})",
            ]
        )
    table = Table(
        "Looked at afterwards: interactions of two factors",
        ["factors", "interaction", "Holm's p", "effect of the first factor at each level of the second"],
        rows,
        f"Exploratory, 27 November 2026. At {place}. Interaction: half of the difference between the effects in the last column, in log A. p: against no "
        f"interaction, adjusted for {len(pairs)} pairs. Parentheses: 95% intervals over seeds.",
        text=True,
    )
    largest = ordered[0]
    if adjusted[largest] >= _SIGNIFICANT:
        return Part(tables=[table])
    first, second = largest
    low, high = _simple_effects(effects.loc[first], pairs[largest])
    sentence = (
        f"Looked at afterwards: the effect of the {first} depends on the {second}. {CONTRASTS[first].capitalize()} changes the active neurons by {low} with "
        f"{LEVELS[second][0]}, and by {high} with {LEVELS[second][1]}."
    )
    return Part([sentence], tables=[table])


def _simple_effects(main: pd.Series, pair: pd.Series) -> tuple[str, str]:
    """Return the effect of a factor at the low and at the high level of another one, as changes in percent."""
    seeds = [seed for seed in pair.index if not math.isnan(main[seed])]
    low, high = (change_shown(over_seeds((main[seeds] + sign * pair[seeds]).tolist())) for sign in (-1, 1))
    return low, high
