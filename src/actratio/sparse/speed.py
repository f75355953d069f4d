"""Will it be faster? From measured ratios, what this machine reads and multiplies, and how close the kernels come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from actratio.counting.counts import SiteCounts
from actratio.counting.criteria import Nonzero
from actratio.counting.kernels import count
from actratio.counting.measurement import Measurement, Row
from actratio.errors import SiteError
from actratio.sites.inputs import device_of
from actratio.sparse.autotune import contest_of
from actratio.sparse.planning import NO_ZEROS, Plan, counts_of_nonzero, down_of, plan

_ROUNDS = 10
_WORTH = 1.1
_MARGIN = 1.03  # what is within noise is neither faster nor slower
_DRAWS = 8


@dataclass(frozen=True)
class LayerSpeed:
    """What an MLP's products need for one batch, and take.

    Attributes:
        plan: what would become of it.
        needed: share of neurons that some example of the batch needs.
        used: how probable it is that some example needs the MLP at all: 1, but of an expert.
        held_bytes: of its weights.
        dense_bytes, sparse_bytes: of weights that are read.
        dense_flops, sparse_flops: multiplications and additions, two each.
        dense_seconds, sparse_seconds: of the products that sparsity changes (equal where it changes none), timed here on
            random numbers with as many active neurons.
    """

    plan: Plan
    needed: float
    used: float
    held_bytes: float
    dense_bytes: float
    sparse_bytes: float
    dense_flops: float
    sparse_flops: float
    dense_seconds: float
    sparse_seconds: float


@dataclass(frozen=True)
class Speed:
    """What is to be expected of a model for one batch size, a token for each sequence.

    Attributes:
        dense_seconds: one forward pass of a token a sequence, timed here.
        ideal: speed-up by bytes, if nothing but weights were read, and everything at the same rate (Amdahl's law over the MLPs' share).
        ideal_mlp: the same of the MLPs alone.
        expected: speed-up from the times of the products that change.
        verdict: in words.
    """

    batch: int
    layers: list[LayerSpeed]
    dense_seconds: float
    ideal: float
    ideal_mlp: float
    expected: float
    verdict: str

    @property
    def faster(self) -> bool:
        """Whether it is worth it."""
        return self.expected >= _WORTH


@dataclass(frozen=True)
class Machine:
    """What the model's device does now: bytes a second that are read from memory, and FLOP/s of a matrix product."""

    bandwidth: float
    matmul: float


def predict(
    model: nn.Module,
    measurement: Measurement,
    batches: Sequence[int] = (1,),
    thresholds: Mapping[str, Tensor] | None = None,
) -> tuple[Machine, list[Speed]]:
    """Predict how much faster ``sparsify`` makes a model's decoding, before doing it.

    Args:
        model: a causal language model of transformers'.
        measurement: of this model.
        batches: sequences that are decoded together.
        thresholds: as for ``sparsify``, where the measurement is of what is above them.

    Raises:
        SiteError: no MLP, a measurement of another model, or a model that does not decode.
    """
    found = plan(model, measurement, thresholds)
    stopwatch = _Stopwatch(model, found)
    cut = thresholds or {}
    speeds = []
    with torch.no_grad():
        machine = _machine(device_of(model))
        for batch in batches:
            layers = [_layer(model, each, measurement, batch, each.site.name in cut, stopwatch) for each in found]
            speeds.append(_speed(model, batch, layers))
    return machine, speeds


def _machine(device: torch.device) -> Machine:
    array, square = torch.ones(50_000_000, device=device), torch.ones(1536, 1536, device=device)
    read = min(_timed(lambda: array.sum(), device) for _ in range(5))
    multiplied = min(_timed(lambda: square @ square, device) for _ in range(3))
    return Machine(array.numel() * 4 / read, 2 * len(square) ** 3 / multiplied)


