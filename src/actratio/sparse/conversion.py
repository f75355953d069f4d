"""Put the sparse products into a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from actratio.counting.measurement import Measurement
from actratio.errors import SiteError
from actratio.sites.inputs import device_of
from actratio.sites.linear import is_linear
from actratio.sites.mlps import MLP, overlapping_parameters, weight_unsupported_reason
from actratio.sparse.active import measured_mlps, measured_ratios
from actratio.sparse.autotune import LayerTimer, layer_timer, linear_timer, shape_speeds
from actratio.sparse.converted import PLANS, Converted, densify, mark_weights
from actratio.sparse.crossover import BATCHES, NEVER, SLOWER, Crossover, ShapeSpeeds
from actratio.sparse.exempt import bypassed_layers, exempt_layers, rounded_mlps
from actratio.sparse.experts import install_planned_experts
from actratio.sparse.int8 import install_int8, share_int8
from actratio.sparse.layers import move_to_large_pages
from actratio.sparse.linears import has_full_kernel, install_fast
from actratio.sparse.modules import install_down, install_gated
from actratio.sparse.planning import Plan, int8_unsupported_reason, kernel_unsupported_reason, plan
from actratio.sparse.thresholds import Calibration, LayerThresholds

WEIGHTS = ("int8",)
"""Types that weights can be stored in, besides their own."""

_SMALLEST = 1 << 16  # numbers of a weight; smaller ones, such as those of a router, stay as they are


@torch.inference_mode(False)  # otherwise weights that are stored in another order could never be trained
def sparsify(
    model: nn.Module,
    measurement: Measurement | LayerThresholds | None = None,
    *,
    thresholds: Mapping[str, Tensor] | None = None,
    crossover: Crossover | None = None,
    also: Mapping[str, float] | None = None,
    dense: bool = False,
    weights: str | None = None,
    mlps: Sequence[MLP] | None = None,
) -> nn.Module:
    """Let a model skip inactive neurons. Without thresholds and 8-bit weights, its outputs stay the same up to the order of summation.

    The model itself is changed and returned: same parameters, same ``state_dict``, same ``generate``. In training, and
    whenever gradients are needed, it computes the dense products. ``densify`` undoes it; ``plans`` tells what was done to each MLP.
    Large weights that are converted move to memory in pages of 2 MB. The parameters stay the same objects, except those whose weights become int8.

    Args:
        measurement: of this model: its sites and how many neurons are active. A calibration brings its thresholds with it, and so
            do thresholds that were loaded. By default the sites are found here, and every MLP whose activation function has true zeros is converted.
        thresholds: (width,) by site's name: neurons with ``|h|`` at or below their threshold count as zero, on every path. They
            stay float32 when the model is converted to another dtype.
        crossover: the ratio above which the dense product is used; by default it is measured here, which takes some seconds for each
            new shape, and kept in the user's cache folder (``ACTRATIO_CACHE``) for later processes. It is one for each batch size, and applied at
            every call. An MLP stays dense if the sparse product gains nothing for a single sequence, and loses for others.
        also: other linear layers that read many zeros, such as the first layer of an image classifier: their names, and the
            share of their inputs that isn't zero.
        dense: give the other linear layers, such as those of attention and the output head, a product that reads all weights faster
            than torch's, for the batch sizes where it was measured to be faster. Their weights keep their order.
        weights: ``int8`` stores the weights of linear layers as 8-bit integers (those with fewer than 65,536 numbers only if their
            inputs are skipped), with a float32 scale for each output (``actratio.sparse.int8`` has the formula).
            Layers that share a weight with each other, and those of torch's ``TransformerEncoderLayer``, keep theirs. A quarter
            of the memory of float32 is read, and the outputs change a little: check the loss. ``densify`` then can't bring the
            old weights back, but gives the rounded ones.
        mlps: the model's MLPs as ``resolve`` returns them; by default they are resolved here.

    Returns:
        ``model``.

    Raises:
        SiteError: the model has no MLP or no such layer, the measurement is of another model, or an MLP can't have its thresholds,
            such as in a dtype that no kernel supports; the model is then dense. Or ``weights`` isn't known, or no kernel supports them,
            or a parameter was made in ``torch.inference_mode``, or an argument has another type.
    """
    _check_arguments(model, measurement, also or {})
    check_weights(model, weights)
    check_changeable(model)
    densify(model)
    int8 = weights is not None
    if int8:
        _check_finite(model)
    handles, ratios, limits = planning_inputs(model, measurement, thresholds, mlps)
    planned = plan(handles, ratios, limits)
    _check_not_bypassed(model, handles, limits)
    exempt = exempt_layers(model)
    rounded = rounded_mlps(handles, exempt) if int8 else set()
    others = {name: _other_layer(model, name) for name in also or ()}
    if crossover is None:
        planned = _autotuned(handles, planned, limits, rounded)
    else:
        planned = [item if item.kind == "dense" else replace(item, crossover=crossover) for item in planned]
    rest = unchanged_linears(model, handles, planned, others.values())
    shared = overlapping_parameters(model)
    _install(model, handles, planned, limits, rounded, shared)
    for name, layer in others.items():
        _install_other(layer, (also or {})[name], crossover, int8=int8 and layer not in exempt)
    if int8:
        _install_int8(model, [layer for layer in rest if layer not in exempt and is_worth_int8(layer)])
        mark_weights(model, weights)
    elif dense:
        _install_fast(rest, crossover, shared)
    return model


def _check_arguments(model: Any, measurement: Any, also: Mapping[str, float]) -> None:
    """Refuse arguments of other types, and shares that aren't shares.

    Raises:
        SiteError: there is such an argument.
    """
    if not isinstance(model, nn.Module):
        raise SiteError(f"the model is of type {type(model).__name__}; give an nn.Module")
    if not isinstance(measurement, Measurement | LayerThresholds | None):
        raise SiteError(
            f"the measurement is a {type(measurement).__name__}; give what actratio.measure(model, batches) returns, or a calibration"
        )
    for name, share in also.items():
        if not 0 <= share <= 1:
            raise SiteError(
                f"also has the share {share} for {name}; give the share of its inputs that isn't zero, from 0 to 1"
            )


def check_weights(model: nn.Module, weights: str | None) -> None:
    """Refuse a type of weights that isn't known, or that the model's device has no kernel for.

    Raises:
        SiteError: it is one of these.
    """
    if weights is None:
        return
    if weights not in WEIGHTS:
        raise SiteError(f"weights={weights!r} is not known; use 'int8', or None for the weights as they are")
    reason = int8_unsupported_reason(device_of(model))
    if reason is not None:
        raise SiteError(f"the weights cannot be int8: {reason}; omit weights, or move the model to the CPU")


def check_changeable(model: nn.Module) -> None:
    """Refuse a model with parameters that torch doesn't let anybody store in another way.

    Raises:
        SiteError: it's such a model.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_inference():
            raise SiteError(
                f"the parameter {name} was made in torch.inference_mode, so the model cannot be converted; "
                "build or load the model outside of that mode"
            )


