"""Every intervention on one model: which layers, which way, which share; and what each costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actratio.sites.mlps import MLP
from actratio.studies.activation.scoring import Scorer, Scores
from actratio.studies.base import Arrays
from actratio.studies.interventions import WAYS, dropping, nonpositive_means

ALL_LAYERS = -1
"""Number of a layer that stands for all of them."""

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the outputs at or below 0 that are dropped in all layers together; in single layers, all are."""

_MOST_LAYERS = 6  # that are examined by themselves


@dataclass(frozen=True)
class Intervention:
    """Attributes: the layer or ``ALL_LAYERS``, one of ``WAYS``, and the share of the outputs at or below 0."""

    layer: int
    way: str
    share: float = 1.0


def plan_interventions(layers: Sequence[int]) -> list[Intervention]:
    """Return the interventions on a model with these layers: on at most six, evenly spaced, and on all together."""
    layers = sorted(set(layers))
    count = min(len(layers), _MOST_LAYERS)
    chosen = [layers[position * (len(layers) - 1) // max(count - 1, 1)] for position in range(count)]
    whole = [Intervention(ALL_LAYERS, way, share) for share in reversed(SHARES) for way in WAYS]
    return [*whole, *(Intervention(layer, way) for layer in chosen for way in WAYS)]


def intervene(
    mlps: Sequence[MLP],
    scorer: Scorer,
    done: Arrays | None,
    after_each: Callable[[Arrays], None],
) -> Arrays:
    """Return the scores without an intervention, then with each one.

    Args:
        mlps: of the model that ``scorer`` runs.
        done: the arrays of an earlier call that was stopped, or ``None``.
        after_each: called after each intervention with the arrays so far.

    Returns:
        ``layer``, ``way`` (index in ``WAYS``, −1 without an intervention), ``share`` and ``dropped`` (share of the outputs in the
        layers concerned), each (interventions,), and each score, (interventions, documents).
    """
    plan = plan_interventions([mlp.site.layer for mlp in mlps])
    means = nonpositive_means(mlps, scorer.calibrate)
    arrays = done or _row(None, 0.0, scorer.score())
    counts: dict[str, list[Tensor]] = {}  # of the last intervention by sign
    for intervention in plan[(len(arrays["layer"]) - 1) // len(WAYS) * len(WAYS) :]:
        concerned = [mlp for mlp in mlps if intervention.layer in (ALL_LAYERS, mlp.site.layer)]
        with dropping(concerned, intervention.way, intervention.share, means=means, counts=counts) as tally:
            row = _row(intervention, 0.0, scorer.score())
        if intervention.way == "sign":
            counts = tally.counts
        if plan.index(intervention) < len(arrays["layer"]) - 1:  # known already; run again for its counts
            continue
        row["dropped"] = torch.tensor([tally.share], dtype=torch.float64)
        arrays = {name: torch.cat([array, row[name]]) for name, array in arrays.items()}
        after_each(arrays)
    return arrays


def _row(intervention: Intervention | None, dropped: float, scores: Scores) -> dict[str, Tensor]:
    way = -1 if intervention is None else WAYS.index(intervention.way)
    return {
        "layer": torch.tensor([ALL_LAYERS if intervention is None else intervention.layer]),
        "way": torch.tensor([way]),
        "share": torch.tensor([0.0 if intervention is None else intervention.share], dtype=torch.float64),
        "dropped": torch.tensor([dropped], dtype=torch.float64),
        **{name: values.unsqueeze(0) for name, values in scores.items()},
    }
