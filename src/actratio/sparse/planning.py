"""What would become of each MLP of a model, and why: the choice, without doing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actratio.counting.counts import SiteCounts
from actratio.counting.measurement import Measurement
from actratio.errors import SiteError
from actratio.sites import MEASURED, Site, trace
from actratio.sparse.crossover import ALWAYS, NEVER, Crossover
from actratio.sparse.kernels import dispatch as products
from actratio.sparse.layers import is_linear, neuron_major, rows_of

_ZEROS = ("relu", "threshold", "hardshrink", "softshrink")
"""Activation functions, or the first step of one, whose outputs are zero over a whole range."""


NO_ZEROS = "has no true zeros"
_ALL = 0.99  # outputs of a smooth function round to zero now and then


@dataclass(frozen=True)
class Plan:
    """What becomes of one MLP.

    Attributes:
        site: where it is.
        kind: ``gated`` where inactive neurons are skipped in the up and the down projection, ``down`` where they are in the
            down projection alone, ``dense`` where nothing is.
        ratio: of neurons that the sparse products compute, as measured; NaN where it was not.
        why: in words.
        crossover: from which ratio on the dense product is taken.
    """

    site: Site
    kind: str
    ratio: float
    why: str
    crossover: Crossover = NEVER


def plan(
    model: nn.Module, measurement: Measurement | None = None, thresholds: Mapping[str, Tensor] | None = None
) -> list[Plan]:
    """What ``sparsify`` would make of each MLP, without doing it.

    Raises:
        SiteError: as for ``sparsify``.
    """
    sites = trace(model) if measurement is None else [row.site for row in measurement]
    sites = list(dict.fromkeys(site for site in sites if site.role in MEASURED))
    if not sites:
        raise SiteError(f"{type(model).__name__} has no MLP to make sparse")
    unknown = set(thresholds or ()) - {site.name for site in sites}
    if unknown:
        raise SiteError(f"there is no site {sorted(unknown)[0]!r} to give a threshold to")
    modules = dict(model.named_modules())
    missing = [site.name for site in sites if site.owner not in modules]
    if missing:
        raise SiteError(f"the model has no site {missing[0]}; give a measurement of this model")
    shared = overlapping(model)
    return [_plan(modules, site, measurement, (thresholds or {}).get(site.name), shared, sites) for site in sites]


def _plan(
    modules: Mapping[str, nn.Module],
    site: Site,
    measurement: Measurement | None,
    thresholds: Tensor | None,
    shared: set[int],
    sites: Sequence[Site],
) -> Plan:
    down = down_of(modules, site)
    if site.expert is not None:
        return Plan(site, "dense", float("nan"), "experts that share one weight are left as they are")
    if down is None or not is_linear(down) or rows_of(down).shape[0] != site.width:
        return Plan(site, "dense", float("nan"), "its down projection is no linear layer")
    hindered = hindrance(down, shared)
    if hindered:
        return Plan(site, "dense", float("nan"), hindered)
    ratio = float("nan") if measurement is None else _ratio(measurement, site)
    if thresholds is not None and thresholds.shape != (site.width,):
        raise SiteError(f"{site.name} has {site.width} neurons, and thresholds of the shape {tuple(thresholds.shape)}")
    if thresholds is not None and bool(thresholds.isnan().any()):
        raise SiteError(f"{site.name} has thresholds that are not numbers")
    if thresholds is not None and sum(down_of(modules, other) is down for other in sites) > 1:
        return Plan(site, "dense", ratio, "its down projection is another MLP's too, which has thresholds of its own")
    if thresholds is not None:
        return Plan(site, "down", ratio, "neurons below their threshold are skipped", ALWAYS)
    if (ratio != ratio or ratio > _ALL) and not site.function.startswith(_ZEROS):
        return Plan(site, "dense", ratio, f"{site.function} {NO_ZEROS}")
    if site.gated and parts_of(modules, site) is not None:
        return Plan(
            site, "gated", ratio, "neurons whose gate is zero are skipped in the up and the down projection", ALWAYS
        )
    return Plan(site, "down", ratio, "neurons that are zero are skipped in the down projection", ALWAYS)


def down_of(modules: Mapping[str, nn.Module], site: Site) -> Any:
    """The module of an MLP's down projection, or ``None``."""
    return modules.get(site.down.rpartition(".")[0]) if site.down else None


def hindrance(layer: nn.Module, shared: set[int]) -> str | None:
    """Why a linear layer cannot skip inputs that are zero, or ``None``.

    Args:
        shared: what ``overlapping`` found.
    """
    weight: Any = layer._parameters.get("weight")
    if weight is None or id(weight) in shared or weight.is_shared():
        return "its weights are computed, or lie in memory that others use"
    if not products.has_kernel(neuron_major(rows_of(layer)[:2])):
        return f"there is no kernel for {weight.dtype} on {weight.device.type}"
    return None


def overlapping(model: nn.Module) -> set[int]:
    """The identities of parameters that lie, at least partly, in another one's memory."""
    found: set[int] = set()
    reached, last = 0, 0
    for each in sorted(model.parameters(), key=lambda each: each.data_ptr()):
        if each.data_ptr() and each.data_ptr() < reached:
            found |= {id(each), last}
        if each.data_ptr() + each.nbytes > reached:
            reached, last = each.data_ptr() + each.nbytes, id(each)
    return found


def counts_of_nonzero(measurement: Measurement, site: Site) -> SiteCounts | None:
    """Counts of neurons that are not zero, as far as the measurement says."""
    known = {(row.tensor, row.criterion): row.counts for row in measurement if row.site.name == site.name}
    tensors = ("hidden", "activation") if site.gated else ("activation",)
    for tensor in tensors:
        if (tensor, "nonzero") in known:
            return known[tensor, "nonzero"]
    if ("activation", "positive") in known and site.function.startswith("relu"):
        return known["activation", "positive"]
    return None


def _ratio(measurement: Measurement, site: Site) -> float:
    counts = counts_of_nonzero(measurement, site)
    return float("nan") if counts is None else float(counts.activation_ratio)


def parts_of(modules: Mapping[str, nn.Module], site: Site) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module] | None:
    """Gate, activation, up and down projection of an MLP that computes ``down(act(gate(x)) * up(x))`` and nothing else."""
    owner, gate = modules[site.owner], modules.get(site.up.rpartition(".")[0])
    act, down = modules.get(site.module or ""), down_of(modules, site)
    ups = [
        each
        for each in owner.children()
        if type(each) is nn.Linear and each is not gate and each is not down and each.out_features == site.width
    ]
    if type(gate) is not nn.Linear or gate.out_features != site.width or act is None or down is None or len(ups) != 1:
        return None
    some = torch.randn(3, gate.in_features, generator=torch.Generator().manual_seed(0))
    x = some.to(gate.weight.device, gate.weight.dtype)
    try:
        with torch.no_grad():
            theirs, ours = owner(x), down(act(gate(x)) * ups[0](x))
    except Exception:  # a forward pass that wants more than one input
        return None
    return (gate, act, ups[0], down) if isinstance(theirs, Tensor) and torch.equal(theirs, ours) else None
