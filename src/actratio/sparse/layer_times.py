"""Time what ``sparsify`` would change in a model: the products of its MLPs, and those of its other linear layers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actratio.counting.counts import SiteCounts
from actratio.counting.measurement import Measurement
from actratio.errors import SiteError
from actratio.sites import Site
from actratio.sites.linear import is_linear
from actratio.sites.mlps import MLP
from actratio.sparse.active import active_counts
from actratio.sparse.autotune import LayerTimer, by_gates, fast_copy, linear_timer, shape_speeds, without_hooks
from actratio.sparse.conversion import alike, form_of, is_worth_int8, timer_of
from actratio.sparse.linears import has_full_kernel
from actratio.sparse.planning import Plan
from actratio.sparse.speed import LayerSpeed, OtherLayers
from actratio.sparse.timing import MIN_PASSES, PASS_SECONDS, Machine, PassTimes, time_in_forward_pass, time_machine

_ROUNDS = 40
_DRAWS = 8
_RATIO_STEP = 0.05  # of the logarithm of a ratio


def needed_share(counts: SiteCounts, batch: float) -> float:
    """Return the share of neurons that at least one of ``batch`` tokens of independent sequences needs.

    A neuron that is active on a share p of the tokens is needed with probability 1 − (1 − p)^batch. Successive tokens of one
    sequence, as in ``union_ratio``, are more alike and need fewer neurons.
    """
    if not counts.tokens:
        return 1.0
    return float((1 - (1 - counts.active.double() / counts.tokens) ** batch).mean())


def active_share(counts: SiteCounts) -> float:
    """Return the share of neurons that a token needs; 1 for an expert that no token reached, as ``needed_share`` has it."""
    return float(counts.activation_ratio) if counts.tokens else 1.0


def random_activations(width: int, batch: int, ratio: float, needed: float) -> list[Tensor]:
    """Return random activations, each (batch, width), with this ratio of active and this share of needed neurons.

    Each example activates a part of one set with a share s of the neurons, where s·(1 − (1 − ratio/s)^batch) = needed.
    """
    low, high = max(ratio, 1e-9), 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if middle * (1 - (1 - ratio / middle) ** batch) > needed else (middle, high)
    generator = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(_DRAWS):
        in_set = torch.rand(width, generator=generator) < high
        active = torch.rand(batch, width, generator=generator) < ratio / high
        draws.append(torch.randn(batch, width, generator=generator) * in_set * active)
    return draws


def _rounded(ratio: float) -> float:
    """Return a ratio to within 2.5%, so that layers with nearly the same ratios are timed once."""
    return 0.0 if ratio <= 0 else min(1.0, math.exp(_RATIO_STEP * round(math.log(ratio) / _RATIO_STEP)))


def counts_of(measurement: Measurement, site: Site) -> SiteCounts:
    """Return the counts of the neurons that aren't zero.

    Raises:
        SiteError: the measurement doesn't have them.
    """
    counts = active_counts(measurement, site)
    if counts is None:
        raise SiteError(
            f"the measurement does not say how many neurons of {site.name} are zero; measure with --criteria nonzero"
        )
    return counts


def changed_layers(mlps: Sequence[MLP], speeds: Sequence[LayerSpeed]) -> list[nn.Module]:
    """Return the projections of the MLPs whose products change, without those of experts that share one weight."""
    changed: dict[int, nn.Module] = {}
    for mlp, speed in zip(mlps, speeds, strict=True):
        if is_changed(speed) and mlp.stacked is None:
            for layer in (mlp.down, mlp.up) if speed.plan.kind == "gated" else (mlp.down,):
                changed[id(layer)] = layer
    return list(changed.values())


def is_changed(speed: LayerSpeed) -> bool:
    """Return whether an MLP's products change: it isn't dense, and doesn't stay so because dense is faster."""
    return speed.sparse_seconds != speed.dense_seconds


def replaceable_groups(layers: Iterable[Any], *, int8: bool, exempt: Collection[nn.Module] = ()) -> list[list[Any]]:
    """Return the linear layers that get another product although they read all weights, in groups of the same shape.

    Args:
        exempt: layers that can't have int8 weights.
    """
    if int8:
        return alike(layer for layer in layers if layer not in exempt and is_worth_int8(layer))
    return [group for group in alike(layers) if has_full_kernel(group[0])]