def _check_not_bypassed(model: nn.Module, mlps: Sequence[MLP], limits: Mapping[str, Tensor]) -> None:
    """Refuse thresholds of MLPs whose down projection torch may not call: it would ignore them in evaluation mode.

    Raises:
        SiteError: there are some.
    """
    bypassed = bypassed_layers(model) if limits else set()
    for mlp in mlps:
        if mlp.site.name in limits and mlp.down in bypassed:
            raise SiteError(
                f"{mlp.site.name} cannot have thresholds: torch multiplies by the weights of its encoder layers without calling "
                "their linear layers; omit its thresholds"
            )


def _check_finite(model: nn.Module) -> None:
    """Refuse weights that can't be rounded, before any is: rounding can't be undone.

    Raises:
        SiteError: a linear layer has such a weight.
    """
    for name, module in model.named_modules():
        weight: Any = module._parameters.get("weight") if is_linear(module) else None
        if weight is not None and not bool(weight.isfinite().all()):
            raise SiteError(
                f"the weight of {name} has numbers that are not finite and cannot be stored in 8 bits; check the model"
            )


def unchanged_linears(
    model: nn.Module, mlps: Sequence[MLP], planned: Sequence[Plan], others: Collection[nn.Module] = ()
) -> list[Any]:
    """Return the linear layers whose inputs aren't skipped, and that have a weight of their own, in the order of the model.

    Args:
        planned: for the MLPs.
        others: layers outside the MLPs that skip zeros.
    """
    taken = {id(layer) for layer in others}
    for mlp, item in zip(mlps, planned, strict=True):
        if mlp.stacked is None and item.kind != "dense":
            taken.add(id(mlp.down))
        if mlp.stacked is None and item.kind == "gated":
            taken.add(id(mlp.up))
    return [
        module
        for module in model.modules()
        if is_linear(module) and id(module) not in taken and module._parameters.get("weight") is not None
    ]


