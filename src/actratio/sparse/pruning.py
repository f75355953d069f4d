"""Remove neurons that never fire: a smaller dense model, which needs no kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from actratio.counting.measurement import Measurement
from actratio.counting.measuring import measure
from actratio.errors import SiteError
from actratio.sites import MEASURED, Site, call, evaluating, trace
from actratio.sites.inputs import device_of, made_up
from actratio.sites.mlps import MLP
from actratio.sparse.active import NO_ZEROS, active_counts, lacks_zeros, measured_mlps, measured_ratio
from actratio.sparse.converted import densify
from actratio.sparse.removal import MeasuredMLP, Removal, check_configuration
from actratio.sparse.text import Batch, list_batches

if TYPE_CHECKING:
    import pandas as pd

_PARTS = 4  # of the text: three to measure, one to check


@dataclass(frozen=True)
class PrunedMLP:
    """What was removed from one MLP.

    Attributes:
        site: where the MLP's activation is computed.
        before: number of neurons before.
        width: number of neurons now; the same in all MLPs that share one width in the model's configuration.
        dead: neurons that never fired in the measurement.
        certain: those of them that can't fire whatever the input is, because the weights before them are zero.
    """

    site: Site
    before: int
    width: int
    dead: int
    certain: int


@dataclass(frozen=True)
class Pruning:
    """What ``prune`` returns; the model itself was changed.

    Attributes:
        mlps: one for each MLP whose neurons can be removed, even if none was.
        parameters_before: number of the model's parameters before.
        parameters: number of its parameters now.
        tokens: number of tokens (or examples) that were measured.
        reason: why no neuron was removed; empty if some were.
    """

    mlps: list[PrunedMLP]
    parameters_before: int
    parameters: int
    tokens: int
    reason: str = ""

    @property
    def smaller(self) -> bool:
        """Whether any neuron was removed."""
        return self.parameters < self.parameters_before

    @property
    def verdict(self) -> str:
        """What was removed, in a sentence."""
        if not self.smaller:
            return f"No neuron can be removed: {self.reason}."
        change = self.parameters / self.parameters_before - 1
        return (
            f"{self.parameters_before:,} parameters became {self.parameters:,} ({change:+.1%}). The outputs on the inputs that were "
            "checked are the same."
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one record for each MLP: site, before, width, dead, certain."""
        return [
            {"site": mlp.site.name, "before": mlp.before, "width": mlp.width, "dead": mlp.dead, "certain": mlp.certain}
            for mlp in self.mlps
        ]

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a pandas frame."""
        import pandas as pd

        return pd.DataFrame(self.rows())


def measure_and_prune(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    tolerance: float = 1e-5,
    progress: Callable[[str], object] = lambda stage: None,
) -> Pruning:
    """Remove the neurons that never fire on the first three quarters of a text, and check the outputs on the last quarter.

    Args:
        model: any model; it is changed.
        batches: at least 4, each a mapping of keyword arguments.
        tolerance: as for ``prune``.
        progress: called with the name of each stage when it starts.

    Raises:
        DataError: fewer than 4 batches, or a batch that isn't a mapping.
        SiteError: as for ``prune``.
    """
    given = list_batches(batches, _PARTS)
    quarter = len(given) // _PARTS
    progress("measuring")
    measurement = measure(model, given[:-quarter], criteria=["nonzero"])
    device = device_of(model)
    check = [{name: value.to(device) for name, value in batch.items()} for batch in given[-quarter:]]
    progress("removing neurons and checking the outputs")
    return prune(model, measurement, check, tolerance=tolerance)


def prune(
    model: nn.Module,
    measurement: Measurement,
    check: Iterable[Any] = (),
    *,
    tolerance: float = 1e-5,
    mlps: Sequence[MLP] | None = None,
) -> Pruning:
    """Remove neurons that never fired. The model itself gets smaller, and is dense afterwards.

    A neuron that never fired on one text may fire on another one. So the outputs before and after are compared on ``check``; if
    they differ, the change is undone. Without ``check``, only neurons that can't fire are removed, and the outputs are compared
    on random tokens.

    The outputs are compared in evaluation mode. The configuration of a transformers model gets the new width, so that the model loads again. If several MLPs share one width
    there, the same number of neurons is removed from each.

    Args:
        measurement: of this model, by ``nonzero``; ``positive`` is enough if the activation function is a ReLU.
        check: inputs to compare the outputs on, best from text that wasn't measured.
        tolerance: the largest difference of an output, relative to the largest output.
        mlps: all MLPs of the model as ``resolve`` returns them; by default they are resolved here.

    Raises:
        SiteError: ``measurement`` isn't a measurement, or ``check`` isn't a list; the outputs differ, the model fails without the neurons, or its configuration can't express the new widths; the
            model is then unchanged. Or there is no ``check`` and inputs for the model can't be made up.
    """
    if not isinstance(measurement, Measurement):
        raise SiteError(
            f"prune got a {type(measurement).__name__} instead of a measurement; give what actratio.measure returns, because a neuron "
            "below a threshold may still fire"
        )
    if isinstance(check, Mapping | Tensor):
        raise SiteError(f"check is a {type(check).__name__}; give a list of inputs, such as [inputs]")
    densify(model)
    parameters = _parameters(model)
    with evaluating(model):
        pruned, reason = _prune(model, measurement, list(check), tolerance, mlps)
    tokens = max((row.counts.tokens for row in measurement), default=0)
    return Pruning(pruned, parameters, _parameters(model), tokens, reason)


def _prune(
    model: nn.Module, measurement: Measurement, checks: list[Any], tolerance: float, mlps: Sequence[MLP] | None
) -> tuple[list[PrunedMLP], str]:
    """Remove the neurons, and return what was removed from each MLP, and why nothing was removed."""
    handles = measured_mlps(model, measurement, mlps)
    measured = _measured(handles, measurement)
    removable = [~item.active if checks else item.never_active for item in measured]
    widths = _new_widths(model, measured, removable, mlps)
    if not checks and any(bool(neurons.any()) for neurons in removable):
        checks = [made_up(model)]
    before = [_outputs(model, inputs) for inputs in checks]
    removal = Removal(model)
    pruned: list[PrunedMLP] = []
    try:
        for item, neurons, width in zip(measured, removable, widths, strict=True):
            dead, certain = int((~item.active).sum()), int(item.never_active.sum())
            pruned.append(PrunedMLP(item.mlp.site, len(neurons), width, dead, certain))
            if width < len(neurons):
                removal.shrink(item, neurons, width)
        removal.set_widths({mlp.before: mlp.width for mlp in pruned})
        check_configuration(model)
        for inputs, expected in zip(checks, before, strict=True):
            _check_outputs(_outputs(model, inputs), expected, tolerance)
    except Exception as error:
        removal.undo()
        if isinstance(error, SiteError):
            raise
        raise SiteError(
            f"{type(model).__name__} fails without the neurons ({' '.join(str(error).split())[:120]}), because something else reads or "
            "scales them; nothing was changed"
        ) from error
    return pruned, _why_none(model, pruned, removable, handles, measurement, mlps)


def _why_none(
    model: nn.Module,
    pruned: Sequence[PrunedMLP],
    removable: Sequence[Tensor],
    handles: Sequence[MLP],
    measurement: Measurement,
    mlps: Sequence[MLP] | None,
) -> str:
    """Return why no neuron was removed; nothing if some were."""
    if any(mlp.width < mlp.before for mlp in pruned):
        return ""
    if not pruned:
        reasons = dict.fromkeys(filter(None, (_kept_reason(mlp, measurement) for mlp in handles)))
        return "; ".join(reasons) or "no MLP was measured"
    if any(bool(neurons.any()) for neurons in removable):
        if getattr(model, "config", None) is None:
            return "every MLP keeps at least one neuron"
        return _why_widths_stay(pruned, removable, _sites(model, mlps), handles, measurement)
    if any(mlp.dead for mlp in pruned):
        return "some neurons did not fire, but could fire on other inputs; give inputs to check"
    return "every neuron fired"


def _why_widths_stay(
    pruned: Sequence[PrunedMLP],
    removable: Sequence[Tensor],
    sites: Sequence[Site],
    handles: Sequence[MLP],
    measurement: Measurement,
) -> str:
    """Return which MLP needs all its neurons, so that the others of the same width keep theirs."""
    numbers = [int(neurons.sum()) for neurons in removable]
    most = max(range(len(pruned)), key=lambda index: numbers[index])
    example, width = pruned[most].site, pruned[most].before
    full = [mlp.site for mlp, number in zip(pruned, numbers, strict=True) if mlp.before == width and not number]
    if full:
        needs = f"layer {full[0].layer} ({full[0].name}) has no neuron that can be removed"
    else:
        names = {mlp.site.name for mlp in pruned}
        other = next((site.name for site in sites if site.width == width and site.name not in names), None)
        if other is None:
            return "every MLP keeps at least one neuron"
        handle = next((mlp for mlp in handles if mlp.site.name == other), None)
        reason = "was not measured" if handle is None else f"keeps its neurons: {_kept_reason(handle, measurement)}"
        needs = f"{other} {reason}"
    return (
        f"the configuration has one width, {width:,}, for all these MLPs, and {needs}, so {example.name} keeps its "
        f"{numbers[most]:,} dead {'neuron' if numbers[most] == 1 else 'neurons'} too"
    )


def _sites(model: nn.Module, mlps: Sequence[MLP] | None) -> list[Site]:
    """Return the sites of all MLPs of a model."""
    return [site for site in (trace(model) if mlps is None else [mlp.site for mlp in mlps]) if site.role in MEASURED]


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _measured(mlps: Iterable[MLP], measurement: Measurement) -> list[MeasuredMLP]:
    """Return the MLPs whose neurons can be removed; layers that several sites use are there once."""
    by_down: dict[int, MeasuredMLP] = {}
    for mlp in mlps:
        counts = active_counts(measurement, mlp.site)
        if counts is None or _kept_reason(mlp, measurement):
            continue
        active, names, key = counts.active > 0, frozenset({mlp.site.name}), id(mlp.down)
        if key in by_down:
            active, names = active | by_down[key].active, names | by_down[key].names
        by_down[key] = MeasuredMLP(mlp, active, names)
    return list(by_down.values())


def _kept_reason(mlp: MLP, measurement: Measurement) -> str | None:
    """Return why none of an MLP's neurons can be removed, or ``None`` if some may."""
    if mlp.unsupported_reason:
        return mlp.unsupported_reason
    if mlp.own_gate:
        return "its gate is computed with more than the activation function, so its neurons may depend on each other"
    if not mlp.inputs:
        return "the linear layers before the activation function are unknown"
    counts = active_counts(measurement, mlp.site)
    if lacks_zeros(mlp.site, measured_ratio(measurement, mlp.site)):
        return f"{mlp.site.function} {NO_ZEROS}"
    if counts is None:
        return "the neurons that are zero were not counted; measure with the criterion nonzero"
    return None if counts.tokens else "no token reached the MLP"


