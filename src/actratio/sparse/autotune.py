"""Time dense and sparse layers of one shape on the device they run on."""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import cycle
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn

from actratio.sites.linear import rows_of
from actratio.sparse.crossover import ALWAYS, BATCHES, NEVER, RATIOS, Crossover, ShapeSpeeds
from actratio.sparse.int8 import install_int8
from actratio.sparse.layers import move_to_large_pages
from actratio.sparse.linears import install_fast
from actratio.sparse.modules import install_down, install_gated
from actratio.sparse.speed_cache import cached_speeds, keep_speeds, machine_key

_WEIGHTS = 200e6  # bytes of weights that are timed in turn: more than the caches hold, unless the model has less
_CACHE_BYTES = 32_000_000  # bytes that are read to make the caches cold
_FORGOTTEN = 128_000_000  # bytes after which no cache has what was read before
_RUN = 5  # the most products of a kind that are timed in a row
_DRAWS = 5
_MIN_WINDOWS, _MAX_WINDOWS = 5, 15
_MIN_ROUNDS, _MAX_ROUNDS, _SECONDS = 2, 20, 0.01  # of a window
_ENOUGH_SECONDS = 0.3  # of one comparison; products that take long need few rounds
_MIN_TURNS = 3  # of layers that take long; each turn times one run
_STEADY = 0.05  # windows that differ by less, relatively, are enough
_BUSY = 0.5  # if they differ by more, other work disturbs this machine, and the speeds aren't kept
_LONG_PROBE = 0.3  # seconds of a call, which is then timed only twice
_SLOW_SPEED = 0.1  # relative to the first form; a converted layer that is slower, and takes so long, isn't timed again
_CONVERTED = "converted"  # the form that never skips neurons, so its time doesn't depend on how many are active
_LONG = 0.003  # seconds; for longer products it doesn't matter whether Python's objects are in the cache