def _timed(run: Any, device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def needed_of(counts: SiteCounts, batch: int) -> float:
    """Share of neurons that some of so many tokens need: of sequences that have nothing to do with each other.

    Each neuron fires on its own share p of the tokens, so that some of B need it with probability 1 − (1 − p)^B. Successive tokens of
    one sequence (``union_ratio``) are more alike, and need fewer.
    """
    if not counts.tokens:
        return 1.0
    return float((1 - (1 - counts.active.double() / counts.tokens) ** batch).mean())


def measured_above(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], thresholds: Mapping[str, Tensor]
) -> Measurement:
    """Which neurons are above their thresholds, as a measurement of what is not zero in a model with thresholds.

    Args:
        model: the dense model.
        batches: as for ``measure``; where there is an attention mask, it says what is padding.
    """
    sites = {each.site.name: each.site for each in plan(model, thresholds=thresholds) if each.site.name in thresholds}
    counted: dict[str, SiteCounts] = {}
    kept: list[Tensor] = []

    def take(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            hidden = args[0].flatten(0, -2)[kept[-1].flatten().to(args[0].device)]
            above = ~(hidden.abs() <= thresholds[name].to(hidden.device))
            made = count(above, Nonzero(), kept[-1].sum(-1).tolist())[0]
            counted[name] = counted[name].merge(made) if name in counted else made

        return hook

    modules = dict(model.named_modules())
    with ExitStack() as stack, torch.no_grad():
        for name, site in sites.items():
            down = down_of(modules, site)
            stack.callback(down.register_forward_pre_hook(take(name)).remove)
        for batch in batches:
            kept.append(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool())
            model(**{key: value.to(device_of(model)) for key, value in batch.items()})
    rows = [
        Row(site, "hidden" if site.gated else "activation", "nonzero", counted[name]) for name, site in sites.items()
    ]
    return Measurement(type(model).__name__, rows, {}, {}, {})


def _layer(
    model: nn.Module, each: Plan, measurement: Measurement, batch: int, cut: bool, stopwatch: _Stopwatch
) -> LayerSpeed:
    weight = model.get_parameter(each.site.down or "")
    width = each.site.width
    features = (weight if each.site.expert is None else weight[0]).numel() // width
    routed = _routed(measurement, each)
    used = 1 - (1 - routed) ** batch
    matrices = 3 if each.site.gated else 2
    one = features * width
    needed, ratio, changed, times = 1.0, 1.0, 0, (0.0, 0.0)
    if each.kind != "dense":
        counts = counts_of_nonzero(measurement, each.site)
        if counts is None:
            raise SiteError(
                f"the measurement does not say how many neurons of {each.site.name} are zero; measure with --criteria nonzero"
            )
        needed, ratio, changed = (
            needed_of(counts, batch),
            float(counts.activation_ratio),
            2 if each.kind == "gated" else 1,
        )
        times = stopwatch.race(each, batch, ratio, needed, cut)
    return LayerSpeed(
        each,
        needed,
        used,
        one * matrices * weight.dtype.itemsize,
        one * matrices * weight.dtype.itemsize * used,
        one * (matrices - changed + changed * needed) * weight.dtype.itemsize * used,
        2.0 * batch * one * matrices * routed,
        2.0 * batch * one * (matrices - changed + changed * ratio) * routed,
        *times,
    )


def _routed(measurement: Measurement, each: Plan) -> float:
    """Share of tokens that reach an MLP: all, but of an expert."""
    counts = next(row.counts for row in measurement if row.site.name == each.site.name)
    return counts.tokens / counts.passed if counts.passed else 1.0


class _Stopwatch:
    """Times layers of a model's shapes, each once."""

    def __init__(self, model: nn.Module, plans: Sequence[Plan]) -> None:
        self._modules, self._plans = dict(model.named_modules()), plans
        self._timed: dict[Any, tuple[float, float]] = {}

    def race(self, each: Plan, batch: int, ratio: float, needed: float, cut: bool) -> tuple[float, float]:
        """Seconds of the layer as it is, and of the sparse one, which is dense where that is faster."""
        down = down_of(self._modules, each.site)
        shape = each.kind, tuple(down.weight.shape), down.weight.dtype
        key = *shape, batch, round(needed, 3), round(ratio, 3), cut
        if key not in self._timed:
            alike = sum(other.kind == each.kind and other.site.width == each.site.width for other in self._plans)
            contest = contest_of(self._modules, each, cut, alike)
            draws = drawn(each.site.width, batch, ratio, needed)
            some = [draw.to(contest.device, contest.dtype) for draw in draws]
            dense, sparse = contest.times(some, _ROUNDS)
            # What falls back compares with thresholds too.
            back = contest.fallback_seconds(some, _ROUNDS) if cut else dense
            self._timed[key] = dense, min(back, sparse)
        return self._timed[key]


def drawn(width: int, batch: int, ratio: float, needed: float) -> list[Tensor]:
    """Random activations, (batch, width), of which so many are active, and so many neurons needed by some example.

    Examples share neurons: each activates a part of a set of share s, where s·(1 − (1 − ratio/s)^batch) = needed.
    """
    low, high = max(ratio, 1e-9), 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if middle * (1 - (1 - ratio / middle) ** batch) > needed else (middle, high)
    generator = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(_DRAWS):
        shared = torch.rand(width, generator=generator) < high
        mine = torch.rand(batch, width, generator=generator) < ratio / high
        draws.append(torch.randn(batch, width, generator=generator) * shared * mine)
    return draws


def _speed(model: nn.Module, batch: int, layers: list[LayerSpeed]) -> Speed:
    seconds = decoding_step(model, batch)
    saved = sum(each.dense_seconds - each.sparse_seconds for each in layers)
    expected = seconds / max(seconds - saved, seconds / 1000)
    weights = float(sum(parameter.nbytes for parameter in _read_weights(model)))
    weights -= sum(each.held_bytes - each.dense_bytes for each in layers)
    dense = sum(each.dense_bytes for each in layers)
    sparse = sum(each.sparse_bytes for each in layers)
    ideal, ideal_mlp = weights / (weights - dense + sparse), dense / sparse
    return Speed(
        batch, layers, seconds, ideal, ideal_mlp, expected, _verdict(batch, layers, ideal, expected, dense / weights)
    )


def _read_weights(model: nn.Module) -> list[nn.Parameter]:
    """Weights of which a token reads all: not an embedding's, unless the head shares them."""
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    shared = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    return [each for each in model.parameters() if id(each) not in looked_up or id(each) in shared]


@torch.no_grad()
def decoding_step(model: nn.Module, batch: int, context: int = 8, rounds: int = 9) -> float:
    """Seconds of a forward pass of one token for each of so many sequences, after a short context.

    Raises:
        SiteError: a model that does not go on with a cache.
    """
    config: Any = getattr(model, "config", None)
    device = device_of(model)
    try:
        size = config.get_text_config().vocab_size
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(size, (batch, context), generator=generator).to(device)
        out = model(input_ids=ids, use_cache=True)
        if out.past_key_values is None:
            raise TypeError("it keeps no cache")
        times = []
        for _ in range(rounds):
            token = torch.randint(size, (batch, 1), generator=generator).to(device)
            past = out.past_key_values
            times.append(
                _timed(
                    lambda token=token, past=past: model(input_ids=token, past_key_values=past, use_cache=True), device
                )
            )
    except Exception as error:  # whatever a model that reads something else raises
        raise SiteError(
            f"{type(model).__name__} cannot be timed while it decodes ({type(error).__name__}: {' '.join(str(error).split())[:120]}); "
            "give a causal language model of transformers'"
        ) from error
    return median(times[1:])


def _verdict(batch: int, layers: list[LayerSpeed], ideal: float, expected: float, share: float) -> str:
    sparse = [each for each in layers if each.plan.kind != "dense"]
    if not sparse:
        why = layers[0].plan.why
        return f"no: {why}" + (
            "; thresholds make some, which `actratio sparsify` chooses" if why.endswith(NO_ZEROS) else ""
        )
    if expected >= _WORTH:
        return f"yes: about {expected:.2f} times as fast"
    if expected < 1 / _MARGIN:
        return f"no: it would be slower, about {expected:.2f} times as fast"
    needed = sum(each.needed for each in sparse) / len(sparse)
    if needed > 0.6:
        together = f"{batch} sequences together need" if batch > 1 else "a token needs"
        return f"no: {together} {needed:.0%} of the neurons"
    if ideal < _WORTH:
        return f"no: the MLPs are {share:.0%} of the weights that a token reads, and with their zeros skipped it is {ideal:.2f} times as fast at best"
    if all(each.dense_seconds < 2 * each.sparse_seconds for each in sparse):
        return "no: reading fewer weights saves little time here, as where they fit the cache"
    return f"no: all but the MLPs takes most of the time, so it is {expected:.2f} times as fast"
