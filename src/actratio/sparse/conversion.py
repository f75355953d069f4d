"""Putting the sparse products into a model, and taking them out again."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from actratio.counting.measurement import Measurement
from actratio.errors import SiteError
from actratio.sparse.autotune import Contest, contest_of, measure_crossover
from actratio.sparse.crossover import Crossover
from actratio.sparse.layers import is_linear, rows_of
from actratio.sparse.modules import Sparse, install_down, install_gated
from actratio.sparse.planning import Plan, down_of, hindrance, overlapping, parts_of, plan

_PLANS = "_actratio_plans"


@torch.inference_mode(False)  # or weights that are laid out anew could never be trained
def sparsify(
    model: nn.Module,
    measurement: Measurement | None = None,
    *,
    thresholds: Mapping[str, Tensor] | None = None,
    crossover: Crossover | None = None,
    also: Mapping[str, float] | None = None,
) -> nn.Module:
    """Let a model skip the neurons whose activations are zero; its outputs are the same up to the order of summation.

    The model itself is changed and returned: same parameters, same ``state_dict``, same ``generate``. In training, and
    wherever gradients are wanted, it computes as before. ``densify`` undoes it, ``plans`` says what became of each MLP.

    Args:
        measurement: of this model: its sites, and how many neurons fire. Without, sites are found, and every one whose
            function has true zeros is taken.
        thresholds: (width,) for a site's name: neurons whose |h| is at or below are taken for zero, everywhere. They stay
            float32, whatever the model is converted to.
        crossover: from which ratio on the dense product is taken; by default measured here, which takes some seconds.
            An MLP is left dense where it is never faster, or slower for some batch at the ratio that was measured.
        also: other linear layers that read many zeros, such as the first one of a classifier of images: their names, and which
            share of what they read is not zero.

    Raises:
        SiteError: the model has no MLP, no such layer, or the measurement is of another model; it is then dense.
    """
    densify(model)
    found = plan(model, measurement, thresholds)
    modules = dict(model.named_modules())
    shared = overlapping(model)
    others = {name: _other(modules, name, shared) for name in also or ()}
    if crossover is None:
        found = _measured(modules, found, thresholds or {})
        crossovers = {
            name: measure_crossover(Contest(layer, None, False, 1), rows_of(layer).shape[0], (also or {})[name])
            for name, layer in others.items()
        }
    else:
        found = [each if each.kind == "dense" else replace(each, crossover=crossover) for each in found]
        crossovers = dict.fromkeys(others, crossover)
    for each in found:
        if each.kind != "dense":
            _install(modules, each, (thresholds or {}).get(each.site.name))
        modules[each.site.owner].__dict__.setdefault(_PLANS, []).append(each)
    for name, layer in others.items():
        if any(crossovers[name].ratios):
            install_down(layer, None, crossovers[name])
    return model


@torch.inference_mode(False)
def densify(model: nn.Module) -> nn.Module:
    """Undo ``sparsify``: every module has its class and its layout in memory again."""
    for module in model.modules():
        module.__dict__.pop(_PLANS, None)
        if isinstance(module, Sparse):
            module._leave()
    return model


def plans(model: nn.Module) -> list[Plan]:
    """What ``sparsify`` made of each MLP of a model, in the order of execution; empty if nothing."""
    found = [each for module in model.modules() for each in module.__dict__.get(_PLANS, ())]
    return sorted(found, key=lambda each: each.site.layer)


def _install(modules: Mapping[str, nn.Module], each: Plan, thresholds: Tensor | None) -> None:
    parts = parts_of(modules, each.site) if each.kind == "gated" else None
    install_down(down_of(modules, each.site), thresholds, each.crossover)
    if parts is not None and not isinstance(modules[each.site.owner], Sparse):
        install_gated(modules[each.site.owner], parts, each.crossover)


def _other(modules: Mapping[str, nn.Module], name: str, shared: set[int]) -> nn.Module:
    layer = modules.get(name)
    if layer is None or not is_linear(layer) or hindrance(layer, shared):
        raise SiteError(f"{name} is no linear layer that can skip zeros of its input")
    return layer


def _measured(modules: Mapping[str, nn.Module], found: list[Plan], thresholds: Mapping[str, Tensor]) -> list[Plan]:
    """The plans with their crossovers, measured once for all layers of a shape; MLPs that no batch makes faster stay dense."""
    alike: dict[Any, list[Plan]] = defaultdict(list)
    for each in found:
        if each.kind != "dense":
            down = down_of(modules, each.site)
            key = each.kind, type(down), down.weight.shape, down.weight.dtype, down.weight.device, down.bias is None
            alike[(*key, each.site.name in thresholds)].append(each)
    measured: dict[str, Crossover] = {}
    for (*_, cut), group in alike.items():
        contest = contest_of(modules, group[0], cut, len(group))
        # What a measurement does not say may be all.
        ratio = max(1.0 if math.isnan(each.ratio) else each.ratio for each in group)
        crossover = measure_crossover(contest, group[0].site.width, ratio)
        measured.update((each.site.name, crossover) for each in group)
    return [
        each if each.kind == "dense" else _decided(each, measured[each.site.name], each.site.name in thresholds)
        for each in found
    ]


def _decided(each: Plan, crossover: Crossover, cut: bool) -> Plan:
    """Dense where no batch is faster; thresholds stay, for they are what the model computes."""
    if any(crossover.ratios) or cut:
        return replace(each, crossover=crossover)
    return replace(each, kind="dense", why="its dense products are faster here, with any batch", crossover=crossover)