@dataclass(frozen=True)
class WeightBytes:
    """Bytes of the weights that a forward pass reads.

    Attributes:
        given: of the model as it is.
        new: after the conversion, if no zeros were skipped.
    """

    given: float
    new: float


class ModelTimes:
    """What was timed of one model on this machine. Predictions that share it time nothing twice.

    Args:
        text: token ids that forward passes read, (tokens,); random ones by default.
        seconds: for which forward passes are timed, of each kind.
        passes: the fewest that are timed.
    """

    def __init__(self, text: Tensor | None = None, seconds: float = PASS_SECONDS, passes: int = MIN_PASSES) -> None:
        self._text, self._seconds, self._least = text, seconds, passes
        self.layers: dict[Any, tuple[float, float]] = {}  # of TimedLayers
        self.linears: dict[Any, tuple[float, float]] = {}  # of TimedLinears
        self.timers: dict[Any, LayerTimer] = {}  # making their layers takes longer than timing them
        self._machine: Machine | None = None
        self._passes: dict[tuple[int, int], PassTimes] = {}

    def renewed(self, seconds: float = PASS_SECONDS, passes: int = MIN_PASSES) -> ModelTimes:
        """Return times of the same model that aren't known yet. What is timed and the machine's figures are shared."""
        new = ModelTimes(self._text, seconds, passes)
        new._machine = self._machine
        new.timers = self.timers
        return new

    def machine(self, device: torch.device) -> Machine:
        """Return what the device does, as ``time_machine``."""
        if self._machine is None:
            self._machine = time_machine(device)
        return self._machine

    def forward_pass(self, model: nn.Module, batch: int, prompt: int) -> PassTimes:
        """Return where the time of a forward pass goes: in each of the model's linear layers, and in what remains."""
        if (batch, prompt) not in self._passes:
            linears = [module for module in model.modules() if is_linear(module)]
            self._passes[batch, prompt] = time_in_forward_pass(
                model, linears, batch, prompt=prompt, text=self._text, seconds=self._seconds, least=self._least
            )
        return self._passes[batch, prompt]


class TimedLayers:
    """Times dense and sparse layers of the MLPs' shapes, once for each shape, batch and ratio.

    Args:
        mlps, plans, limits: as for ``sparsify``.
        rounded: the MLPs that get int8 weights.
        alone: whether the other linear layers of the model stay torch's, so that each sparse product follows one of those.
        weights: what the model reads.
        times: where the times are kept.
    """

    def __init__(
        self,
        mlps: Sequence[MLP],
        plans: Sequence[Plan],
        limits: Mapping[str, Tensor],
        *,
        rounded: Collection[MLP],
        alone: bool,
        weights: WeightBytes,
        times: ModelTimes,
    ) -> None:
        self._mlps, self._plans, self._limits, self._rounded = mlps, plans, limits, rounded
        self._alone, self._weights, self._times = alone, weights, times
        self._forms = [_form(mlp, item) for mlp, item in zip(mlps, plans, strict=True)]
        self._alike: dict[Any, list[MLP]] = defaultdict(list)
        for mlp, form in zip(mlps, self._forms, strict=True):
            self._alike[form].append(mlp)

    def seconds(self, number: int, batch: int, measurement: Measurement) -> tuple[float, float]:
        """Return the seconds of a dense layer, and of what ``sparsify`` makes of it.

        Both are 0 if the MLP stays dense.
        """
        mlp, planned = self._mlps[number], self._plans[number]
        if planned.kind == "dense":
            return 0.0, 0.0
        counts = counts_of(measurement, mlp.site)
        needed, ratio = _rounded(needed_share(counts, batch)), _rounded(active_share(counts))
        has_thresholds = mlp.site.name in self._limits
        alike = self._alike[self._forms[number]]
        form = self._forms[number], has_thresholds, len(alike)
        key = *form, batch, needed, ratio, mlp in self._rounded, self._alone
        known = self._times.layers
        if key not in known:
            timers = {
                int8: self._timer(form, mlp, planned, int8=int8)
                for int8 in ((False, True) if mlp in self._rounded else (False,))
            }
            draws = random_activations(mlp.site.width, batch, ratio, needed)
            layers = [_as_timed(*other.skipped, planned) for other in alike[: timers[False].count]]
            known[key] = self._time(timers, planned, layers, draws, has_thresholds, ratio)
        return known[key]

    def _timer(self, form: tuple[Any, ...], mlp: MLP, planned: Plan, *, int8: bool) -> LayerTimer:
        timers, (*_, layers) = self._times.timers, form
        if (*form, int8) not in timers:
            new = timer_of(mlp, planned, thresholds=mlp.site.name in self._limits, layers=layers, int8=int8)
            timers[*form, int8] = new
        return timers[*form, int8]

    def _time(
        self,
        timers: Mapping[bool, LayerTimer],
        planned: Plan,
        layers: Sequence[nn.Module],
        draws: Sequence[Tensor],
        thresholds: bool,
        ratio: float,
    ) -> tuple[float, float]:
        """Return the seconds of both, from a timer of float weights and, if the weights become int8, one of those."""
        floats = chosen = timers[False]
        draws = [draw.to(floats.device, floats.dtype) for draw in draws]
        dense, sparse, *converted = self._timed(floats, draws, self._weights.given, layers)
        unchanged = dense
        if True in timers:
            chosen = timers[True]
            unchanged, sparse, *converted = self._timed(chosen, draws, self._weights.new)
        speeds, (batch, width) = shape_speeds(chosen), draws[0].shape
        if not thresholds and not speeds.pays_off(planned.ratio):
            return dense, unchanged
        # As the layer chooses at every call.
        skips = ratio * batch * width <= speeds.crossover(planned.ratio).max_active(batch, width)
        return dense, sparse if skips or not converted else converted[0]

    def _timed(
        self, timer: LayerTimer, draws: Sequence[Tensor], model_bytes: float, layers: Sequence[nn.Module] | None = None
    ) -> list[float]:
        own = {} if layers is None else {"dense": layers}
        totals = [model_bytes] * len(timer.forms)
        return timer.times(draws, _ROUNDS, model_bytes=totals, among_alike=not self._alone, own=own)


