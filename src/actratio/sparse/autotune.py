"""Dense against sparse layers of one shape, timed where they will run."""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from actratio.sparse.crossover import ALWAYS, BATCHES, NEVER, Crossover
from actratio.sparse.modules import install_down, install_gated
from actratio.sparse.planning import Plan, down_of, parts_of

_WEIGHTS = 200e6  # bytes of weights that are timed in turn: more than caches hold, unless the model has less
_BETWEEN = 32_000_000  # bytes that are read where caches are to be cold
_RATIOS = (0.03, 0.1, 0.25, 0.5, 1.0)
_DRAWS = 5
_LEAST_ROUNDS, _MOST_ROUNDS, _SECONDS = 4, 60, 0.03
_PLENTY = 0.5  # seconds of one contest, of which long products need few rounds
_FASTER = 0.9  # in a model it is neither as warm nor as cold as here: what is hardly faster is not worth it
_SLOWER = 1.03  # by more than noise
_LONG = 0.003  # seconds, beside which it does not matter whether Python's objects are in the cache


class Contest:
    """Layers as they are and sparse ones, with weights of their own, of which each call takes the next.

    Args:
        down: a linear layer, as is.
        up: the up projection of a gated MLP, if that is to be skipped too; its gates are then what the layers are given.
        thresholds: whether neurons below a threshold are skipped.
        layers: how many of them a model has, if fewer than what caches hold.
    """

    def __init__(self, down: nn.Module, up: nn.Module | None, thresholds: bool, layers: int) -> None:
        weights: list[Any] = [down.weight] + ([] if up is None else [up.weight])
        self.device, self.dtype = weights[0].device, weights[0].dtype
        count = max(1, min(layers, int(_WEIGHTS / sum(each.nbytes for each in weights))))
        self.sparse = [_made(down, up, thresholds, ALWAYS) for _ in range(count)]
        self._dense = cycle([_made(down, up, False, None) for _ in range(count)])
        # Where there are thresholds, a layer is not as it was, even if it is dense.
        self._fallback = cycle([_made(down, up, True, NEVER) for _ in range(count)]) if thresholds else self._dense
        self._sparse = cycle(self.sparse)
        self._between = torch.ones(_BETWEEN // 4, device=self.device)

    def times(
        self,
        draws: Sequence[Tensor],
        rounds: int,
        *,
        cold: bool = False,
        fallback: bool = False,
        enough: float = float("inf"),
    ) -> tuple[float, float]:
        """Medians of the seconds that a dense and a sparse layer take, in turns.

        Args:
            draws: activations, (batch, width), that go round.
            rounds: at most; the first one only warms up.
            cold: read something else before each.
            fallback: time what a sparse layer does where it is dense, in the place of a layer as it is.
            enough: seconds in all, after which it ends.
        """
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(rounds + 1):
            rivals = self._fallback if fallback else self._dense, self._sparse
            for layers, seconds in zip(rivals, times, strict=True):
                if cold:
                    self._between.sum()
                seconds.append(_seconds(next(layers), draws[number % len(draws)]))
            spent = sum(map(sum, times))
            if spent > enough and (number >= _LEAST_ROUNDS or (number and spent > _PLENTY)):
                break
        dense, sparse = (median(seconds[1:]) for seconds in times)
        return dense, sparse

    def fallback_seconds(self, draws: Sequence[Tensor], rounds: int) -> float:
        """The median of the seconds that a sparse layer takes where it is dense."""
        return self.times(draws, rounds, fallback=True)[0]

    def is_faster(self, draws: Sequence[Tensor]) -> bool:
        """Whether sparse layers take less time by more than noise, with warm caches and with cold ones."""
        dense, sparse = self._short(draws, cold=False)
        if sparse > _FASTER * dense or dense > _LONG:
            return sparse <= _FASTER * dense
        dense, sparse = self._short(draws, cold=True)
        return sparse <= _FASTER * dense

    def is_slower(self, draws: Sequence[Tensor]) -> bool:
        """Whether sparse layers take more time by more than noise, and do so again when they are timed again."""
        for _ in range(2):
            dense, sparse = self._short(draws, cold=False)
            if sparse <= _SLOWER * dense:
                return False
        return True

    def _short(self, draws: Sequence[Tensor], *, cold: bool) -> tuple[float, float]:
        return self.times(draws, _MOST_ROUNDS, cold=cold, fallback=True, enough=_SECONDS)


def contest_of(modules: Mapping[str, nn.Module], each: Plan, cut: bool, layers: int) -> Contest:
    """Layers like those of one MLP.

    Args:
        cut: whether it has thresholds.
        layers: how many MLPs are like it.
    """
    parts = parts_of(modules, each.site) if each.kind == "gated" else None
    return Contest(down_of(modules, each.site), None if parts is None else parts[2], cut, layers)


def measure_crossover(contest: Contest, width: int, ratio: float = 1.0) -> Crossover:
    """From which ratio on the dense product is faster.

    ``NEVER`` where a sparse layer, dense where that is faster, would for some batch be slower than the layer as it was: its weights
    lie in another order, and it looks what is active.

    Args:
        width: number of neurons.
        ratio: of neurons that are active, at which it must not be slower.
    """
    generator = torch.Generator().manual_seed(0)

    def draws(batch: int, ratio: float) -> list[Tensor]:
        x = torch.randn(_DRAWS, batch, width, generator=generator)
        x *= torch.rand(_DRAWS, batch, width, generator=generator) < ratio
        return list(x.to(contest.device, contest.dtype))

    def always(batch: int) -> float:
        """The largest ratio at which it is faster, found by halves."""
        low, high = 0, len(_RATIOS)
        while low < high:
            middle = (low + high) // 2
            if contest.is_faster(draws(batch, _RATIOS[middle])):
                low = middle + 1
            else:
                high = middle
        return _RATIOS[low - 1] if low else 0.0

    with torch.no_grad():
        ratios = [always(batch) for batch in BATCHES]
        for place, batch in enumerate(BATCHES):
            # Where looking what is active takes too long, it is not looked.
            for most in sorted({ratios[place], 0.0}, reverse=True):
                ratios[place] = most
                _give(contest.sparse, Crossover(tuple(ratios)))
                if ratio <= most or not contest.is_slower(draws(batch, ratio)):
                    break
            else:
                return NEVER
    return Crossover(tuple(ratios))


def _give(layers: Iterable[Any], crossover: Crossover) -> None:
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
    """A gated MLP whose gates are given."""

    def __init__(self, up: nn.Module, down: nn.Module) -> None:
        super().__init__()
        self.gate, self.act, self.up, self.down = _Given(up), nn.Identity(), up, down

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.act(self.gate(x)) * self.up(x))
        return out


