"""Time dense and sparse layers of one shape on the device they run on."""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import cycle
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn

from actratio.sites.linear import rows_of
from actratio.sites.mlps import MLP
from actratio.sparse.crossover import ALWAYS, BATCHES, NEVER, RATIOS, Crossover, ShapeSpeeds
from actratio.sparse.modules import install_down, install_gated
from actratio.sparse.planning import Plan
from actratio.sparse.speed_cache import cached_speeds, keep_speeds, machine_key

_WEIGHTS = 200e6  # bytes of weights that are timed in turn: more than the caches hold, unless the model has less
_CACHE_BYTES = 32_000_000  # bytes that are read to make the caches cold
_DRAWS = 5
_MIN_WINDOWS, _MAX_WINDOWS = 5, 15
_MIN_ROUNDS, _MAX_ROUNDS, _SECONDS = 2, 20, 0.01  # of a window
_ENOUGH_SECONDS = 0.3  # of one comparison; products that take long need few rounds
_STEADY = 0.05  # windows that differ by less, relatively, are enough
_LONG = 0.003  # seconds; for longer products it doesn't matter whether Python's objects are in the cache
_KINDS = {"dense": None, "sparse": ALWAYS, "converted": NEVER}
"""The layer as it was, and a converted one that always skips, or never does."""


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
        self.device, self.dtype, self.width = weights[0].device, weights[0].dtype, rows_of(down).shape[0]
        count = max(1, min(layers, int(_WEIGHTS / sum(weight.nbytes for weight in weights))))
        self.key = {
            **machine_key(self.device),
            "kind": type(down).__name__,
            "shapes": [[*weight.shape] for weight in weights],
            "dtype": str(self.dtype).removeprefix("torch."),
            "biases": [layer is not None and layer.bias is not None for layer in (down, up)],
            "thresholds": thresholds,
            "layers": count,
        }
        self._make: Callable[[Crossover | None], cycle[nn.Module]] = lambda crossover: cycle(
            [_new_layer(down, up, thresholds, crossover) for _ in range(count)]
        )

    @cached_property
    def _layers(self) -> dict[str, cycle[nn.Module]]:
        """The layers by kind, which aren't made if their speeds are known."""
        return {name: self._make(crossover) for name, crossover in _KINDS.items()}

    @cached_property
    def _cache_filler(self) -> Tensor:
        return torch.ones(_CACHE_BYTES // 4, device=self.device)

    def times(self, draws: Sequence[Tensor], rounds: int) -> tuple[float, float, float]:
        """Return the median seconds of a dense layer, and of a converted one: of its sparse product, and of its dense one.

        They are timed in turns.

        Args:
            draws: activations, (batch, width), used in turn.
            rounds: how many; another one warms up.
        """
        dense, sparse, converted = (median(times[1:]) for times in self._rounds(draws, rounds + 1, cold=False))
        return dense, sparse, converted

    def speeds(self, draws: Sequence[Tensor]) -> tuple[float, float]:
        """Return the speeds of a converted layer relative to a dense one: of its sparse product, and of its dense one.

        Several windows are timed, in each of which the layers take turns, with warm and with cold caches. A speed is the median
        over the windows; of warm and of cold caches, the lower one. Windows are added until they agree.
        """
        # The first round prepares the products, which may take longer than all that follows.
        longest = max(times[-1] for times in self._rounds(draws, 2, cold=False))
        lowest = [float("inf")] * 2
        for cold in (False, True) if longest < _LONG else (False,):
            for place, speed in enumerate(self._windows(draws, longest, cold=cold)):
                lowest[place] = min(lowest[place], speed)
        return lowest[0], lowest[1]

    def _windows(self, draws: Sequence[Tensor], longest: float, *, cold: bool) -> list[float]:
        turn = longest + (self._fill_caches() if cold else 0.0)
        rounds = min(_MAX_ROUNDS, max(_MIN_ROUNDS, int(_SECONDS / turn)))
        windows: tuple[list[float], list[float]] = ([], [])
        began = time.perf_counter()
        for number in range(_MAX_WINDOWS):
            dense, *others = map(median, self._rounds(draws, rounds, cold=cold))
            for speeds, seconds in zip(windows, others, strict=True):
                speeds.append(dense / seconds)
            if number + 1 >= _MIN_WINDOWS and (
                all(map(_agree, windows)) or time.perf_counter() - began > _ENOUGH_SECONDS
            ):
                break
        return [median(speeds) for speeds in windows]

    def _rounds(self, draws: Sequence[Tensor], rounds: int, *, cold: bool) -> list[list[float]]:
        seconds: list[list[float]] = [[] for _ in self._layers]
        for number in range(rounds):
            for layers, times in zip(self._layers.values(), seconds, strict=True):
                if cold:
                    self._fill_caches()
                times.append(_seconds(next(layers), draws[number % len(draws)]))
        return seconds

    def _fill_caches(self) -> float:
        """Make the caches cold, and return how many seconds that took."""
        start = time.perf_counter()
        self._cache_filler.sum()
        return time.perf_counter() - start


def _agree(speeds: Sequence[float]) -> bool:
    """Return whether the middle half of some speeds lies close together."""
    low, middle, high = quantiles(speeds, n=4, method="inclusive")
    return high - low < _STEADY * middle


def layer_timer(mlp: MLP, plan: Plan, thresholds: bool, layers: int) -> LayerTimer:
    """Return a timer of layers like those of one MLP.

    Args:
        plan: which of its projections are sparse.
        thresholds: whether the MLP has thresholds.
        layers: how many MLPs have this shape.
    """
    return LayerTimer(mlp.down, mlp.up if plan.kind == "gated" else None, thresholds, layers)


@torch.no_grad()
def shape_speeds(timer: LayerTimer) -> ShapeSpeeds:
    """Return the speeds of a shape, for each batch size and ratio: those that were kept, or measured now and kept.

    They are measured once for each machine, number of threads and set of versions, so that later processes decide alike.
    """
    speeds = cached_speeds(timer.key)
    if speeds is None:
        measured = [[timer.speeds(draws) for draws in _draws(timer, batch)] for batch in BATCHES]
        sparse = tuple(tuple(speed for speed, _ in row) for row in measured)
        speeds = ShapeSpeeds(sparse, tuple(median(speed for _, speed in row) for row in measured))
        keep_speeds(timer.key, speeds)
    return speeds


def _draws(timer: LayerTimer, batch: int) -> Iterator[list[Tensor]]:
    """Yield random activations of each of ``RATIOS``."""
    generator = torch.Generator().manual_seed(0)
    for ratio in RATIOS:
        x = torch.randn(_DRAWS, batch, timer.width, generator=generator)
        x *= torch.rand(_DRAWS, batch, timer.width, generator=generator) < ratio
        yield list(x.to(timer.device, timer.dtype))


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
