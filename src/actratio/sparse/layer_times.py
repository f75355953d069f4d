"""What ``sparsify`` would change in a model: the products of its MLPs and of its other linear layers, and how long they take."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from actratio.counting.counts import SiteCounts
from actratio.counting.measurement import Measurement
from actratio.errors import SiteError
from actratio.sites import Site, gates
from actratio.sites.linear import is_linear
from actratio.sites.mlps import MLP
from actratio.sparse.active import active_counts
from actratio.sparse.autotune import LayerTimer, by_gates, fast_copy, linear_timer, shape_speeds, without_hooks
from actratio.sparse.conversion import alike, form_of, is_worth_int8, timer_of
from actratio.sparse.kernels.int8_weights import MAX_BATCH
from actratio.sparse.linears import has_full_kernel
from actratio.sparse.planning import Plan
from actratio.sparse.rehearsal import Rehearsal, RehearsalTimes, StandIn
from actratio.sparse.speed import OtherLayers
from actratio.sparse.timing import MIN_PASSES, PASS_SECONDS, Machine, PassTimes, time_in_forward_pass, time_machine

_ROUNDS = 40
_DRAWS = 8  # inputs that are made up for an MLP
_DRAWN = 1 << 22  # the most numbers of them; for long prompts, one input has to do
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


def random_activations(width: int, batch: int, ratio: float, needed: float, number: int = _DRAWS) -> list[Tensor]:
    """Return a number of random activations, each (batch, width), with this ratio of active and this share of needed neurons.

    Each example activates a part of one set with a share s of the neurons, where s·(1 − (1 − ratio/s)^batch) = needed.
    """
    low, high = max(ratio, 1e-9), 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if middle * (1 - (1 - ratio / middle) ** batch) > needed else (middle, high)
    generator = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(number):
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


def skipping_layers(mlp: MLP, planned: Plan) -> list[nn.Module]:
    """Return the projections of an MLP in which its plan skips neurons."""
    return {"dense": [], "down": [mlp.down], "gated": [mlp.up, mlp.down]}[planned.kind]


def replaceable_groups(layers: Iterable[Any], *, int8: bool, exempt: Collection[nn.Module] = ()) -> list[list[Any]]:
    """Return the linear layers that get another product although they read all weights, in groups of the same shape.

    Args:
        exempt: layers that can't have int8 weights.
    """
    if int8:
        return alike(layer for layer in layers if layer not in exempt and is_worth_int8(layer))
    return [group for group in alike(layers) if has_full_kernel(group[0])]


class ModelTimes:
    """What was timed of one model on this machine. Predictions that share it time nothing twice.

    Args:
        text: token ids that forward passes read, (tokens,); random ones by default.
        seconds: how long forward passes of each kind are timed.
        passes: the fewest that are timed.
    """

    def __init__(self, text: Tensor | None = None, seconds: float = PASS_SECONDS, passes: int = MIN_PASSES) -> None:
        self._text, self._seconds, self._least = text, seconds, passes
        self.experts: dict[Any, tuple[float, float]] = {}  # of MLPProducts
        self.timers: dict[Any, LayerTimer] = {}  # making their layers takes longer than timing them
        self.draws: dict[Any, list[Tensor]] = {}
        self._machine: Machine | None = None
        self._passes: dict[tuple[int, int], PassTimes] = {}
        self._first_passes: dict[tuple[int, int], PassTimes] = {}
        self._rehearsals: dict[Any, Rehearsal] = {}
        self._rehearsed: dict[Any, RehearsalTimes] = {}

    def renewed(self, seconds: float = PASS_SECONDS, passes: int = MIN_PASSES) -> ModelTimes:
        """Return times of the same model that keep only the machine's figures and the first passes.

        The layers, inputs and passes that are timed are the same.
        """
        new = ModelTimes(self._text, seconds, passes)
        new._machine, new._first_passes = self._machine, self._first_passes
        new.timers, new.draws, new._rehearsals = self.timers, self.draws, self._rehearsals
        return new

    def machine(self, device: torch.device) -> Machine:
        """Return what the device does, as ``time_machine``."""
        if self._machine is None:
            self._machine = time_machine(device)
        return self._machine

    def forward_pass(self, model: nn.Module, batch: int, prompt: int) -> PassTimes:
        """Return where the time of a forward pass goes: in each of the model's linear layers, and in what remains."""
        key = batch, prompt
        if key not in self._passes:
            linears = [module for module in model.modules() if is_linear(module)]
            self._passes[key] = time_in_forward_pass(
                model, linears, batch, prompt=prompt, text=self._text, seconds=self._seconds, least=self._least
            )
            self._first_passes.setdefault(key, self._passes[key])
        return self._passes[key]

    def first_pass(self, model: nn.Module, batch: int, prompt: int) -> PassTimes:
        """Return the same as it was timed first, also by the times that these renew."""
        return self._first_passes.get((batch, prompt)) or self.forward_pass(model, batch, prompt)

    def rehearsed(self, model: nn.Module, stand_ins: Sequence[StandIn], batch: int, prompt: int) -> RehearsalTimes:
        """Return how much faster a forward pass is if other products stand in for the model's own."""
        if not stand_ins:
            return RehearsalTimes()
        key = batch, prompt, tuple((id(stand_in.module), stand_in.key) for stand_in in stand_ins)
        if key not in self._rehearsed:
            if key not in self._rehearsals:
                self._rehearsals[key] = Rehearsal(model, stand_ins, batch, prompt=prompt, text=self._text)
            self._rehearsed[key] = self._rehearsals[key].run(self._seconds, self._least)
        return self._rehearsed[key]


