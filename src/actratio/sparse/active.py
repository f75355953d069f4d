"""How many neurons a sparse MLP has to compute: those that aren't zero, or are above their threshold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from actratio.counting.counts import SiteCounts
from actratio.counting.criteria import Nonzero
from actratio.counting.kernels import count
from actratio.counting.measurement import Measurement, Row
from actratio.counting.measuring import measure
from actratio.sites import Site
from actratio.sites.mlps import MLP, resolve
from actratio.sparse.masking import hidden_hooks
from actratio.sparse.text import Batch, forward, token_mask

THRESHOLDS = "thresholds"
"""The criterion of neurons above a threshold of their own, as a measurement's rows name it."""


def active_counts(measurement: Measurement, site: Site) -> SiteCounts | None:
    """Return the counts of neurons that a sparse MLP computes, or ``None`` if the measurement doesn't have them.

    These are the neurons above their thresholds, else those that aren't zero. A gated MLP's neurons are those of ``hidden`` if it
    was measured, and a ReLU's positive activations are its nonzero ones.
    """
    counts = {(row.tensor, row.criterion): row.counts for row in measurement if row.site.name == site.name}
    for tensor in ("hidden", "activation") if site.gated else ("activation",):
        for criterion in (THRESHOLDS, "nonzero"):
            if (tensor, criterion) in counts:
                return counts[tensor, criterion]
    if site.function.startswith("relu"):
        return counts.get(("activation", "positive"))
    return None


def measured_mlps(
    model: nn.Module, measurement: Measurement | None, mlps: Sequence[MLP] | None = None
) -> Sequence[MLP]:
    """Return the MLPs that a measurement counts; without a measurement, all MLPs.

    Args:
        mlps: the model's MLPs if they were resolved before.
    """
    if mlps is None:
        return resolve(model, None if measurement is None else [row.site for row in measurement])
    if measurement is None:
        return mlps
    measured = {row.site.name for row in measurement}
    return [mlp for mlp in mlps if mlp.site.name in measured]


def measure_active(
    model: nn.Module,
    batches: Iterable[Batch],
    thresholds: Mapping[str, Tensor] | None = None,
    *,
    name: str | None = None,
    mlps: Sequence[MLP] | None = None,
) -> Measurement:
    """Measure which neurons a sparse model computes: those above their thresholds, or without thresholds those that aren't zero.

    Args:
        model: the dense model.
        batches: as for ``measure``; padding is what the attention mask says.
        thresholds: (width,) by site's name.
        name: of the model, for the measurement.
        mlps: the model's MLPs if they were resolved before.
    """
    if thresholds is None:
        return measure(model, batches, criteria=["nonzero"], name=name)
    chosen = [mlp for mlp in (resolve(model) if mlps is None else mlps) if mlp.site.name in thresholds]
    counts: dict[str, SiteCounts] = {}
    masks: list[Tensor] = []

    def add(mlp: MLP, hidden: Tensor) -> None:
        site, mask = mlp.site.name, masks[-1]
        above = ~(hidden.abs() <= thresholds[site].to(hidden.device)).flatten(0, -2)[mask.flatten().to(hidden.device)]
        new = count(above, Nonzero(), mask.sum(-1).tolist())[0]
        counts[site] = counts[site].merge(new) if site in counts else new

    with hidden_hooks(chosen, add), torch.no_grad():
        for batch in batches:
            masks.append(token_mask(batch))
            forward(model, batch)
    rows = [
        Row(mlp.site, "hidden" if mlp.site.gated else "activation", THRESHOLDS, counts[mlp.site.name]) for mlp in chosen
    ]
    return Measurement(name or type(model).__name__, rows, {}, {}, {})
