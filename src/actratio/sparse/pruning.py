"""Taking neurons out that never fire: a smaller dense model, without any kernel."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actratio.counting.measurement import Measurement
from actratio.errors import SiteError
from actratio.sites import MEASURED, Site, call, trace
from actratio.sites.inputs import made_up
from actratio.sparse.conversion import densify
from actratio.sparse.layers import is_linear
from actratio.sparse.planning import counts_of_nonzero, down_of, parts_of, plan

_WIDTHS = (
    "intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim",
)  # fmt: skip
"""What configurations of transformers' call an MLP's width."""


@dataclass(frozen=True)
class Pruned:
    """What became of one MLP.

    Attributes:
        before: its neurons.
        width: neurons that are left; the same in every MLP of a model whose configuration has one width for all.
        dead: neurons that never fired.
        certain: those of them that cannot fire, whatever the input: the projection before them is zero.
    """

    site: Site
    before: int
    width: int
    dead: int
    certain: int


@dataclass(frozen=True)
class _Layers:
    """An MLP's linear layers before its activation (the one that the activation reads first) and after it, and who fired."""

    site: Site
    ups: list[Any]
    down: Any
    alive: Tensor
    names: set[str]

    @property
    def certain(self) -> Tensor:
        weight: Tensor = self.ups[0].weight.detach()
        comes_in = weight.any(1) if isinstance(self.ups[0], nn.Linear) else weight.any(0)
        return ~(comes_in.cpu() | self.alive)


def prune(
    model: nn.Module, measurement: Measurement, check: Iterable[Any] = (), *, tolerance: float = 1e-5
) -> list[Pruned]:
    """Remove neurons that did not fire once; the model itself gets smaller.

    A neuron that never fired on one text may fire on another. So outputs are compared on ``check``, and if they differ the model
    is put back as it was. Without ``check``, neurons that cannot fire are removed alone, and outputs are compared on random tokens.

    A model of transformers' is still made by its configuration, which gets the new width. Where it has one width for several MLPs
    as many neurons are taken from each.

    Args:
        measurement: of this model, by ``nonzero``, or by ``positive`` where the activation function is a ReLU.
        check: inputs to compare outputs on, best of a text that was not measured.
        tolerance: how much outputs may differ, relative to their largest.

    Returns:
        One for each MLP whose neurons can be removed; none, or with as many neurons as before, if there is nothing to remove.

    Raises:
        SiteError: outputs differ, the model fails without them, or its configuration cannot say what it would be: it is as it was. Or there
            is no ``check``, and what the model reads is not known.
    """
    densify(model)
    found = _layers(model, measurement)
    checks = list(check)
    doomed = [~each.alive if checks else each.certain for each in found]
    widths = _new_widths(model, found, doomed)
    checks = checks or ([made_up(model)] if any(bool(gone.any()) for gone in doomed) else [])
    before = [_outputs_of(model, inputs) for inputs in checks]
    done: list[Pruned] = []
    undo: list[tuple[Any, dict[str, Any], dict[str, int]]] = []
    settings: list[tuple[Any, str, Any]] = []
    try:
        for each, gone, width in zip(found, doomed, widths, strict=True):
            done.append(Pruned(each.site, len(gone), width, int((~each.alive).sum()), int(each.certain.sum())))
            if width < len(gone):
                undo += [(layer, dict(layer._parameters), _sizes(layer)) for layer in (*each.ups, each.down)]
                _take_out(each, gone, width)
        settings += _set_widths(model, {each.before: each.width for each in done})
        _must_be_what_its_configuration_says(model)
        for inputs, wanted in zip(checks, before, strict=True):
            _must_agree(_outputs_of(model, inputs), wanted, tolerance)
    except Exception as error:
        for layer, parameters, sizes in reversed(undo):  # one MLP's last layer may be another one's first
            layer._parameters.update(parameters)
            layer.__dict__.update(sizes)
        for config, name, old in reversed(settings):
            setattr(config, name, old)
        if isinstance(error, SiteError):
            raise
        raise SiteError(
            f"{type(model).__name__} fails without those neurons ({' '.join(str(error).split())[:120]}): something else reads or scales them; "
            "it is as it was"
        ) from error
    return done


def _layers(model: nn.Module, measurement: Measurement) -> list[_Layers]:
    modules = dict(model.named_modules())
    found: dict[int, _Layers] = {}
    for each in plan(model, measurement):
        counts, layers = counts_of_nonzero(measurement, each.site), _around(modules, each.site)
        if each.kind == "dense" or counts is None or not counts.tokens or layers is None:
            continue
        ups, down = layers
        alive, names = counts.active > 0, {each.site.name}
        if id(down) in found:  # one MLP in several places
            alive, names = alive | found[id(down)].alive, names | found[id(down)].names
        found[id(down)] = _Layers(each.site, ups, down, alive, names)
    return list(found.values())