def _form(mlp: MLP, planned: Plan) -> tuple[Any, ...]:
    """Return what MLPs have in common whose products take as long."""
    down, up = mlp.skipped
    return planned.kind, form_of(down), form_of(up) if planned.kind == "gated" else None


def _as_timed(down: Any, up: Any, planned: Plan) -> nn.Module:
    """Return the projections of an MLP in the form that ``timer_of`` times: together, if the up projection is skipped too."""
    return by_gates(without_hooks(up), without_hooks(down)) if planned.kind == "gated" else without_hooks(down)


class TimedLinears:
    """Times the products of linear layers that read all weights.

    Args:
        groups: of layers of the same shape.
        int8: whether their weights become int8.
        weights: what the model reads.
        times: where the times are kept.
    """

    def __init__(self, groups: Sequence[Sequence[Any]], *, int8: bool, weights: WeightBytes, times: ModelTimes) -> None:
        self._int8, self._weights, self._times = int8, weights, times
        self._groups = [(group, self._timer(group)) for group in groups]

    def _timer(self, group: Sequence[Any]) -> LayerTimer:
        timers, key = self._times.timers, (self._form(group), self._int8)
        if key not in timers:
            timers[key] = linear_timer(group[0], len(group), int8=self._int8)
        return timers[key]

    @staticmethod
    def _form(group: Sequence[Any]) -> tuple[Any, ...]:
        return *form_of(group[0]), len(group)

    def times(self, batch: int) -> tuple[OtherLayers, list[nn.Module]]:
        """Return the times for a number of examples, and the layers whose product changes."""
        others = OtherLayers()
        changed: list[nn.Module] = []
        for group, timer in self._groups:
            if not self._int8 and not shape_speeds(timer).always_faster().max_active(batch, 1):
                continue
            known, key = self._times.linears, (self._form(group), self._int8, batch)
            if key not in known:
                x = torch.randn(_DRAWS, batch, timer.width, generator=torch.Generator().manual_seed(0))
                draws, totals = list(x.to(timer.device, timer.dtype)), (self._weights.given, self._weights.new)
                own = {"torch": [without_hooks(layer) for layer in group]}
                if not self._int8:  # the weights stay where they are
                    own["other"] = [fast_copy(layer) for layer in group]
                dense, other = timer.times(draws, _ROUNDS, model_bytes=totals, own=own)
                known[key] = dense, other
            dense, other = known[key]
            weight, count = group[0].weight, len(group)
            others = OtherLayers(
                others.dense_bytes + count * weight.nbytes,
                others.new_bytes + count * (weight.numel() if self._int8 else weight.nbytes),
                others.dense_seconds + count * dense,
                others.new_seconds + count * other,
            )
            changed += group
        return others, changed
