"""Time dense and sparse layers of one shape on the device they run on, and choose between them."""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from actratio.sites.linear import rows_of
from actratio.sites.mlps import MLP
from actratio.sparse.crossover import ALWAYS, BATCHES, NEVER, Crossover
from actratio.sparse.modules import install_down, install_gated
from actratio.sparse.planning import Plan

_WEIGHTS = 200e6  # bytes of weights that are timed in turn: more than the caches hold, unless the model has less
_CACHE_BYTES = 32_000_000  # bytes that are read to make the caches cold
_RATIOS = (0.03, 0.1, 0.25, 0.5, 1.0)
_DRAWS = 5
_MIN_ROUNDS, _MAX_ROUNDS, _SECONDS = 4, 60, 0.03
_ENOUGH_SECONDS = 0.5  # of one comparison; products that take long need few rounds
_FASTER = 0.9  # caches in a model are neither as warm nor as cold as here, so hardly faster is not enough
_SLOWER = 1.03  # more than noise
_LONG = 0.003  # seconds; for longer products it doesn't matter whether Python's objects are in the cache


class LayerTimer:
    """Dense and sparse layers of one shape, each with weights of its own. Every call uses the next layer.

    Args:
        down: a dense linear layer, whose type and shape are copied.
        up: the up projection of a gated MLP if its neurons are skipped too; the layers then take gates as their input.
        thresholds: whether neurons at or below a threshold are skipped.
        layers: how many such layers the model has; no more are made.
    """

    def __init__(self, down: nn.Module, up: nn.Module | None, thresholds: bool, layers: int) -> None:
        weights: list[Any] = [down.weight] + ([] if up is None else [up.weight])
        self.device, self.dtype = weights[0].device, weights[0].dtype
        count = max(1, min(layers, int(_WEIGHTS / sum(weight.nbytes for weight in weights))))
        self.sparse = [_new_layer(down, up, thresholds, ALWAYS) for _ in range(count)]
        self._dense = cycle([_new_layer(down, up, False, None) for _ in range(count)])
        # A layer with thresholds compares with them in its dense product too.
        self._fallback = cycle([_new_layer(down, up, True, NEVER) for _ in range(count)]) if thresholds else self._dense
        self._sparse = cycle(self.sparse)
        self._cache_filler = torch.ones(_CACHE_BYTES // 4, device=self.device)

    def times(
        self,
        draws: Sequence[Tensor],
        rounds: int,
        *,
        cold: bool = False,
        fallback: bool = False,
        enough: float = float("inf"),
    ) -> tuple[float, float]:
        """Return the median seconds of a dense and of a sparse layer, timed in turns.

        Args:
            draws: activations, (batch, width), used in turn.
            rounds: the most rounds; the first one only warms up.
            cold: make the caches cold before each call.
            fallback: time the dense product of a sparse layer instead of a dense layer.
            enough: total seconds after which timing ends.
        """
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(rounds + 1):
            compared = self._fallback if fallback else self._dense, self._sparse
            for layers, seconds in zip(compared, times, strict=True):
                if cold:
                    self._cache_filler.sum()
                seconds.append(_seconds(next(layers), draws[number % len(draws)]))
            spent = sum(map(sum, times))
            if spent > enough and (number >= _MIN_ROUNDS or (number and spent > _ENOUGH_SECONDS)):
                break
        dense, sparse = (median(seconds[1:]) for seconds in times)
        return dense, sparse

    def fallback_seconds(self, draws: Sequence[Tensor], rounds: int) -> float:
        """Return the median seconds of a sparse layer that falls back to its dense product."""
        return self.times(draws, rounds, fallback=True)[0]

    def is_faster(self, draws: Sequence[Tensor]) -> bool:
        """Return whether sparse layers are faster by more than noise, with warm and with cold caches."""
        dense, sparse = self._short(draws, cold=False)
        if sparse > _FASTER * dense or dense > _LONG:
            return sparse <= _FASTER * dense
        dense, sparse = self._short(draws, cold=True)
        return sparse <= _FASTER * dense

    def is_slower(self, draws: Sequence[Tensor]) -> bool:
        """Return whether sparse layers are slower by more than noise, twice in a row."""
        for _ in range(2):
            dense, sparse = self._short(draws, cold=False)
            if sparse <= _SLOWER * dense:
                return False
        return True

    def _short(self, draws: Sequence[Tensor], *, cold: bool) -> tuple[float, float]:
        return self.times(draws, _MAX_ROUNDS, cold=cold, fallback=True, enough=_SECONDS)


def layer_timer(mlp: MLP, plan: Plan, thresholds: bool, layers: int) -> LayerTimer:
    """Return a timer of layers like those of one MLP.

    Args:
        plan: which of its projections are sparse.
        thresholds: whether the MLP has thresholds.
        layers: how many MLPs have this shape.
    """
    return LayerTimer(mlp.down, mlp.up if plan.kind == "gated" else None, thresholds, layers)


def autotune_crossover(timer: LayerTimer, width: int, ratio: float = 1.0) -> Crossover:
    """Measure the ratio above which the dense product is faster, for each batch size.

    The result is ``NEVER`` if a sparse layer would be slower than the dense layer for some batch size, even though it falls back to
    a dense product: its weights are in another order, and it has to look for active neurons.

    Args:
        width: number of neurons.
        ratio: ratio of active neurons at which the layer must not be slower.
    """
    generator = torch.Generator().manual_seed(0)

    def draws(batch: int, ratio: float) -> list[Tensor]:
        x = torch.randn(_DRAWS, batch, width, generator=generator)
        x *= torch.rand(_DRAWS, batch, width, generator=generator) < ratio
        return list(x.to(timer.device, timer.dtype))

    def largest_faster(batch: int) -> float:
        """Return the largest of ``_RATIOS`` at which sparse layers are faster, found by bisection; 0 if there is none."""
        low, high = 0, len(_RATIOS)
        while low < high:
            middle = (low + high) // 2
            if timer.is_faster(draws(batch, _RATIOS[middle])):
                low = middle + 1
            else:
                high = middle
        return _RATIOS[low - 1] if low else 0.0

    with torch.no_grad():
        ratios = [largest_faster(batch) for batch in BATCHES]
        for place, batch in enumerate(BATCHES):
            # If looking for active neurons takes too long, a ratio of 0 turns it off for this batch size.
            for limit in sorted({ratios[place], 0.0}, reverse=True):
                ratios[place] = limit
                _set_crossover(timer.sparse, Crossover(tuple(ratios)))
                if ratio <= limit or not timer.is_slower(draws(batch, ratio)):
                    break
            else:
                return NEVER
    return Crossover(tuple(ratios))


def _set_crossover(layers: Iterable[Any], crossover: Crossover) -> None:
    for layer in layers:
        for module in layer.modules():
            if "_crossover" in module.__dict__:
                module._crossover = crossover


def _seconds(layer: Callable[[Tensor], object], hidden: Tensor) -> float:
    start = time.perf_counter()
    layer(hidden)
    if hidden.device.type == "cuda":
        torch.cuda.synchronize(hidden.device)
    return time.perf_counter() - start


class _Gated(nn.Module):
    """A gated MLP whose gates are set from outside."""

    def __init__(self, up: nn.Module, down: nn.Module) -> None:
        super().__init__()
        self.gate, self.act, self.up, self.down = _FixedGates(up), nn.Identity(), up, down

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.act(self.gate(x)) * self.up(x))
        return out