def _new_widths(
    model: nn.Module, measured: Sequence[MeasuredMLP], removable: Sequence[Tensor], mlps: Sequence[MLP] | None
) -> list[int]:
    """Return the number of neurons that each MLP keeps: the same for all MLPs of one width if the model has a configuration."""
    left = [max(1, int((~neurons).sum())) for neurons in removable]
    if getattr(model, "config", None) is None:
        return left
    names = {name for item in measured for name in item.names}
    others = {site.width for site in _sites(model, mlps) if site.name not in names}
    largest: dict[int, int] = {width: width for width in others}
    for item, width in zip(measured, left, strict=True):
        largest[item.mlp.site.width] = max(width, largest.get(item.mlp.site.width, 0))
    return [largest[item.mlp.site.width] for item in measured]


def _check_outputs(outputs: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> None:
    for output, wanted in zip(outputs, expected, strict=True):
        if not bool(wanted.isfinite().all()):
            raise SiteError("the model's outputs on the check contain NaN or infinity; check the weights or the dtype")
        scale = wanted.abs().max().clamp_min(1e-30) if wanted.numel() else 1.0
        difference = float((output - wanted).abs().max() / scale) if wanted.numel() else 0.0
        if not difference <= tolerance:
            raise SiteError(
                f"without the neurons that did not fire, the outputs on the check differ by {difference:.2g} of the largest one, more "
                f"than {tolerance:g}: some fire there; measure on more text"
            )


@torch.no_grad()
def _outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Return the floating-point tensors that a model returns, without its KV cache.

    Raises:
        SiteError: there is none.
    """
    out = call(model, inputs)
    values = [out] if isinstance(out, Tensor) else list(out.values() if isinstance(out, Mapping) else out)
    outputs = [value.detach().float() for value in values if isinstance(value, Tensor) and value.is_floating_point()]
    if not outputs:
        raise SiteError(f"{type(model).__name__} returns no tensor to compare; give a model that returns one")
    return outputs
