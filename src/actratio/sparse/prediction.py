"""Predict the speed of a sparse model from measured ratios, bytes that are read, and timed layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actratio.counting.counts import SiteCounts
from actratio.counting.measurement import Measurement
from actratio.errors import SiteError
from actratio.sites import Site, evaluating
from actratio.sites.inputs import device_of
from actratio.sites.mlps import MLP, resolve
from actratio.sparse.active import active_counts, measure_active
from actratio.sparse.autotune import shape_speeds
from actratio.sparse.conversion import planning_inputs, plans, sparsify, timer_of
from actratio.sparse.converted import densify
from actratio.sparse.planning import Plan, plan
from actratio.sparse.saved import NAME, load_thresholds
from actratio.sparse.speed import LayerSpeed, Speed, SpeedCheck, SpeedPrediction, verdict_of
from actratio.sparse.text import Batch, list_batches
from actratio.sparse.thresholds import Calibration
from actratio.sparse.timing import time_decoding_step, time_machine

_ROUNDS = 10
_DRAWS = 8


@torch.no_grad()
def predict_speed(
    model: nn.Module,
    measurement: Measurement | Calibration,
    batches: Sequence[int] = (1,),
    *,
    thresholds: Mapping[str, Tensor] | None = None,
    mlps: Sequence[MLP] | None = None,
) -> SpeedPrediction:
    """Predict how much faster ``sparsify`` makes a model's decoding on this machine, without converting it.

    The model is timed in evaluation mode.

    Args:
        model: a causal language model from transformers, dense.
        measurement: of this model, by ``nonzero``; or its calibration, whose thresholds are then used.
        batches: numbers of sequences that are decoded together.
        thresholds: as for ``sparsify``, if the measurement counts the neurons above them.
        mlps: the model's MLPs as ``resolve`` returns them; by default they are resolved here.

    Raises:
        SiteError: no MLP, a measurement of another model or without the counts that are needed, batch sizes that aren't positive
            integers, or a model that is sparse already or doesn't decode.
    """
    sizes = _checked_sizes(batches)
    if any(item.kind != "dense" for item in plans(model)):
        raise SiteError("the model is sparse already, so its dense speed cannot be timed; call actratio.densify first")
    if not isinstance(measurement, Measurement | Calibration):
        raise SiteError(
            f"the speed cannot be predicted from a {type(measurement).__name__}; give a measurement, such as "
            "actratio.measure(model, batches, criteria=['nonzero']), or a calibration"
        )
    handles, counts, limits = planning_inputs(model, measurement, thresholds, mlps)
    assert counts is not None  # a calibration has a measurement
    planned = plan(handles, counts, limits)
    timed = _TimedLayers(handles, planned, limits)
    speeds = []
    with evaluating(model):
        machine = time_machine(device_of(model))
        for batch in sizes:
            layers = [
                _layer_speed(model, item, counts, batch, timed.seconds(number, batch, counts))
                for number, item in enumerate(planned)
            ]
            speeds.append(_speed(model, batch, layers))
    return SpeedPrediction(machine, speeds)


def measure_and_predict_speed(
    model: nn.Module,
    texts: Iterable[Batch],
    batches: Sequence[int] = (1,),
    *,
    folder: str | Path | None = None,
    progress: Callable[[str], object] = lambda stage: None,
) -> SpeedPrediction:
    """Measure a model on text, and predict how much faster ``sparsify`` makes its decoding on this machine.

    Args:
        model: a causal language model from transformers, dense.
        texts: mappings with ``input_ids``, (sequences, tokens), and an ``attention_mask`` if there is padding.
        batches: numbers of sequences that are decoded together.
        folder: the model's folder. If it has a ``thresholds.json``, as ``actratio sparsify`` writes it, these thresholds are used.
        progress: called with the name of each stage when it starts.

    Raises:
        DataError: a batch without ``input_ids``.
        ModelError: the thresholds are damaged or of another model.
        SiteError: no batches, or as for ``predict_speed``.
    """
    sizes, given = _checked_sizes(batches), list_batches(texts, of_tokens=True)
    mlps, thresholds = None, None
    if folder is not None and (Path(folder) / NAME).is_file():
        mlps = resolve(model)
        thresholds = load_thresholds(folder, mlps)
    progress("measuring")
    measurement = measure_active(model, given, thresholds)
    progress("timing this machine and the model")
    return predict_speed(model, measurement, sizes, thresholds=thresholds, mlps=mlps)


def _checked_sizes(batches: Sequence[int]) -> list[int]:
    """Return the batch sizes.

    Raises:
        SiteError: it isn't a list of positive integers.
    """
    sizes = list(batches) if isinstance(batches, Iterable) else []
    if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise SiteError(f"batches={batches!r} is not a list of batch sizes; give positive integers, such as [1, 4]")
    return sizes


def check_speed(
    model: nn.Module, calibration: Calibration, batches: Sequence[int] = (1,), *, mlps: Sequence[MLP] | None = None
) -> list[SpeedCheck]:
    """Predict the speed-up of a calibrated model, then measure it. The model is dense afterwards.

    Args:
        model: the model that was calibrated, dense.
        calibration: of this model.
        batches: numbers of sequences that are decoded together.
        mlps: the model's MLPs as ``resolve`` returns them; by default they are resolved here.
    """
    predicted = predict_speed(model, calibration, batches, mlps=mlps).speeds
    try:
        sparsify(model, calibration, mlps=mlps)
        with evaluating(model):
            measured = [speed.dense_seconds / time_decoding_step(model, speed.batch) for speed in predicted]
    finally:
        densify(model)
    return [
        SpeedCheck(speed.batch, speed.expected, speedup, speed.verdict)
        for speed, speedup in zip(predicted, measured, strict=True)
    ]


def needed_share(counts: SiteCounts, batch: int) -> float:
    """Return the share of neurons that at least one of ``batch`` tokens of independent sequences needs.

    A neuron that is active on a share p of the tokens is needed with probability 1 − (1 − p)^batch. Successive tokens of one
    sequence, as in ``union_ratio``, are more alike and need fewer neurons.
    """
    if not counts.tokens:
        return 1.0
    return float((1 - (1 - counts.active.double() / counts.tokens) ** batch).mean())


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


def _counts_of(measurement: Measurement, site: Site) -> SiteCounts:
    counts = active_counts(measurement, site)
    if counts is None:
        raise SiteError(
            f"the measurement does not say how many neurons of {site.name} are zero; measure with --criteria nonzero"
        )
    return counts


def _layer_speed(
    model: nn.Module, planned: Plan, measurement: Measurement, batch: int, seconds: tuple[float, float]
) -> LayerSpeed:
    site = planned.site
    weight = model.get_parameter(site.down or "")
    elements = (weight if site.expert is None else weight[0]).numel()  # of one of the MLP's matrices
    matrices = 3 if site.gated else 2
    routed = _routed_share(measurement, site)
    used = 1 - (1 - routed) ** batch
    needed, ratio, changed = 1.0, 1.0, 0
    if planned.kind != "dense":
        counts = _counts_of(measurement, site)
        needed, ratio = needed_share(counts, batch), float(counts.activation_ratio)
        changed = 2 if planned.kind == "gated" else 1
    return LayerSpeed(
        planned,
        needed,
        used,
        elements * matrices * weight.dtype.itemsize,
        elements * matrices * weight.dtype.itemsize * used,
        elements * (matrices - changed + changed * needed) * weight.dtype.itemsize * used,
        2.0 * batch * elements * matrices * routed,
        2.0 * batch * elements * (matrices - changed + changed * ratio) * routed,
        *seconds,
    )


def _routed_share(measurement: Measurement, site: Site) -> float:
    """Return the share of tokens that reach an MLP: 1, except for an expert."""
    counts = next(row.counts for row in measurement if row.site.name == site.name)
    return counts.tokens / counts.passed if counts.passed else 1.0


class _TimedLayers:
    """Times dense and sparse layers of the MLPs' shapes, once for each shape, batch and ratio."""

    def __init__(self, mlps: Sequence[MLP], plans: Sequence[Plan], limits: Mapping[str, Tensor]) -> None:
        self._mlps, self._plans, self._limits = mlps, plans, limits
        self._known: dict[Any, tuple[float, float]] = {}

    def seconds(self, number: int, batch: int, measurement: Measurement) -> tuple[float, float]:
        """Return the seconds of a dense layer, and of a sparse one that falls back to the dense product if that is faster.

        Both are 0 if the MLP stays dense.
        """
        mlp, planned = self._mlps[number], self._plans[number]
        if planned.kind == "dense":
            return 0.0, 0.0
        counts = _counts_of(measurement, mlp.site)
        needed, ratio = needed_share(counts, batch), float(counts.activation_ratio)
        has_thresholds = mlp.site.name in self._limits
        down, _ = mlp.skipped
        shape = planned.kind, tuple(down.weight.shape), down.weight.dtype
        key = *shape, batch, round(needed, 3), round(ratio, 3), has_thresholds
        if key not in self._known:
            alike = sum(other.kind == planned.kind and other.site.width == planned.site.width for other in self._plans)
            timer = timer_of(mlp, planned, thresholds=has_thresholds, layers=alike, int8=False)
            draws = random_activations(mlp.site.width, batch, ratio, needed)
            draws = [draw.to(timer.device, timer.dtype) for draw in draws]
            dense, sparse, converted = timer.times(draws, _ROUNDS)
            is_converted = has_thresholds or shape_speeds(timer).pays_off(planned.ratio)
            self._known[key] = dense, min(sparse, converted) if is_converted else dense
        return self._known[key]


def _speed(model: nn.Module, batch: int, layers: list[LayerSpeed]) -> Speed:
    seconds = time_decoding_step(model, batch)
    saved = sum((layer.dense_seconds - layer.sparse_seconds) * layer.used for layer in layers)
    expected = seconds / max(seconds - saved, seconds / 1000)
    weights = float(sum(parameter.nbytes for parameter in _weights_read(model)))
    weights -= sum(layer.held_bytes - layer.dense_bytes for layer in layers)
    dense = sum(layer.dense_bytes for layer in layers)
    sparse = sum(layer.sparse_bytes for layer in layers)
    ideal, ideal_mlp = weights / (weights - dense + sparse), dense / sparse
    verdict = verdict_of(batch, layers, ideal, expected, dense / weights)
    return Speed(batch, layers, seconds, ideal, ideal_mlp, expected, verdict)


def _weights_read(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights that a token reads as a whole: all but an embedding's, unless a linear layer shares them."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    multiplied = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    return [
        parameter for parameter in model.parameters() if id(parameter) not in embeddings or id(parameter) in multiplied
    ]