def _take_out(each: _Layers, gone: Tensor, width: int) -> None:
    # Where several MLPs have one width, some of those that could go stay: rather ones that can fire.
    worth = 2 * (~gone).int() + (~each.certain).int()
    kept = worth.argsort(descending=True, stable=True)[:width].sort().values
    for layer in each.ups:
        _cut(layer, kept, output=True)
    _cut(each.down, kept, output=False)


def _around(modules: Mapping[str, nn.Module], site: Site) -> tuple[list[Any], Any] | None:
    down = down_of(modules, site)
    if site.gated:
        parts = parts_of(modules, site)
        return None if parts is None else ([parts[0], parts[2]], parts[3])
    up = modules.get(site.up.rpartition(".")[0])
    if up is None or down is None or not is_linear(up) or not is_linear(down):
        return None
    return ([up], down) if _outputs(up) == site.width else None


def _outputs(layer: Any) -> int:
    return int(layer.weight.shape[0 if isinstance(layer, nn.Linear) else 1])


def _new_widths(model: nn.Module, found: list[_Layers], doomed: list[Tensor]) -> list[int]:
    """Neurons that are left of each: where a configuration says how many, as many in all MLPs that have as many now."""
    left = [max(1, int((~gone).sum())) for gone in doomed]
    if getattr(model, "config", None) is None:
        return left
    known = {name for each in found for name in each.names}
    others = {site.width for site in trace(model) if site.role in MEASURED and site.name not in known}
    most: dict[int, int] = {width: width for width in others}
    for each, width in zip(found, left, strict=True):
        most[each.site.width] = max(width, most.get(each.site.width, 0))
    return [most[each.site.width] for each in found]


def _set_widths(model: nn.Module, widths: Mapping[int, int]) -> list[tuple[Any, str, Any]]:
    """Tell a configuration, and those in it, its new widths; what they were."""
    changed = []
    for config in _configurations(getattr(model, "config", None)):
        for name in _WIDTHS:
            old = getattr(config, name, 0)
            if old is None and len(widths) == 1:  # four times the features, say
                (new,) = widths.values()
            else:
                new = widths.get(old, old)
            if new != old and (old is not None or set(widths) != set(widths.values())):
                changed.append((config, name, old))
                setattr(config, name, new)
    return changed


def _configurations(config: Any) -> list[Any]:
    if config is None:
        return []
    inner = [each for each in vars(config).values() if hasattr(each, "to_dict") and hasattr(each, "model_type")]
    return [config, *(found for each in inner for found in _configurations(each))]


def _must_be_what_its_configuration_says(model: nn.Module) -> None:
    config: Any = getattr(model, "config", None)
    if config is None:
        return
    kind: Any = type(model)
    try:
        with torch.device("meta"):
            made = kind(copy.deepcopy(config))
        same = {name: each.shape for name, each in made.named_parameters()} == {
            name: each.shape for name, each in model.named_parameters()
        }
    except Exception:  # whatever a model that cannot be made so raises
        same = False
    if not same:
        raise SiteError(
            f"the configuration of {kind.__name__} cannot say how many neurons would be left, so that it would not load again; "
            "it is as it was"
        )


def _must_agree(got: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for mine, theirs in zip(got, wanted, strict=True):
        if not bool(theirs.isfinite().all()):
            raise SiteError("the model's outputs on the check are not finite; a model that computes numbers is needed")
        off = float((mine - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30)) if theirs.numel() else 0.0
        if not off <= tolerance:
            raise SiteError(
                f"without the neurons that did not fire the outputs on the check differ by {off:.2g} of their largest, more than "
                f"{tolerance:g}: some fire there; measure on more text"
            )


def _cut(layer: Any, keep: Tensor, *, output: bool) -> None:
    linear = isinstance(layer, nn.Linear)
    axis = 0 if output == linear else 1
    keep = keep.to(layer.weight.device)
    layer.weight = nn.Parameter(layer.weight.detach().index_select(axis, keep), layer.weight.requires_grad)
    if output and layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach().index_select(0, keep), layer.bias.requires_grad)
    if linear:
        setattr(layer, "out_features" if output else "in_features", len(keep))
    else:
        setattr(layer, "nf" if output else "nx", len(keep))


def _sizes(layer: Any) -> dict[str, int]:
    return {name: vars(layer)[name] for name in ("in_features", "out_features", "nf", "nx") if name in vars(layer)}


def _outputs_of(model: nn.Module, inputs: Any) -> list[Tensor]:
    """All tensors of numbers that a model gives, but those of a cache.

    Raises:
        SiteError: it gives none.
    """
    with torch.no_grad():
        out = call(model, inputs)
    values = [out] if isinstance(out, Tensor) else list(out.values() if isinstance(out, Mapping) else out)
    found = [each.detach().float() for each in values if isinstance(each, Tensor) and each.is_floating_point()]
    if not found:
        raise SiteError(f"{type(model).__name__} gives no tensor to compare")
    return found
