"""Decide what ``sparsify`` does to each MLP, and why, without doing it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actratio.errors import SiteError, pip_install
from actratio.fast import broken_packages
from actratio.sites import Site
from actratio.sites.experts import StackedExperts
from actratio.sites.linear import rows_of
from actratio.sites.mlps import MLP
from actratio.sparse.active import NO_ZEROS, lacks_zeros
from actratio.sparse.crossover import ALWAYS, NEVER, Crossover
from actratio.sparse.kernels import dispatch
from actratio.sparse.kernels.product import Weights


@dataclass(frozen=True)
class Plan:
    """What ``sparsify`` does to one MLP.

    Attributes:
        site: where the MLP's activation is computed.
        kind: ``gated`` if inactive neurons are skipped in the up and the down projection, ``down`` if they are skipped in the
            down projection only, ``dense`` if nothing is skipped.
        ratio: measured ratio of the neurons that the sparse products compute; NaN if it wasn't measured.
        why: the reason, in words.
        crossover: the ratio above which the dense product is used, for each batch size.
    """

    site: Site
    kind: str
    ratio: float
    why: str
    crossover: Crossover = NEVER


def plan(
    mlps: Sequence[MLP], ratios: Mapping[str, float] | None = None, thresholds: Mapping[str, Tensor] | None = None
) -> list[Plan]:
    """Return what ``sparsify`` does to each MLP, in their order.

    Args:
        mlps: as ``resolve`` returns them.
        ratios: of the neurons that the sparse products compute, by site's name; sites that weren't measured may be missing or NaN.
        thresholds: (width,) by site's name, as for ``sparsify``.

    Raises:
        SiteError: thresholds of a site that isn't there or can't have them, of another shape, or NaN.
    """
    limits = thresholds or {}
    unknown = sorted(set(limits) - {mlp.site.name for mlp in mlps})
    if unknown:
        raise SiteError(f"the model has no site {unknown[0]!r}; name the sites of thresholds as find_sites does")
    known = ratios or {}
    return [_plan(mlp, mlps, known.get(mlp.site.name, math.nan), limits.get(mlp.site.name)) for mlp in mlps]


def kernel_unsupported_reason(layer: object) -> str | None:
    """Return why no kernel multiplies by a linear layer's weight, or ``None`` if one does."""
    rows = rows_of(layer)
    # What decides is type, device and number of features, so one row of them is enough to ask.
    one_row = torch.empty(1, rows.shape[1], dtype=rows.dtype, device=rows.device)
    if dispatch.has_kernel(one_row):
        return None
    return f"there is no kernel for {rows.dtype} on {rows.device.type}{_hint(rows.device.type)}"


def int8_unsupported_reason(device: torch.device) -> str | None:
    """Return why no kernel multiplies by int8 weights on a device, or ``None`` if one does."""
    one = torch.ones(1, 1, dtype=torch.int8, device=device)
    if dispatch.prepare_dense(Weights(one, scales=one[0].float(), dtype=torch.float32)) is not None:
        return None
    return f"there is no kernel for int8 weights on {device.type}{_hint(device.type)}"


def _hint(device_type: str) -> str:
    """Return what is missing or broken on this machine, to end a reason with."""
    package, broken = dispatch.missing_package(device_type), broken_packages()
    if broken:
        return f": {broken[0]}"
    return "" if package is None else f", and {package} is not installed; run {pip_install('fast')}"


def thresholds_unsupported_reason(mlp: MLP, mlps: Sequence[MLP]) -> str | None:
    """Return why an MLP can't have thresholds, or ``None`` if it can.

    Args:
        mlps: all MLPs of the model.
    """
    unsupported = mlp.unsupported_reason or kernel_unsupported_reason(mlp.down)
    if unsupported is None and sum(other.down is mlp.down for other in mlps) > 1:
        return "another MLP has the same down projection, and thresholds would apply to both"
    return unsupported


def _experts_unsupported_reason(stacked: StackedExperts) -> str | None:
    device = stacked.down.device.type
    if device == "cpu":
        return None
    # Reading there which experts are needed takes longer than most products.
    return f"experts that share one weight skip neurons on CPUs only, and the model is on {device}"


def _plan(mlp: MLP, mlps: Sequence[MLP], ratio: float, thresholds: Tensor | None) -> Plan:
    site = mlp.site
    if thresholds is not None:
        unsupported = thresholds_unsupported_reason(mlp, mlps)
        if unsupported:
            raise SiteError(
                f"{site.name} cannot have thresholds: {unsupported}; use another dtype, device or model, or omit its thresholds"
            )
        if thresholds.shape != (site.width,):
            raise SiteError(
                f"{site.name} has {site.width} neurons, and thresholds of the shape {tuple(thresholds.shape)}; give one for each neuron"
            )
        if bool(thresholds.isnan().any()):
            raise SiteError(f"{site.name} has thresholds that are not numbers; replace NaN")
        return Plan(site, "down", ratio, "neurons at or below their threshold are skipped", ALWAYS)
    down, up = mlp.skipped
    unsupported = _experts_unsupported_reason(mlp.stacked) if mlp.stacked is not None else mlp.unsupported_reason
    unsupported = unsupported or kernel_unsupported_reason(down)
    if unsupported:
        return Plan(site, "dense", math.nan, unsupported)
    if lacks_zeros(site, ratio):
        why = f"{site.function} {NO_ZEROS}"
        if mlp.stacked is not None:
            why += ", and experts that share one weight cannot have thresholds"
        return Plan(site, "dense", ratio, why)
    if up is not None:
        why = "neurons whose gate is zero are skipped in the up and the down projection"
        return Plan(site, "gated", ratio, why, ALWAYS)
    return Plan(site, "down", ratio, "neurons that are zero are skipped in the down projection", ALWAYS)
