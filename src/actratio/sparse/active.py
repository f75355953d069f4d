"""How many neurons a sparse MLP has to compute: those that aren't zero, or are above their threshold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from actratio.counting.counts import SiteCounts
from actratio.counting.criteria import Thresholds, criterion_name
from actratio.counting.measurement import Measurement
from actratio.counting.measuring import measure, measure_settings
from actratio.counting.probe import TENSORS, Probe
from actratio.errors import SiteError
from actratio.sites import Site, evaluating
from actratio.sites.find import checked_call
from actratio.sites.inputs import without_cache
from actratio.sites.mlps import MLP, resolve
from actratio.sparse.masking import masked
from actratio.sparse.text import Batch, on_device

NO_ZEROS = "has no true zeros"
_WITH_ZEROS = ("relu", "threshold", "hardshrink", "softshrink")
"""Activation functions, or the first step of one, whose output is zero over a whole range."""
_ALL_ACTIVE = 0.99  # a smooth function's output rounds to zero now and then


def active_counts(measurement: Measurement, site: Site) -> SiteCounts | None:
    """Return the counts of neurons that a sparse MLP computes, or ``None`` if the measurement doesn't have them.

    These are the neurons above their thresholds, else those that aren't zero. A gated MLP's neurons are those of ``hidden`` if it
    was measured, and a ReLU's positive activations are its nonzero ones.
    """
    counts = {
        (row.tensor, criterion_name(row.criterion)): row.counts for row in measurement if row.site.name == site.name
    }
    for tensor in ("hidden", "activation") if site.gated else ("activation",):
        for criterion in (Thresholds.name, "nonzero"):
            if (tensor, criterion) in counts:
                return counts[tensor, criterion]
    if site.function.startswith("relu"):
        return counts.get(("activation", "positive"))
    return None


def measured_ratio(measurement: Measurement | None, site: Site) -> float:
    """Return the activation ratio of the neurons that a sparse MLP computes; NaN if it wasn't measured."""
    counts = None if measurement is None else active_counts(measurement, site)
    return float("nan") if counts is None else float(counts.activation_ratio)


def measured_ratios(measurement: Measurement | None, mlps: Iterable[MLP]) -> dict[str, float]:
    """Return ``measured_ratio`` of MLPs by their site's name; nothing without a measurement."""
    if measurement is None:
        return {}
    return {mlp.site.name: measured_ratio(measurement, mlp.site) for mlp in mlps}


def lacks_zeros(site: Site, ratio: float) -> bool:
    """Return whether (nearly) all of an MLP's neurons are active, as with GELU or SiLU.

    Args:
        ratio: measured ratio of neurons that aren't zero; NaN if it wasn't measured.
    """
    return (ratio != ratio or ratio > _ALL_ACTIVE) and not site.function.startswith(_WITH_ZEROS)


def nonzero_ratio(measurement: Measurement) -> float:
    """Return the share of all neuron outputs that a sparse model computes; NaN if no token was counted."""
    counts = [active_counts(measurement, site) for site in {row.site.name: row.site for row in measurement}.values()]
    known = [item for item in counts if item is not None]
    outputs = sum(item.tokens * len(item.active) for item in known)
    return sum(int(item.active.sum()) for item in known) / outputs if outputs else math.nan


def measured_mlps(
    model: nn.Module, measurement: Measurement | None, mlps: Sequence[MLP] | None = None
) -> Sequence[MLP]:
    """Return the MLPs that a measurement counts; without a measurement, all MLPs.

    Args:
        mlps: the model's MLPs if they were resolved before.
    """
    if mlps is None:
        with evaluating(model):  # dropout would hide what a gated MLP computes
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
    mlps: Sequence[MLP] | None = None,
    counts_alone: bool = False,
    name: str | None = None,
) -> Measurement:
    """Measure which neurons a sparse model computes: those above their thresholds, or without thresholds those that aren't zero.

    Thresholds act meanwhile, so that a layer reads what the layers before it leave.

    Args:
        model: the dense model.
        batches: mappings with ``input_ids``; padding is what the attention mask says.
        thresholds: (width,) by site's name.
        mlps: the model's MLPs as ``resolve`` returns them; by default they are resolved here.
        counts_alone: as for ``measure``.
        name: of the model, for the measurement.

    Raises:
        SiteError: no batches, or as for ``measure``.
    """
    if thresholds is None:
        return measure(model, batches, criteria=["nonzero"], counts_alone=counts_alone, name=name)
    chosen = [mlp for mlp in measured_mlps(model, None, mlps) if mlp.site.name in thresholds]
    criterion = Thresholds(thresholds)
    probe = Probe(model, [mlp.site for mlp in chosen], criteria=[criterion], counts_alone=counts_alone)
    with evaluating(model), torch.no_grad(), masked(chosen, thresholds), probe:
        for number, batch in enumerate(batches, 1):
            checked_call(model, without_cache(model, on_device(model, batch)), f"batch {number}")
    if not probe.passes:
        raise SiteError("there are no batches to measure; give at least one")
    settings = measure_settings([mlp.site.name for mlp in chosen], TENSORS, [criterion], counts_alone)
    measurement = Measurement.of(probe, name or getattr(model, "name_or_path", "") or type(model).__name__, settings)
    # What enters the down projection: in a gated MLP the hidden tensor, else the activation itself.
    entering = [row for row in measurement if row.tensor == ("hidden" if row.site.gated else "activation")]
    return replace(measurement, rows=entering)