class _FixedGates(nn.Module):
    """Return ``gates`` whatever the input is."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.weight = self.gates = like.weight.detach()

    def forward(self, _: Tensor) -> Tensor:
        out: Tensor = self.gates
        return out


class _GatedByInput(nn.Module):
    """Call a gated MLP with the input as its gates, on a vector of ones."""

    def __init__(self, mlp: _Gated) -> None:
        super().__init__()
        self.mlp = mlp
        self._inputs: dict[int, Tensor] = {}

    def forward(self, gates: Tensor) -> Tensor:
        gate: Any = self.mlp.gate
        gate.gates = gates
        if len(gates) not in self._inputs:
            self._inputs[len(gates)] = gates.new_ones(len(gates), gate.weight.shape[1])
        out: Tensor = self.mlp(self._inputs[len(gates)])
        return out


def _new_layer(down: nn.Module, up: nn.Module | None, thresholds: bool, crossover: Crossover | None) -> nn.Module:
    """Return a new layer with the given crossover; a dense one without."""
    new: Any = _like(down)
    gated = None if up is None else _Gated(_like(up), new)
    if crossover is not None:
        install_down(new, torch.zeros(rows_of(new).shape[0]) if thresholds else None, crossover)
    if gated is None:
        return new  # type: ignore[no-any-return]
    if crossover is not None:
        install_gated(gated, (gated.gate, gated.act, gated.up, new), crossover)
    return _GatedByInput(gated).eval()


def _like(layer: nn.Module) -> nn.Module:
    """Return a new layer of the same type and shape without hooks."""
    new = copy.copy(layer)
    new.__dict__.update(_forward_hooks=OrderedDict(), _forward_pre_hooks=OrderedDict())
    new._parameters = {
        name: None if value is None else nn.Parameter(torch.full_like(value.detach(), 0.01), requires_grad=False)
        for name, value in layer._parameters.items()
    }
    return new.eval()