def is_worth_int8(layer: nn.Module) -> bool:
    """Return whether a linear layer's weight is large enough to be stored as int8."""
    weight: Any = layer.weight
    return bool(weight.numel() >= _SMALLEST)


def _install(
    model: nn.Module,
    mlps: Sequence[MLP],
    planned: Sequence[Plan],
    limits: Mapping[str, Tensor],
    rounded: Collection[MLP],
    shared: Collection[int],
) -> None:
    """Convert the MLPs, those in ``rounded`` to int8 weights. Parameters in ``shared``, by their identities, stay where they are."""
    owners = dict(model.named_modules())
    for mlp, item in zip(mlps, planned, strict=True):
        owner = owners[mlp.site.owner]
        owner.__dict__.setdefault(PLANS, []).append(item)
        if mlp.stacked is not None:
            continue
        int8 = mlp in rounded
        if item.kind != "dense" and not int8:
            install_down(mlp.down, limits.get(mlp.site.name), item.crossover)
        elif item.kind != "dense" and not isinstance(mlp.down, Converted):
            install_int8(mlp.down, by_neurons=True, thresholds=limits.get(mlp.site.name))
        if item.kind == "gated" and not isinstance(owner, Converted):
            if int8:
                install_int8(mlp.up)
            elif id(mlp.up.weight) not in shared:
                move_to_large_pages(mlp.up.weight)
            activation = None if mlp.own_gate else mlp.activation
            install_gated(owner, (mlp.gate, activation, mlp.up, mlp.down), item.crossover)
    install_planned_experts(mlps, planned)


def _install_int8(model: nn.Module, layers: Sequence[Any]) -> None:
    """Store the weights of linear layers as int8, and those of the embeddings that share them."""
    embeddings: dict[int, list[nn.Module]] = defaultdict(list)
    for module in model.modules():
        if type(module) is nn.Embedding and module.max_norm is None:
            embeddings[id(module.weight)].append(module)
    for layer in layers:
        sharing = embeddings.pop(id(layer.weight), [])
        install_int8(layer)
        for embedding in sharing:
            share_int8(embedding, layer)


def _install_other(layer: nn.Module, ratio: float, crossover: Crossover | None, *, int8: bool) -> None:
    """Convert a linear layer that reads many zeros: it skips them if that pays off, and gets int8 weights in any case if those are wanted."""
    if crossover is None:
        speeds = shape_speeds(layer_timer(layer, int8=int8))
        crossover = speeds.crossover(ratio) if speeds.pays_off(ratio) else NEVER
    pays_off = any(crossover.ratios)
    if int8 and (pays_off or is_worth_int8(layer)):
        install_int8(layer, by_neurons=pays_off)
    elif pays_off:
        install_down(layer, None, crossover)


def _install_fast(layers: Sequence[Any], crossover: Crossover | None, shared: Collection[int]) -> None:
    """Give linear layers the faster dense product, for the batch sizes where it is faster. Parameters in ``shared`` stay where they are."""
    for group in alike(layers):
        if not has_full_kernel(group[0]):
            continue
        chosen = crossover or shape_speeds(linear_timer(group[0], len(group))).always_faster()
        if any(chosen.ratios):
            for layer in group:
                if id(layer.weight) not in shared:
                    move_to_large_pages(layer.weight)
                install_fast(layer, chosen)


def alike(layers: Iterable[Any]) -> list[list[Any]]:
    """Return linear layers in groups of the same shape and type."""
    groups: dict[Any, list[Any]] = defaultdict(list)
    for layer in layers:
        groups[form_of(layer)].append(layer)
    return list(groups.values())


