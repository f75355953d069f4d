"""Put the sparse products into a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from actratio.counting.measurement import Measurement
from actratio.errors import SiteError
from actratio.sites.linear import is_linear
from actratio.sites.mlps import MLP, weight_unsupported_reason
from actratio.sparse.active import measured_mlps
from actratio.sparse.autotune import LayerTimer, layer_timer, shape_speeds
from actratio.sparse.converted import PLANS, Sparse, densify
from actratio.sparse.crossover import BATCHES, NEVER, SLOWER, Crossover, ShapeSpeeds
from actratio.sparse.modules import install_down, install_gated
from actratio.sparse.planning import Plan, kernel_unsupported_reason, plan
from actratio.sparse.thresholds import Calibration


@torch.inference_mode(False)  # otherwise weights that are stored in another order could never be trained
def sparsify(
    model: nn.Module,
    measurement: Measurement | Calibration | None = None,
    *,
    thresholds: Mapping[str, Tensor] | None = None,
    crossover: Crossover | None = None,
    also: Mapping[str, float] | None = None,
    mlps: Sequence[MLP] | None = None,
) -> nn.Module:
    """Let a model skip inactive neurons. Without thresholds its outputs stay the same up to the order of summation.

    The model itself is changed and returned: same parameters, same ``state_dict``, same ``generate``. In training, and
    whenever gradients are needed, it computes the dense products. ``densify`` undoes it; ``plans`` tells what was done to each MLP.

    Args:
        measurement: of this model: its sites and how many neurons are active. A calibration brings its thresholds with it.
            By default the sites are found here, and every MLP whose activation function has true zeros is converted.
        thresholds: (width,) by site's name: neurons with ``|h|`` at or below their threshold count as zero, on every path. They
            stay float32 when the model is converted to another dtype.
        crossover: the ratio above which the dense product is used; by default it is measured here, which takes some seconds for each
            new shape, and kept in the user's cache folder (``ACTRATIO_CACHE``) for later processes. It is one for each batch size, and applied at
            every call. An MLP stays dense if the sparse product gains nothing for a single sequence, and loses for others.
        also: other linear layers that read many zeros, such as the first layer of an image classifier: their names, and the
            share of their inputs that isn't zero.
        mlps: the model's MLPs as ``resolve`` returns them; by default they are resolved here.

    Returns:
        ``model``.

    Raises:
        SiteError: the model has no MLP or no such layer, the measurement is of another model, or an MLP can't have its thresholds,
            such as in a dtype that no kernel supports; the model is then dense.
    """
    densify(model)
    handles, counts, limits = planning_inputs(model, measurement, thresholds, mlps)
    planned = plan(handles, counts, limits)
    others = {name: _other_layer(model, name) for name in also or ()}
    if crossover is None:
        planned = _autotuned(handles, planned, limits)
        crossovers = {}
        for name, layer in others.items():
            speeds, ratio = shape_speeds(LayerTimer(layer, None, False, 1)), (also or {})[name]
            crossovers[name] = speeds.crossover(ratio) if speeds.pays_off(ratio) else NEVER
    else:
        planned = [item if item.kind == "dense" else replace(item, crossover=crossover) for item in planned]
        crossovers = dict.fromkeys(others, crossover)
    owners = dict(model.named_modules())
    for mlp, item in zip(handles, planned, strict=True):
        owner = owners[mlp.site.owner]
        if item.kind != "dense":
            install_down(mlp.down, limits.get(mlp.site.name), item.crossover)
        if item.kind == "gated" and not isinstance(owner, Sparse):
            install_gated(owner, (mlp.gate, mlp.activation, mlp.up, mlp.down), item.crossover)
        owner.__dict__.setdefault(PLANS, []).append(item)
    for name, layer in others.items():
        if any(crossovers[name].ratios):
            install_down(layer, None, crossovers[name])
    return model


def plans(model: nn.Module) -> list[Plan]:
    """Return what ``sparsify`` did to each MLP of a model, in the order of execution; nothing if the model is dense."""
    planned = [item for module in model.modules() for item in module.__dict__.get(PLANS, ())]
    return sorted(planned, key=lambda item: item.site.layer)


def planning_inputs(
    model: nn.Module,
    measurement: Measurement | Calibration | None,
    thresholds: Mapping[str, Tensor] | None,
    mlps: Sequence[MLP] | None,
) -> tuple[Sequence[MLP], Measurement | None, Mapping[str, Tensor]]:
    """Return the MLPs to plan for, their measurement, and their thresholds by neuron.

    Raises:
        SiteError: a calibration and other thresholds.
    """
    if not isinstance(measurement, Calibration):
        return measured_mlps(model, measurement, mlps), measurement, thresholds or {}
    if thresholds is not None:
        raise SiteError("a calibration has thresholds already; omit thresholds=, or give the calibration's measurement")
    handles = measured_mlps(model, measurement.measurement, mlps)
    return handles, measurement.measurement, measurement.by_neuron(handles)


def _other_layer(model: nn.Module, name: str) -> nn.Module:
    layer: nn.Module | None = dict(model.named_modules()).get(name)
    if layer is None or not is_linear(layer):
        raise SiteError(f"{name} is not a linear layer of the model; name one in also=")
    unsupported = weight_unsupported_reason(model, layer) or kernel_unsupported_reason(layer)
    if unsupported:
        raise SiteError(f"{name} cannot skip zeros of its input: {unsupported}; omit it from also=")
    return layer


def _autotuned(mlps: Sequence[MLP], planned: Sequence[Plan], limits: Mapping[str, Tensor]) -> list[Plan]:
    """Return the plans with their crossovers, measured once for all layers of a shape.

    An MLP for which skipping doesn't pay off stays dense, unless it has thresholds: those decide what the model computes.
    """
    alike: dict[Any, list[tuple[MLP, Plan]]] = defaultdict(list)
    for mlp, item in zip(mlps, planned, strict=True):
        if item.kind != "dense":
            down = mlp.down
            shape = type(down), down.weight.shape, down.weight.dtype, down.weight.device, down.bias is None
            alike[(item.kind, *shape, mlp.site.name in limits)].append((mlp, item))
    decided: dict[str, Plan] = {}
    for (*_, has_thresholds), group in alike.items():
        speeds = shape_speeds(layer_timer(*group[0], has_thresholds, len(group)))
        decided.update((item.site.name, _decided(item, speeds, has_thresholds)) for _, item in group)
    return [decided.get(item.site.name, item) for item in planned]


def _decided(item: Plan, speeds: ShapeSpeeds, has_thresholds: bool) -> Plan:
    crossover = speeds.crossover(item.ratio)
    if not has_thresholds and not speeds.pays_off(item.ratio):
        why = "the dense product is faster on this machine, or hardly slower"
        return replace(item, kind="dense", why=why, crossover=crossover)
    slower = [
        f"{batch} ({gain:.2f}×)" for batch, gain in zip(BATCHES, speeds.gains(item.ratio), strict=True) if gain < SLOWER
    ]
    why = f"{item.why}; slower than dense for batches of {', '.join(slower)}" if slower else item.why
    return replace(item, why=why, crossover=crossover)