class LayerTimer:
    """Layers of one shape in several forms, each layer with weights of its own. What is timed is always the next layer of a form.

    Args:
        forms: what makes a layer of each form; the first one is what the others are compared with.
        like: the projections whose shapes and types the layers have.
        inputs: the number of inputs of a layer.
        ratios: the activation ratios that matter for its speed.
        layers: how many such layers the model has; no more are made.
        key: what the speeds depend on, besides the machine, the shapes and the type.
    """

    def __init__(
        self,
        forms: Mapping[str, Callable[[], nn.Module]],
        like: Sequence[Any],
        inputs: int,
        ratios: Sequence[float],
        layers: int,
        **key: Any,
    ) -> None:
        weights: list[Tensor] = [layer.weight for layer in like]
        self.device, self.dtype, self.width, self.ratios = weights[0].device, weights[0].dtype, inputs, ratios
        item_size = 1 if key.get("int8") else self.dtype.itemsize
        count = max(1, min(layers, int(_WEIGHTS / sum(weight.numel() * item_size for weight in weights))))
        self.key = {
            **machine_key(self.device),
            "kind": type(like[0]).__name__,
            "shapes": [[*weight.shape] for weight in weights],
            "dtype": str(self.dtype).removeprefix("torch."),
            "biases": [layer.bias is not None for layer in like],
            "layers": count,
            **key,
        }
        self.forms, self.count = forms, count
        self._made: dict[str, list[nn.Module]] = {}
        self._next: dict[str, cycle[nn.Module]] = {}
        self._prepared_batches: set[int] = set()
        self._slow: dict[str, float] = {}  # speeds of forms that aren't timed any more
        self.is_steady = True
        """Whether the windows of all speeds agreed roughly. If not, the machine was busy."""
        self.shape_speeds: ShapeSpeeds | None = None
        """What ``shape_speeds`` found."""

    def layers(self, form: str) -> list[nn.Module]:
        """Return the layers of a form, which are made when they are first needed."""
        if form not in self._made:
            self._made[form] = [self.forms[form]() for _ in range(self.count)]
        return self._made[form]

    def _layers(self, dense: Sequence[nn.Module] = (), forms: Sequence[str] = ()) -> list[cycle[nn.Module]]:
        """Return the layers of each form, or of some forms. Those of the first one are from ``dense`` if there are any."""
        new = list(forms or self.forms)[1 if dense else 0 :]
        for form in new:
            if form not in self._next:
                self._next[form] = cycle(self.layers(form))
        given = [cycle(dense[: self.count])] if dense else []
        return given + [self._next[form] for form in new]

    @cached_property
    def _other_weights(self) -> Tensor:
        return torch.ones(_FORGOTTEN // 4, device=self.device)

    @cached_property
    def _cache_filler(self) -> Tensor:
        return torch.ones(_CACHE_BYTES // 4, device=self.device)

    def times(
        self,
        draws: Sequence[Tensor],
        rounds: int,
        *,
        model_bytes: float,
        dense: Sequence[nn.Module] = (),
    ) -> list[float]:
        """Return the median seconds of each form in a model. They are timed in turns.

        Before each turn, the caches get what the model would leave in them: it reads all its other weights between two calls of a
        layer.

        Args:
            draws: inputs, (batch, inputs), used in turn.
            rounds: the most; fewer if they take long.
            model_bytes: of all weights of the model.
            dense: layers with the model's own weights, which are timed as the first form in place of new ones. Where weights lie in
                memory matters: dense layers whose weights were read from a file took 6% longer than new ones.
        """
        forms = self._layers(dense)
        self._warm_up(forms, draws[0])
        seconds: list[list[float]] = [[] for _ in forms]
        began = time.perf_counter()
        for number in range(rounds):
            if number >= _MIN_TURNS and time.perf_counter() - began > _ENOUGH_SECONDS / 2:
                break
            for layers, times in zip(forms, seconds, strict=True):
                draw = draws[number % len(draws)]
                self._pass_through_model(layers, draw, model_bytes)
                counted = 1
                if self.count > 1:  # else it is large
                    next(layers)(draw)  # wakes threads, and brings what Python needs into the caches
                    counted = min(_RUN, self.count - 1)
                times += [_seconds(next(layers), draws[(number + place) % len(draws)]) for place in range(counted)]
        return [median(times) for times in seconds]

    def _pass_through_model(self, layers: Iterator[nn.Module], draw: Tensor, model_bytes: float) -> None:
        """Call all layers, then read as much as the model's other weights, as far as the caches can remember it."""
        called = [next(layers) for _ in range(self.count)]
        others = model_bytes - sum(parameter.nbytes for layer in called for parameter in layer.parameters())
        if others < _FORGOTTEN:
            for layer in called:
                layer(draw)
        self._other_weights[: int(min(max(others, 0.0), _FORGOTTEN)) // 4].sum()

    def speeds(self, draws: Sequence[Tensor]) -> list[float]:
        """Return the speed of each form but the first, relative to the first.

        Several windows are timed, with warm and with cold caches. In a window, the layers take turns. A speed is the median
        over the windows; the lower one of those with warm and with cold caches. Windows are added until they agree.

        If a call takes very long, each form is timed twice only. A converted layer that is also much slower than the first form isn't timed
        again, not even with larger batches: without AVX-512, torch's bfloat16 product of weights that are stored by neurons took up to a hundred
        times as long as that of other weights.
        """
        names = [name for name in self.forms if name not in self._slow]
        batch = len(draws[0])
        if batch not in self._prepared_batches:
            self._warm_up(self._layers(forms=names), draws[0])
            self._prepared_batches.add(batch)
        seconds = self._probe(names, draws)
        if max(seconds.values()) > _LONG_PROBE:
            again = self._probe(names, draws)
            is_steady = all(_agree((seconds[name], again[name]), _BUSY) for name in names)
            seconds = {name: min(seconds[name], again[name]) for name in names}
            dense = seconds[names[0]]
            if seconds.get(_CONVERTED, 0.0) > max(_LONG_PROBE, dense / _SLOW_SPEED):
                self._slow[_CONVERTED] = dense / seconds.pop(_CONVERTED)
                names = list(seconds)
            if max(seconds.values()) > _LONG_PROBE:
                self.is_steady &= is_steady
                return self._of_all_forms({name: dense / seconds[name] for name in names[1:]})
        longest = max(seconds.values())
        states = (False, True) if longest < _LONG else (False,)
        speeds = [self._windows(names, draws, longest, cold=cold) for cold in states]
        return self._of_all_forms(dict(zip(names[1:], map(min, zip(*speeds, strict=True)), strict=True)))

    def _probe(self, names: Sequence[str], draws: Sequence[Tensor]) -> dict[str, float]:
        """Return the seconds of one call of each of some forms."""
        return {name: times[-1] for name, times in zip(names, self._rounds(names, draws, 1, cold=False), strict=True)}

    def _of_all_forms(self, found: Mapping[str, float]) -> list[float]:
        """Return the speed of each form but the first."""
        speeds = {**self._slow, **found}
        return [speeds[form] for form in list(self.forms)[1:]]

    def _warm_up(self, forms: Sequence[Iterator[nn.Module]], draw: Tensor) -> None:
        """Call every layer once: a layer prepares its product at the first call with a batch size, which may take longer than the call."""
        for layers in forms:
            for _ in range(self.count):
                next(layers)(draw)

    def _windows(self, names: Sequence[str], draws: Sequence[Tensor], longest: float, *, cold: bool) -> list[float]:
        turn = longest + (self._fill_caches() if cold else 0.0)
        rounds = min(_MAX_ROUNDS, max(_MIN_ROUNDS, int(_SECONDS / turn)))
        windows: list[list[float]] = [[] for _ in names[1:]]
        began = time.perf_counter()
        for number in range(_MAX_WINDOWS):
            first, *others = map(median, self._rounds(names, draws, rounds, cold=cold))
            for speeds, seconds in zip(windows, others, strict=True):
                speeds.append(first / seconds)
            if number + 1 >= _MIN_WINDOWS and (
                all(map(_agree, windows)) or time.perf_counter() - began > _ENOUGH_SECONDS
            ):
                break
        self.is_steady &= all(_agree(speeds, _BUSY) for speeds in windows)
        return [median(speeds) for speeds in windows]

    def _rounds(self, names: Sequence[str], draws: Sequence[Tensor], rounds: int, *, cold: bool) -> list[list[float]]:
        forms = self._layers(forms=names)
        seconds: list[list[float]] = [[] for _ in forms]
        for number in range(rounds):
            for layers, times in zip(forms, seconds, strict=True):
                if cold:
                    self._fill_caches()
                times.append(_seconds(next(layers), draws[number % len(draws)]))
        return seconds

    def _fill_caches(self) -> float:
        """Make the caches cold, and return how many seconds that took."""
        start = time.perf_counter()
        self._cache_filler.sum()
        return time.perf_counter() - start


def _agree(speeds: Sequence[float], share: float = _STEADY) -> bool:
    """Return whether the middle half of some speeds lies within a share of their median."""
    low, middle, high = quantiles(speeds, n=4, method="inclusive")
    return high - low <= share * middle


def layer_timer(
    down: nn.Module, up: nn.Module | None = None, *, thresholds: bool = False, layers: int = 1, int8: bool = False
) -> LayerTimer:
    """Return a timer of the products that skip neurons: dense, and converted layers that always skip, or never do.

    Linear layers with int8 weights always skip. The MLPs among them that never do skip in the down projection only.

    Args:
        down: the down projection, or another linear layer that reads many zeros.
        up: the up projection of a gated MLP if its neurons are skipped too; the layers then take gates as their input.
        thresholds: whether neurons at or below a threshold are skipped.
        layers: how many such layers the model has.
        int8: whether all weights are int8, those of the dense layer too.
    """
    forms = {
        name: partial(_new_layer, down, up, thresholds, crossover, int8)
        for name, crossover in (("dense", None), ("sparse", ALWAYS), (_CONVERTED, NEVER))
    }
    if int8 and up is None:
        del forms[_CONVERTED]
    like = [down] if up is None else [down, up]
    return LayerTimer(forms, like, rows_of(down).shape[0], RATIOS, layers, thresholds=thresholds, int8=int8)


def linear_timer(layer: nn.Module, layers: int, *, int8: bool = False) -> LayerTimer:
    """Return a timer of a linear layer with torch's dense product, and with the other one, which reads all weights too.

    Args:
        layers: how many layers have this shape.
        int8: whether the other product's weights are int8.
    """

    def other() -> nn.Module:
        new = _like(layer)
        if int8:
            install_int8(new)
        else:
            move_to_large_pages(new.get_parameter("weight"))
            install_fast(new, ALWAYS)
        return new

    forms: dict[str, Callable[[], nn.Module]] = {"torch": partial(_like, layer), "other": other}
    return LayerTimer(forms, [layer], rows_of(layer).shape[0], (1.0,), layers, product="dense", int8=int8)


@torch.no_grad()
def shape_speeds(timer: LayerTimer) -> ShapeSpeeds:
    """Return the speeds of a shape, for each batch size and ratio: those that were kept, or measured now and kept.

    They are measured once for each machine, number of threads and set of versions, so that later processes decide alike. Speeds that were
    measured while the machine was busy aren't kept, but the timer remembers them, so that what it decides doesn't change.
    """
    speeds = timer.shape_speeds or cached_speeds(timer.key)
    if speeds is None:
        measured = [[timer.speeds(draws) for draws in _draws(timer, batch)] for batch in BATCHES]
        repeats = len(RATIOS) // len(timer.ratios)  # a product that reads everything takes as long for any ratio
        sparse = tuple(tuple(speed for speed, *_ in row) * repeats for row in measured)
        dense = tuple(_unskipped_speed(timer, row) for row in measured)
        speeds = ShapeSpeeds(sparse, dense)
        if timer.is_steady:
            keep_speeds(timer.key, speeds)
    timer.shape_speeds = speeds
    return speeds


def _unskipped_speed(timer: LayerTimer, row: Sequence[Sequence[float]]) -> float:
    """Return the speed of a converted layer that doesn't skip, from the speeds of all forms but the first, for each of ``RATIOS``."""
    is_int8 = timer.key.get("int8", False)
    if _CONVERTED not in timer.forms:
        return 0.0 if is_int8 else 1.0  # with int8 weights it always skips; other products are torch's
    speeds = [converted for _, converted in row]
    return speeds[-1] if is_int8 else median(speeds)  # with int8 weights, its speed depends on the ratio


def _draws(timer: LayerTimer, batch: int) -> Iterator[list[Tensor]]:
    """Yield random inputs of each of the timer's ratios."""
    generator = torch.Generator().manual_seed(0)
    for ratio in timer.ratios:
        x = torch.randn(_DRAWS, batch, timer.width, generator=generator)
        x *= torch.rand(_DRAWS, batch, timer.width, generator=generator) < ratio
        yield list(x.to(timer.device, timer.dtype))


def _seconds(layer: Callable[[Tensor], object], hidden: Tensor) -> float:
    if hidden.device.type == "cuda":
        torch.cuda.synchronize(hidden.device)  # what was started before isn't counted
    start = time.perf_counter()
    layer(hidden)
    if hidden.device.type == "cuda":
        torch.cuda.synchronize(hidden.device)
    return time.perf_counter() - start


class _Gated(nn.Module):
    """A gated MLP whose gates are set from outside."""

    def __init__(self, up: nn.Module, down: nn.Module) -> None:
        super().__init__()
        self.gate, self.act, self.up, self.down = _FixedGates(up), _Unchanged(), up, down

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.act(self.gate(x)) * self.up(x))
        return out


# Calls of these two take no time that would be counted as the product's, as ``Module.__call__`` does.


class _FixedGates(nn.Module):
    """Return ``gates`` whatever the input is."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.weight = like.weight.detach()[:1]

    def __call__(self, _: Tensor) -> Tensor:
        gates: Tensor = self.__dict__["gates"]
        return gates


class _Unchanged(nn.Module):
    """Return the input."""

    def __call__(self, gates: Tensor) -> Tensor:
        return gates


class _GatedByInput(nn.Module):
    """Call a gated MLP with the input as its gates, on a vector of ones."""

    def __init__(self, mlp: _Gated) -> None:
        super().__init__()
        self.mlp = mlp
        self._ones: dict[torch.Size, Tensor] = {}

    def forward(self, gates: Tensor) -> Tensor:
        mlp: Any = self._modules["mlp"]
        gate: Any = mlp._modules["gate"]
        gate.__dict__["gates"] = gates
        examples = gates.shape[:-1]
        if examples not in self._ones:
            self._ones[examples] = gates.new_ones(*examples, gate.weight.shape[1])
        out: Tensor = mlp.forward(self._ones[examples])
        return out


def by_gates(up: Any, down: nn.Module) -> nn.Module:
    """Return a dense gated MLP that takes its gates as input, as the layers of ``layer_timer`` with an up projection do."""
    return _GatedByInput(_Gated(up, down)).eval()


def _new_layer(
    down: nn.Module, up: nn.Module | None, thresholds: bool, crossover: Crossover | None, int8: bool
) -> nn.Module:
    """Return a new layer with the given crossover; a dense one without."""
    new: Any = _like(down)
    limits = torch.zeros(rows_of(new).shape[0]) if thresholds and crossover is not None else None
    gated = None if up is None else _Gated(_like(up), new)
    if int8:
        install_int8(new, by_neurons=crossover is not None, thresholds=limits)
        if gated is not None:
            install_int8(gated.up)
    elif crossover is not None:
        install_down(new, limits, crossover)
    if gated is None:
        return new  # type: ignore[no-any-return]
    if crossover is not None:
        move_to_large_pages(gated.up.get_parameter("weight"))
        install_gated(gated, (gated.gate, gated.act, gated.up, new), crossover)
    return _GatedByInput(gated).eval()


def without_hooks(layer: nn.Module) -> nn.Module:
    """Return a layer with the same parameters and without hooks."""
    new = copy.copy(layer)
    new.__dict__.update(
        _forward_hooks=OrderedDict(),
        _forward_pre_hooks=OrderedDict(),
        _buffers={**layer._buffers},
        _parameters={**layer._parameters},
    )
    return new.eval()


def fast_copy(layer: nn.Module) -> nn.Module:
    """Return a linear layer with the same parameters and the other dense product."""
    new = without_hooks(layer)
    install_fast(new, ALWAYS)
    return new


def _like(layer: nn.Module) -> nn.Module:
    """Return a new layer of the same type and shape without hooks."""
    new = without_hooks(layer)
    new._parameters = {
        name: None if value is None else nn.Parameter(value.detach().clone(), requires_grad=False)
        for name, value in layer._parameters.items()
    }
    return new.eval()
