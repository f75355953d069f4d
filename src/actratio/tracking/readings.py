"""What the tracker reads at one step, and the tables and logger values made of readings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actratio.sites import Site

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "step", "model", "site", "role", "layer", "width", "activation", "tensor", "criterion", "tokens", "active_mean",
    "activation_ratio", "dead", "always_on", "died", "revived", "drift", "living_trend",
)  # fmt: skip
"""Columns of ``Tracker.to_frame()``, in order."""

_OF_SITES = ("site", "role", "layer", "activation", "active_mean")

_TREND_READINGS = 10
_STEPS_OF_TREND = 1000


@dataclass(frozen=True, slots=True)
class SiteReading:
    """What was counted at one site in one step.

    Attributes:
        step: the step, from 1.
        site: the site's name.
        width: number of neurons.
        tokens: tokens (or examples) counted.
        active: Σ over the tokens of their active neurons.
        dead, always_on: neurons active on none, and on at least 99%, of the tokens.
        died: neurons that are dead now and were not at the reading before; ``None`` at the first reading.
        revived: neurons that were dead at the reading before and are not now.
        changed: neurons whose state (dead, always-on or neither) is not that of the reading before.
    """

    step: int
    site: str
    width: int
    tokens: int
    active: int
    dead: int
    always_on: int
    died: int | None
    revived: int | None
    changed: int | None

    @property
    def ratio(self) -> float:
        """Active neurons / neurons over the tokens counted; NaN if none was counted."""
        return self.active / (self.tokens * self.width) if self.tokens else float("nan")


def readings_frame(
    readings: Sequence[SiteReading], sites: Mapping[str, Site], model: str, tensor: str, criterion: str
) -> pd.DataFrame:
    """Return the tidy table: one row for each step and site, with the columns of ``COLUMNS``."""
    import pandas as pd

    trends = _living_trends(readings)
    rows = [
        {
            "step": item.step,
            "model": model,
            "site": item.site,
            "role": sites[item.site].role,
            "layer": sites[item.site].layer,
            "width": item.width,
            "activation": sites[item.site].function,
            "tensor": tensor,
            "criterion": criterion,
            "tokens": item.tokens,
            "active_mean": item.active / item.tokens if item.tokens else float("nan"),
            "activation_ratio": item.ratio,
            "dead": item.dead,
            "always_on": item.always_on,
            "died": item.died,
            "revived": item.revived,
            "drift": None if item.changed is None else item.changed / item.width,
            "living_trend": trend,
        }
        for item, trend in zip(readings, trends, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"died": "Int64", "revived": "Int64", "drift": float, "living_trend": float})


def model_frame(readings: Sequence[SiteReading], model: str, tensor: str, criterion: str) -> pd.DataFrame:
    """Return the readings of the whole model: one row for each step, all sites together.

    The ratio is weighted by neurons and tokens. Numbers of neurons are sums over the sites, and drift and trend are shares of
    all neurons.
    """
    import pandas as pd

    by_step: dict[int, list[SiteReading]] = {}
    for item in readings:
        by_step.setdefault(item.step, []).append(item)
    whole = [
        SiteReading(
            step,
            "",
            sum(item.width for item in items),
            max(item.tokens for item in items),
            sum(item.active for item in items),
            sum(item.dead for item in items),
            sum(item.always_on for item in items),
            *(_sum_of([getattr(item, name) for item in items]) for name in ("died", "revived", "changed")),
        )
        for step, items in by_step.items()
    ]
    rows = [
        {
            "step": item.step,
            "model": model,
            "width": item.width,
            "tensor": tensor,
            "criterion": criterion,
            "tokens": item.tokens,
            "activation_ratio": scalars(by_step[item.step]).get("actratio/ratio", float("nan")),
            "dead": item.dead,
            "always_on": item.always_on,
            "died": item.died,
            "revived": item.revived,
            "drift": None if item.changed is None else item.changed / item.width,
            "living_trend": trend,
        }
        for item, trend in zip(whole, _living_trends(whole), strict=True)
    ]
    frame = pd.DataFrame(rows, columns=[name for name in COLUMNS if name not in _OF_SITES])
    return frame.astype({"died": "Int64", "revived": "Int64", "drift": float, "living_trend": float})


def _sum_of(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _living_trends(readings: Sequence[SiteReading]) -> list[float]:
    """Return, for each reading, the change of the share of living neurons per 1,000 steps.

    It is the median of the slopes between all pairs of the site's last ten readings (Theil, 1950; Sen, 1968), which
    one odd reading doesn't change much; NaN at a site's first reading.
    """
    points: dict[str, list[tuple[int, float]]] = {}
    trends = []
    for item in readings:
        known = points.setdefault(item.site, [])
        if item.tokens:
            known.append((item.step, 1 - item.dead / item.width))
        last = known[-_TREND_READINGS:]
        if len(last) < 2:
            trends.append(float("nan"))
            continue
        steps, living = np.array(last).T
        first, second = np.triu_indices(len(last), 1)
        slopes = (living[second] - living[first]) / (steps[second] - steps[first])
        trends.append(float(np.median(slopes)) * _STEPS_OF_TREND)
    return trends


def scalars(readings: Sequence[SiteReading]) -> dict[str, float]:
    """Return the values of one step for a logger, by key.

    The keys are ``actratio/<site>/ratio``, ``…/dead`` and ``…/always_on`` for each site that saw tokens, and
    ``actratio/ratio``, ``actratio/dead`` and ``actratio/always_on`` for all sites together. Ratios are weighted by
    neurons and tokens; the others are numbers of neurons.
    """
    seen = [item for item in readings if item.tokens]
    values: dict[str, float] = {}
    if not seen:  # no token of the step has a label
        return values
    for item in seen:
        values[f"actratio/{item.site}/ratio"] = item.ratio
        values[f"actratio/{item.site}/dead"] = item.dead
        values[f"actratio/{item.site}/always_on"] = item.always_on
    values["actratio/ratio"] = sum(item.active for item in seen) / sum(item.tokens * item.width for item in seen)
    values["actratio/dead"] = sum(item.dead for item in seen)
    values["actratio/always_on"] = sum(item.always_on for item in seen)
    return values
