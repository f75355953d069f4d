"""Taking neurons out that never fire: a smaller dense model, without any kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actratio.errors import SiteError
from actratio.measurement import Measurement
from actratio.sites import Site, call
from actratio.sparse.convert import densify
from actratio.sparse.layers import is_linear
from actratio.sparse.plans import counts_of_nonzero, parts_of, plan

_WIDTHS = ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size", "hidden_dim", "decoder_ffn_dim")
"""What configurations of transformers' call an MLP's width."""


@dataclass(frozen=True)
class Pruned:
    """What became of one MLP.

    Attributes:
        width: neurons that are left; the same in every MLP of a model whose configuration has one width for all.
        dead: neurons that never fired.
        certain: those of them that cannot fire, whatever the input: no weight in, and a bias that is not above zero.
    """

    site: Site
    before: int
    width: int
    dead: int
    certain: int


def prune(
    model: nn.Module, measurement: Measurement, check: Iterable[Any] = (), *, tolerance: float = 1e-5
) -> list[Pruned]:
    """Remove neurons that did not fire once; the model itself gets smaller.

    A neuron that never fired on one text may fire on another: outputs are compared on ``check``, and if they differ the
    model is put back as it was.

    Args:
        measurement: of this model, by ``nonzero``, or by ``positive`` where the activation function is a ReLU.
        check: inputs to compare outputs on, best of a text that was not measured.
        tolerance: how much outputs may differ, relative to their largest.

    Raises:
        SiteError: nothing to remove, or outputs that differ.
    """
    densify(model)
    modules = dict(model.named_modules())
    found: list[tuple[Site, list[Any], Any, Tensor]] = []
    for each in plan(model, measurement):
        counts, layers = counts_of_nonzero(measurement, each.site), _around(modules, each.site)
        if each.kind != "dense" and counts is not None and counts.tokens and layers is not None:
            found.append((each.site, *layers, counts.active > 0))
    if not found or all(bool(alive.all()) for *_, alive in found):
        raise SiteError("no neuron can be removed: each fired, or its MLP is none of linear layers with true zeros")
    name = _width_name(model, {site.width for site, *_ in found})
    together = max(int(alive.sum()) for *_, alive in found) if name else 0
    checks = list(check)
    before = [_output(model, inputs) for inputs in checks]
    kept, done, undo = [], [], []
    for site, ups, down, alive in found:
        width = max(together, int(alive.sum()), 1)
        # Where all MLPs have one width, some dead neurons stay, the first ones.
        keep = (alive.long() * 2 + torch.arange(site.width).flip(0) / site.width).argsort(descending=True)[:width]
        keep = keep.sort().values
        kept.append(keep)
        certain = _cannot_fire(ups[0]) & ~alive
        done.append(Pruned(site, site.width, width, int((~alive).sum()), int(certain.sum())))
        undo.append([(layer, dict(layer._parameters), _sizes(layer)) for layer in (*ups, down)])
        for layer in ups:
            _cut(layer, keep, output=True)
        _cut(down, keep, output=False)
    config: Any = getattr(model, "config", None)
    old = getattr(config, name, None) if name else None
    if name:
        setattr(config, name, done[0].width)
    for inputs, wanted in zip(checks, before, strict=True):
        got = _output(model, inputs)
        off = float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
        if not off <= tolerance:
            for layer, parameters, sizes in (each for group in undo for each in group):
                layer._parameters.update(parameters)
                layer.__dict__.update(sizes)
            if name:
                setattr(config, name, old)
            raise SiteError(
                f"without the neurons that did not fire the outputs on the check differ by {off:.2g} of their largest, more than "
                f"{tolerance:g}: some fire there; measure on more text"
            )
    return done


def _around(modules: Mapping[str, nn.Module], site: Site) -> tuple[list[Any], Any] | None:
    """The linear layers before an MLP's activation (the one that the activation reads first), and the one after it."""
    down = modules.get((site.down or "").rpartition(".")[0])
    if site.gated:
        parts = parts_of(modules, site)
        return None if parts is None else ([parts[0], parts[2]], parts[3])
    up = modules.get(site.up.rpartition(".")[0])
    if up is None or down is None or not is_linear(up) or not is_linear(down):
        return None
    return ([up], down) if _outputs(up) == site.width else None


def _outputs(layer: Any) -> int:
    return int(layer.weight.shape[0 if isinstance(layer, nn.Linear) else 1])


def _cannot_fire(up: Any) -> Tensor:
    """Neurons whose pre-activation is at most zero for every input."""
    weight = up.weight.detach() if isinstance(up, nn.Linear) else up.weight.detach().t()
    bias = torch.zeros(len(weight)) if up.bias is None else up.bias.detach().cpu()
    return ~weight.any(1).cpu() & (bias <= 0)


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


def _width_name(model: nn.Module, widths: set[int]) -> str | None:
    """What the configuration calls the MLPs' one width, if it has one for all."""
    config: Any = getattr(model, "config", None)
    if config is None or len(widths) != 1:
        return None
    (width,) = widths
    for name in _WIDTHS:
        if getattr(config, name, None) == width:
            return name
    return "n_inner" if hasattr(config, "n_inner") and config.n_inner is None else None


def _output(model: nn.Module, inputs: Any) -> Tensor:
    with torch.no_grad():
        out = call(model, inputs)
    found = out if isinstance(out, Tensor) else next(each for each in out.to_tuple() if isinstance(each, Tensor))
    return found.detach().float()