def form_of(layer: Any) -> tuple[Any, ...]:
    """Return what linear layers have in common whose products take as long."""
    weight = layer.weight
    return type(layer), weight.shape, weight.dtype, weight.device, layer.bias is None


def plans(model: nn.Module) -> list[Plan]:
    """Return what ``sparsify`` did to each MLP of a model, in the order of execution; nothing if the model is dense."""
    planned = [item for module in model.modules() for item in module.__dict__.get(PLANS, ())]
    return sorted(planned, key=lambda item: item.site.layer)


def planning_inputs(
    model: nn.Module,
    measurement: Measurement | LayerThresholds | None,
    thresholds: Mapping[str, Tensor] | None,
    mlps: Sequence[MLP] | None,
) -> tuple[Sequence[MLP], Mapping[str, float], Mapping[str, Tensor]]:
    """Return the MLPs to plan for, and by their site's name, their ratios of neurons to compute and their thresholds by neuron.

    Raises:
        SiteError: a calibration and other thresholds, or thresholds of a site that isn't there.
    """
    if not isinstance(measurement, LayerThresholds):
        handles = measured_mlps(model, measurement, mlps)
        return handles, measured_ratios(measurement, handles), thresholds or {}
    if thresholds is not None:
        raise SiteError("a calibration has thresholds already; omit thresholds=, or give the calibration's measurement")
    if isinstance(measurement, Calibration):
        handles = measured_mlps(model, measurement.measurement, mlps)
        ratios = measured_ratios(measurement.measurement, handles)
    else:
        handles = [mlp for mlp in measured_mlps(model, None, mlps) if mlp.site.name in measurement.thresholds]
        missing = sorted(set(measurement.thresholds) - {mlp.site.name for mlp in handles})
        if missing:
            raise SiteError(f"the model has no site {missing[0]!r}; give thresholds of this model")
        ratios = {site: 1 - dropped for site, dropped in measurement.dropped.items()}
    return handles, ratios, measurement.by_neuron(handles)


def _other_layer(model: nn.Module, name: str) -> nn.Module:
    layer: nn.Module | None = dict(model.named_modules()).get(name)
    if layer is None or not is_linear(layer):
        raise SiteError(f"{name} is not a linear layer of the model; name one in also=")
    unsupported = weight_unsupported_reason(model, layer) or kernel_unsupported_reason(layer)
    if unsupported:
        raise SiteError(f"{name} cannot skip zeros of its input: {unsupported}; omit it from also=")
    return layer


def _autotuned(
    mlps: Sequence[MLP], planned: Sequence[Plan], limits: Mapping[str, Tensor], rounded: Collection[MLP]
) -> list[Plan]:
    """Return the plans with their crossovers, measured once for all layers of a shape.

    An MLP for which skipping doesn't pay off stays dense, unless it has thresholds: those decide what the model computes.

    Args:
        rounded: the MLPs that get int8 weights.
    """
    alike: dict[Any, list[tuple[MLP, Plan]]] = defaultdict(list)
    for mlp, item in zip(mlps, planned, strict=True):
        if item.kind != "dense":
            down, _ = mlp.skipped
            alike[(item.kind, form_of(down), mlp.stacked is None, mlp in rounded, mlp.site.name in limits)].append(
                (mlp, item)
            )
    decided: dict[str, Plan] = {}
    for (*_, int8, has_thresholds), group in alike.items():
        speeds = shape_speeds(timer_of(*group[0], thresholds=has_thresholds, layers=len(group), int8=int8))
        decided.update((item.site.name, _decided(item, speeds, has_thresholds)) for _, item in group)
    return [decided.get(item.site.name, item) for item in planned]


def timer_of(mlp: MLP, item: Plan, *, thresholds: bool, layers: int, int8: bool) -> LayerTimer:
    """Return a timer of the products of an MLP that its plan changes, as ``layer_timer`` does."""
    down, up = mlp.skipped
    return layer_timer(down, up if item.kind == "gated" else None, thresholds=thresholds, layers=layers, int8=int8)


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