class MLPProducts:
    """The products that ``sparsify`` would put into the MLPs of a model.

    Args:
        model: dense.
        mlps, plans, limits: as for ``sparsify``.
        rounded: the MLPs that get int8 weights.
        weight_bytes: bytes of the weights that a forward pass reads.
        times: where is kept what was timed.
    """

    def __init__(
        self,
        model: nn.Module,
        mlps: Sequence[MLP],
        plans: Sequence[Plan],
        limits: Mapping[str, Tensor],
        *,
        rounded: Collection[MLP],
        weight_bytes: float,
        times: ModelTimes,
    ) -> None:
        self.mlps, self.plans, self.rounded, self._limits = mlps, plans, rounded, limits
        self._weight_bytes, self._times = weight_bytes, times
        self._owners = dict(model.named_modules())
        self._forms = [_form(mlp, item) for mlp, item in zip(mlps, plans, strict=True)]
        self._alike: dict[Any, list[MLP]] = defaultdict(list)
        for mlp, form in zip(mlps, self._forms, strict=True):
            self._alike[form].append(mlp)
        self._next: dict[tuple[LayerTimer, str], Iterator[Callable[[Tensor], Tensor]]] = {}

    def decided(self) -> list[Plan]:
        """Return the plans. MLPs for which skipping doesn't pay off are dense in them, unless their weights become int8."""
        return [
            replace(item, kind="dense") if item.kind != "dense" and self._stays_dense(number) else item
            for number, item in enumerate(self.plans)
        ]

    def _stays_dense(self, number: int) -> bool:
        return self.mlps[number] not in self.rounded and not self._skips_at_all(number)

    def _skips_at_all(self, number: int) -> bool:
        has_thresholds = self.mlps[number].site.name in self._limits
        return has_thresholds or shape_speeds(self._timer(number)).pays_off(self.plans[number].ratio)

    def stand_in(self, number: int, shape: tuple[int, int], reads: int, measurement: Measurement) -> StandIn | None:
        """Return what stands in for the product of an MLP, or ``None`` if it stays dense, or is an expert whose weights are stacked.

        Args:
            number: of the MLP.
            shape: sequences, and tokens of each that a pass reads.
            reads: how many of these tokens reach the MLP.
            measurement: of its neurons.
        """
        mlp, planned = self.mlps[number], self.plans[number]
        if planned.kind == "dense" or mlp.stacked is not None:
            return None
        counts = counts_of(measurement, mlp.site)
        needed, ratio = _rounded(needed_share(counts, reads)), _rounded(active_share(counts))
        timer = self._timer(number)
        form = self._chosen_form(timer, number, reads, ratio)
        if form is None:
            return None
        products, inputs = self._products(timer, form), None
        # In long calls, a layer with int8 weights reads all of them, whatever is zero. A gated MLP may still skip neurons.
        if form == "sparse" and not (planned.kind == "down" and mlp in self.rounded and reads > MAX_BATCH):
            draws = self._draws(timer, mlp.site.width, reads, ratio, needed)
            if reads == shape[0] * shape[1]:
                draws = [draw.view(*shape, -1) for draw in draws]
            first = number % len(draws)
            inputs = cycle(draws[first:] + draws[:first])  # MLPs that are alike shouldn't read the same rows
        key = self._forms[number], form, mlp in self.rounded, mlp.site.name in self._limits, ratio, needed
        if planned.kind == "down":
            return StandIn(mlp.down, key, products, inputs)
        owner = self._owners[mlp.site.owner]
        return StandIn(owner, key, products, inputs, _gate_of(mlp, owner))

    def expert_seconds(self, number: int, reads: int, measurement: Measurement) -> tuple[float, float]:
        """Return the seconds of the dense product of an expert whose weights are stacked, and of what ``sparsify`` makes of it.

        Both are 0 if it stays dense.

        Args:
            number, reads, measurement: as for ``stand_in``.
        """
        mlp, planned = self.mlps[number], self.plans[number]
        if planned.kind == "dense":
            return 0.0, 0.0
        counts = counts_of(measurement, mlp.site)
        needed, ratio = _rounded(needed_share(counts, reads)), _rounded(active_share(counts))
        alike = self._alike[self._forms[number]]
        key = *self._forms[number], len(alike), reads, needed, ratio
        if key not in self._times.experts:
            timer = self._timer(number)
            form = self._chosen_form(timer, number, reads, ratio)
            dense = [_as_timed(*other.skipped, planned) for other in alike[: timer.count]]
            draws = self._draws(timer, mlp.site.width, reads, ratio, needed)
            seconds = timer.times(draws, _ROUNDS, model_bytes=self._weight_bytes, dense=dense)
            by_form = dict(zip(timer.forms, seconds, strict=True))
            self._times.experts[key] = by_form["dense"], by_form[form or "dense"]
        return self._times.experts[key]

    def _chosen_form(self, timer: LayerTimer, number: int, reads: int, ratio: float) -> str | None:
        """Return the form that the product of an MLP will have, as the layer chooses at every call; ``None`` if nothing changes."""
        mlp = self.mlps[number]
        if not self._skips_at_all(number):
            return "dense" if mlp in self.rounded else None
        crossover = shape_speeds(timer).crossover(self.plans[number].ratio)
        skips = ratio * reads * mlp.site.width <= crossover.max_active(reads, mlp.site.width)
        return "sparse" if skips or "converted" not in timer.forms else "converted"

    def _timer(self, number: int) -> LayerTimer:
        mlp, planned, form = self.mlps[number], self.plans[number], self._forms[number]
        thresholds, int8, layers = mlp.site.name in self._limits, mlp in self.rounded, len(self._alike[form])
        timers, key = self._times.timers, (*form, thresholds, layers, int8)
        if key not in timers:
            timers[key] = timer_of(mlp, planned, thresholds=thresholds, layers=layers, int8=int8)
        return timers[key]

    def _draws(self, timer: LayerTimer, width: int, reads: int, ratio: float, needed: float) -> list[Tensor]:
        draws, key = self._times.draws, (width, reads, ratio, needed, timer.device, timer.dtype)
        if key not in draws:
            number = max(1, min(_DRAWS, _DRAWN // (reads * width)))
            made = random_activations(width, reads, ratio, needed, number)
            draws[key] = [draw.to(timer.device, timer.dtype) for draw in made]
        return draws[key]

    def _products(self, timer: LayerTimer, form: str) -> Iterator[Callable[[Tensor], Tensor]]:
        """Return the products of a form's layers, one after the other, for all MLPs."""
        key = timer, form
        if key not in self._next:
            self._next[key] = _products_of(timer.layers(form))
        return self._next[key]


def _form(mlp: MLP, planned: Plan) -> tuple[Any, ...]:
    """Return what MLPs have in common whose products take as long."""
    down, up = mlp.skipped
    return planned.kind, form_of(down), form_of(up) if planned.kind == "gated" else None


def _gate_of(mlp: MLP, owner: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what computes the gates of a gated MLP."""
    if not mlp.own_gate:
        return lambda x: mlp.activation(mlp.gate(x))
    replaced = gates.stand_ins(owner, mlp.up, mlp.down)
    assert replaced is not None  # as when the MLP was resolved
    return partial(gates.own_gate, owner, type(owner), replaced)


def _as_timed(down: Any, up: Any, planned: Plan) -> nn.Module:
    """Return the projections of an MLP in the form that ``timer_of`` times: together, if the up projection is skipped too."""
    return by_gates(without_hooks(up), without_hooks(down)) if planned.kind == "gated" else without_hooks(down)


def _products_of(layers: Iterable[nn.Module]) -> Iterator[Callable[[Tensor], Tensor]]:
    return cycle([layer.forward for layer in layers])


class LinearProducts:
    """The products that ``sparsify`` would put into linear layers that read all weights.

    Args:
        groups: of layers of the same shape.
        int8: whether their weights become int8.
        times: where is kept what was timed.
    """

    def __init__(self, groups: Sequence[Sequence[Any]], *, int8: bool, times: ModelTimes) -> None:
        self._int8, self._times = int8, times
        self._groups = [(group, self._timer(group)) for group in groups]

    def _timer(self, group: Sequence[Any]) -> LayerTimer:
        timers, key = self._times.timers, (*form_of(group[0]), len(group), self._int8)
        if key not in timers:
            timers[key] = linear_timer(group[0], len(group), int8=self._int8)
        return timers[key]

    def stand_ins(self, batch: int) -> list[StandIn]:
        """Return what stands in for the layers whose product changes for a number of examples."""
        stand_ins: list[StandIn] = []
        for group, timer in self._groups:
            if self._int8:
                products = _products_of(timer.layers("other"))
                stand_ins += [StandIn(layer, self._int8, products) for layer in group]
            elif shape_speeds(timer).always_faster().max_active(batch, 1):
                # With the model's own weights, which aren't in large pages yet.
                stand_ins += [StandIn(layer, self._int8, _products_of([fast_copy(layer)])) for layer in group]
        return stand_ins

    def summary(
        self, stand_ins: Sequence[StandIn], before: Mapping[nn.Module, float], after: Mapping[nn.Module, float]
    ) -> OtherLayers:
        """Return what the layers read and how long they take, all together.

        Args:
            stand_ins: for them.
            before, after: the seconds of each layer.
        """
        weights: list[Tensor] = [stand_in.module.get_parameter("weight") for stand_in in stand_ins]
        return OtherLayers(
            float(sum(weight.nbytes for weight in weights)),
            float(sum(weight.numel() if self._int8 else weight.nbytes for weight in weights)),
            sum(before[stand_in.module] for stand_in in stand_ins),
            sum(after[stand_in.module] for stand_in in stand_ins),
        )