class _Given(nn.Module):
    def __init__(self, like: Any) -> None:
        super().__init__()
        self.weight = self.gates = like.weight.detach()

    def forward(self, _: Tensor) -> Tensor:
        out: Tensor = self.gates
        return out


class _Fed(nn.Module):
    """Gives a gated MLP its gates and an input."""

    def __init__(self, mlp: _Gated) -> None:
        super().__init__()
        self.mlp = mlp
        self._inputs: dict[int, Tensor] = {}

    def forward(self, gates: Tensor) -> Tensor:
        given: Any = self.mlp.gate
        given.gates = gates
        if len(gates) not in self._inputs:
            self._inputs[len(gates)] = gates.new_ones(len(gates), given.weight.shape[1])
        out: Tensor = self.mlp(self._inputs[len(gates)])
        return out


def _made(down: nn.Module, up: nn.Module | None, thresholds: bool, crossover: Crossover | None) -> nn.Module:
    """A new layer; without a crossover it is left as it is."""
    new: Any = _like(down)
    gated = None if up is None else _Gated(_like(up), new)
    if crossover is not None:
        cut = torch.zeros(new.weight.shape[1 if isinstance(new, nn.Linear) else 0]) if thresholds else None
        install_down(new, cut, crossover)
    if gated is None:
        return new  # type: ignore[no-any-return]
    if crossover is not None:
        install_gated(gated, (gated.gate, gated.act, gated.up, new), crossover)
    return _Fed(gated).eval()


def _like(layer: nn.Module) -> nn.Module:
    """Another layer of the same type and shape, on which nothing hooks."""
    made = copy.copy(layer)
    made.__dict__.update(_forward_hooks=OrderedDict(), _forward_pre_hooks=OrderedDict())
    made._parameters = {
        name: None if each is None else nn.Parameter(torch.full_like(each.detach(), 0.01), requires_grad=False)
        for name, each in layer._parameters.items()
    }
    return made.eval()
