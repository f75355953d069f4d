"""What was looked at after the verdicts were known, on 27 November 2026. All of it is exploratory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from actratio.report.findings import Table
from actratio.statistics.seeds import over_seeds
from actratio.studies.activation.contrasts import SWITCHES, impacts, impacts_at_equal_loss, switches, where
from actratio.studies.activation.extracts import log_ratios, ratio_at, ratio_at_loss

if TYPE_CHECKING:
    import pandas as pd

DATE = "27 November 2026"
_UNSTABLE = 3.0  # times as large a spread over seeds as at the checkpoint before


def later_sentences(rows: pd.DataFrame) -> list[str]:
    """Return what is to be known about the last step and about the switches.

    Args:
        rows: what ``trained_rows`` returned.
    """
    said = [*_last_steps(rows), *_ways(rows)]
    return [f"Added on {DATE}, when the results were known; exploratory.", *said] if said else []


def readings_table(rows: pd.DataFrame) -> Table:
    """Return GELU's ratio against ReLU's at the last step, at the checkpoint before, and at equal training loss.

    Args:
        rows: what ``trained_rows`` returned.
    """
    at_loss = {(part, dataset): (values, target) for part, dataset, values, target in impacts_at_equal_loss(rows)}
    cells = []
    for part, dataset, _ in impacts(rows):
        arms = _arms(rows, part, dataset)
        for step in _last_two(arms):
            relu, gelu = (arms[name][arms[name]["step"] == step] for name in ("relu", "gelu"))
            values = log_ratios(ratio_at(arms["gelu"], step), ratio_at(arms["relu"], step))
            cells.append([where(part, dataset), f"step {step:,}", *_shown(relu, gelu, values)])
        if (part, dataset) in at_loss:
            values, target = at_loss[part, dataset]
            ratios = [ratio_at_loss(arms[name], target) for name in ("relu", "gelu")]
            shown = [f"{ratio.min():.1%} … {ratio.max():.1%}" for ratio in ratios]
            cells.append(
                [where(part, dataset), f"loss {target:.2g}", *shown, over_seeds(values).exp().format("{:.2f}"), ""]
            )
    return Table(
        "GELU against ReLU, by when it is read",
        ["network", "read at", "ReLU, seeds", "GELU, seeds", "GELU / ReLU", "highest training loss"],
        cells,
        f"Lowest and highest activation ratio of the seeds; the ratio of the arms with its 95% interval. Exploratory, added on {DATE}.",
    )


def _arms(rows: pd.DataFrame, part: str, dataset: str) -> dict[str, pd.DataFrame]:
    group = rows[(rows["part"] == part) & (rows["dataset"] == dataset) & ~rows["model"].isin(SWITCHES)]
    return {str(arm): own for arm, own in group.groupby("model", sort=False)}


def _last_two(arms: dict[str, pd.DataFrame]) -> list[int]:
    """Return the last step and the checkpoint before, which both arms have."""
    steps = sorted(set(arms["relu"]["step"]) & set(arms["gelu"]["step"]))
    return [int(step) for step in reversed(steps[-2:])]


def _shown(relu: pd.DataFrame, gelu: pd.DataFrame, values: np.ndarray) -> list[str]:
    ratios = [f"{own['activation_ratio'].min():.1%} … {own['activation_ratio'].max():.1%}" for own in (relu, gelu)]
    loss = max(relu["train_loss"].max(), gelu["train_loss"].max())
    return [*ratios, over_seeds(values).exp().format("{:.2f}"), f"{loss:.2g}"]


def _last_steps(rows: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence for each network whose last step is much less certain than the checkpoint before."""
    for part, dataset, values in impacts(rows):
        arms = _arms(rows, part, dataset)
        steps = _last_two(arms)
        if len(steps) < 2:
            continue
        last, before = steps
        earlier = log_ratios(ratio_at(arms["gelu"], before), ratio_at(arms["relu"], before))
        if len(earlier) < 2 or len(values) < 2 or np.std(values, ddof=1) <= _UNSTABLE * np.std(earlier, ddof=1):
            continue
        relu = ratio_at(arms["relu"], last)
        loss = arms["relu"][arms["relu"]["step"] == last]["train_loss"]
        yield (
            f"{where(part, dataset)}: the last step is an unlucky place to compare. At step {before:,}, the ratio of GELU to ReLU deviated by "
            f"{np.std(earlier, ddof=1):.0%} between seeds and was {over_seeds(earlier).exp().format('{:.2f}')}; at step {last:,}, the last one, it deviates by "
            f"{np.std(values, ddof=1):.0%}. By then the training loss is close to 0 and Adam's steps are unstable: the seeds' ratios with ReLU lie "
            f"between {relu.min():.0%} and {relu.max():.0%}, and their training losses between {loss.min():.1g} and {loss.max():.1g}."
        )


def _ways(rows: pd.DataFrame) -> Iterator[str]:
    """Yield how far each switched network moved, where the rule's band can't tell."""
    for found in switches(rows):
        if not found.arms_are_close:
            continue
        way, text = found.way, f"{found.where}, switched from {found.before} to {found.after}: "
        if math.isnan(way.low) or way.high - way.low > 1:
            yield f"{text}how far the ratio moves can't be said, because the two arms differ by {found.difference:.0%} only."
            continue
        outcome = " It neither stays nor arrives." if way.low > 0 and way.high < 1 else ""
        yield f"{text}the ratio moves {way.format('{:.0%}')} of the way to that of {found.after}.{outcome}"
