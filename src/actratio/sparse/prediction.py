"""Predict the speed of a sparse model from measured ratios, bytes that are read, and timed layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actratio.counting.measurement import Measurement
from actratio.errors import SiteError
from actratio.sites import Site, evaluating
from actratio.sites.inputs import device_of
from actratio.sites.mlps import MLP, resolve
from actratio.sparse.active import measure_active
from actratio.sparse.comparing import speedup
from actratio.sparse.contention import CPUWait
from actratio.sparse.conversion import (
    check_changeable,
    check_weights,
    planning_inputs,
    sparsify,
    unchanged_linears,
)
from actratio.sparse.converted import Converted, densify
from actratio.sparse.exempt import exempt_layers, rounded_mlps
from actratio.sparse.layer_times import (
    LinearProducts,
    MLPProducts,
    ModelTimes,
    active_share,
    counts_of,
    needed_share,
    replaceable_groups,
    skipping_layers,
)
from actratio.sparse.planning import Plan, plan
from actratio.sparse.rehearsal import RehearsalTimes
from actratio.sparse.saved import NAME, load_thresholds
from actratio.sparse.speed import LayerSpeed, Speed, SpeedCheck, SpeedPrediction, small_gain_reason
from actratio.sparse.text import Batch, list_batches, text_tokens
from actratio.sparse.thresholds import Calibration


@torch.inference_mode(False)  # layers are made and converted
@torch.no_grad()
def predict_speed(
    model: nn.Module,
    measurement: Measurement | Calibration,
    batches: Sequence[int] = (1,),
    *,
    thresholds: Mapping[str, Tensor] | None = None,
    dense: bool = False,
    weights: str | None = None,
    prompt: int = 0,
    mlps: Sequence[MLP] | None = None,
    times: ModelTimes | None = None,
) -> SpeedPrediction:
    """Predict how much faster ``sparsify`` makes a model's decoding, or its reading of prompts, on this machine, without converting it.

    The model is timed in evaluation mode, as it is and with the new products in the place of its own. Those have weights of their own, and
    those that skip neurons get random inputs with the measured share of zeros. Meanwhile, no other thread should use the model.

    Args:
        model: from transformers, dense: a causal language model, or with ``prompt`` any model that reads tokens.
        measurement: of this model, by ``nonzero``; or its calibration, whose thresholds are then used.
        batches: numbers of sequences that are computed together.
        thresholds: as for ``sparsify``, if the measurement counts the neurons above them.
        dense: as for ``sparsify``.
        weights: as for ``sparsify``.
        prompt: tokens of each sequence that a forward pass reads; 0 for a decoding step, which reads one.
        mlps: the model's MLPs as ``resolve`` returns them; by default they are resolved here.
        times: what was timed for other predictions of this model in this process, so that it isn't timed again; ``ModelTimes(text)`` times
            passes on a text, which matters for mixtures. By default tokens are random.

    Raises:
        SiteError: no MLP, a measurement of another model or without the counts that are needed, batch sizes that aren't positive
            integers, a ``prompt`` that isn't a number of tokens, or a model that is converted already, doesn't decode or doesn't read tokens, or that was built
            in ``torch.inference_mode``.
    """
    sizes = _checked_sizes(batches)
    if not isinstance(prompt, int) or prompt < 0:
        raise SiteError(f"prompt={prompt!r} is not a number of tokens; give a positive integer, or 0 for decoding")
    check_weights(model, weights)
    check_changeable(model)
    if any(isinstance(module, Converted) for module in model.modules()):
        raise SiteError(
            "the model is converted already, so its speed before cannot be timed; call actratio.densify first"
        )
    if not isinstance(measurement, Measurement | Calibration):
        raise SiteError(
            f"the speed cannot be predicted from a {type(measurement).__name__}; give a measurement, such as "
            "actratio.measure(model, batches, criteria=['nonzero']), or a calibration"
        )
    handles, ratios, limits = planning_inputs(model, measurement, thresholds, mlps)
    planned = plan(handles, ratios, limits)
    counts = measurement.measurement if isinstance(measurement, Calibration) else measurement
    int8 = weights is not None
    exempt = exempt_layers(model)
    rounded = rounded_mlps(handles, exempt) if int8 else set()
    times, wait = ModelTimes() if times is None else times, CPUWait()
    read = float(sum(parameter.nbytes for parameter in _weights_read(model)))
    products = MLPProducts(model, handles, planned, limits, rounded=rounded, weight_bytes=read, times=times)
    speeds = []
    with evaluating(model), wait:
        rest: list[list[Any]] = []
        if dense or int8:
            rest = replaceable_groups(unchanged_linears(model, handles, products.decided()), int8=int8, exempt=exempt)
        linears = LinearProducts(rest, int8=int8, times=times)
        machine = times.machine(device_of(model))
        for batch in sizes:
            speeds.append(_speed(model, batch, prompt, counts, products, linears, times))
    return SpeedPrediction(machine, speeds, wait.share())


def measure_and_predict_speed(
    model: nn.Module,
    texts: Iterable[Batch],
    batches: Sequence[int] = (1,),
    *,
    folder: str | Path | None = None,
    dense: bool = False,
    weights: str | None = None,
    prompt: int = 0,
    progress: Callable[[str], object] = lambda stage: None,
) -> SpeedPrediction:
    """Measure a model on text, and predict how much faster ``sparsify`` makes its decoding, or its reading of prompts, on this machine.

    Args:
        model: a causal language model from transformers, dense.
        texts: mappings with ``input_ids``, (sequences, tokens), and an ``attention_mask`` if there is padding.
        batches: numbers of sequences that are decoded together.
        folder: the model's folder. If it has a ``thresholds.json``, as ``actratio sparsify`` writes it, these thresholds are used.
        dense: as for ``sparsify``.
        weights: as for ``sparsify``.
        prompt: as for ``predict_speed``.
        progress: called with the name of each stage when it starts.

    Raises:
        DataError: a batch without ``input_ids``.
        ModelError: the thresholds are damaged or of another model.
        SiteError: no batches, or as for ``predict_speed``.
    """
    sizes, given = _checked_sizes(batches), list_batches(texts, of_tokens=True)
    check_weights(model, weights)
    mlps, thresholds = None, None
    if folder is not None and (Path(folder) / NAME).is_file():
        mlps = resolve(model)
        thresholds = load_thresholds(folder, mlps)
    progress("measuring")
    measurement = measure_active(model, given, thresholds, mlps=mlps)
    progress("timing this machine and the model")
    return predict_speed(
        model,
        measurement,
        sizes,
        thresholds=thresholds,
        dense=dense,
        weights=weights,
        prompt=prompt,
        mlps=mlps,
        times=ModelTimes(text_tokens(given)),
    )


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
    model: nn.Module,
    measurement: Measurement | Calibration,
    batches: Sequence[int] = (1,),
    *,
    dense: bool = False,
    weights: str | None = None,
    mlps: Sequence[MLP] | None = None,
    text: Tensor | None = None,
) -> list[SpeedCheck]:
    """Predict the speed-up of a model that skips zeros or has thresholds, then measure it in turns with a copy of the dense model.

    Memory must hold both.

    The model is dense afterwards. With ``weights``, it stays converted, because the old weights are gone.

    Args:
        model: a causal language model from transformers, dense.
        measurement: of this model, by ``nonzero``; or its calibration, whose thresholds are then used.
        batches: numbers of sequences that are decoded together.
        dense: as for ``sparsify``.
        weights: as for ``sparsify``.
        mlps: the model's MLPs as ``resolve`` returns them; by default they are resolved here.
        text: token ids that both models read, (tokens,). Random ones, the default, may activate other shares of the neurons than those
            that were measured.
    """
    wait = CPUWait()
    with wait:
        predicted = predict_speed(
            model, measurement, batches, dense=dense, weights=weights, mlps=mlps, times=ModelTimes(text)
        ).speeds
    unconverted = copy.deepcopy(model)
    try:
        sparsify(model, measurement, dense=dense, weights=weights, mlps=mlps)
        with evaluating(model), evaluating(unconverted), wait:
            measured = [speedup(unconverted, model, speed.batch, text=text) for speed in predicted]
    finally:
        if weights is None:
            densify(model)
    return [
        SpeedCheck(speed.batch, speed.expected, gain, speed.reason, wait.share())
        for speed, gain in zip(predicted, measured, strict=True)
    ]


def _layer_speed(
    model: nn.Module,
    planned: Plan,
    measurement: Measurement,
    tokens: int,
    seconds: tuple[float, float],
    *,
    int8: bool,
) -> LayerSpeed:
    site = planned.site
    weight = model.get_parameter(site.down or "")
    elements = (weight if site.expert is None else weight[0]).numel()  # of one of the MLP's matrices
    matrices = 3 if site.gated else 2
    routed = _routed_share(measurement, site)
    used = 1 - (1 - routed) ** tokens
    needed, ratio, changed, item_size = 1.0, 1.0, 0, weight.dtype.itemsize
    if planned.kind != "dense":
        counts = counts_of(measurement, site)
        needed, ratio = needed_share(counts, _tokens_read(routed, tokens)), active_share(counts)
        changed = 2 if planned.kind == "gated" else 1
    return LayerSpeed(
        planned,
        needed,
        used,
        elements * matrices * item_size,
        elements * matrices * item_size * used,
        elements * ((matrices - changed) * item_size + changed * needed * (1 if int8 else item_size)) * used,
        2.0 * tokens * elements * matrices * routed,
        2.0 * tokens * elements * (matrices - changed + changed * ratio) * routed,
        *seconds,
    )


def _routed_share(measurement: Measurement, site: Site) -> float:
    """Return the share of tokens that reach an MLP: 1, except for an expert."""
    counts = next(row.counts for row in measurement if row.site.name == site.name)
    return counts.tokens / counts.passed if counts.passed else 1.0


def _tokens_read(routed: float, tokens: int) -> float:
    """Return how many of some tokens an MLP reads on average if it's used: all, except for an expert.

    Args:
        routed: as ``_routed_share``.
    """
    used = 1 - (1 - routed) ** tokens
    return routed * tokens / used if used else 1.0


def _speed(
    model: nn.Module,
    batch: int,
    prompt: int,
    measurement: Measurement,
    products: MLPProducts,
    linears: LinearProducts,
    times: ModelTimes,
) -> Speed:
    length = prompt or 1
    tokens = batch * length
    reads = [max(1, round(_tokens_read(_routed_share(measurement, item.site), tokens))) for item in products.plans]
    own = [products.stand_in(number, (batch, length), read, measurement) for number, read in enumerate(reads)]
    replaced = linears.stand_ins(tokens)
    rehearsed = times.rehearsed(model, [*replaced, *(stand_in for stand_in in own if stand_in)], batch, prompt)
    given = times.first_pass(model, batch, prompt)
    layers: list[LayerSpeed] = []
    for number, (mlp, item) in enumerate(zip(products.mlps, products.plans, strict=True)):
        if mlp.stacked is not None:
            seconds = products.expert_seconds(number, reads[number], measurement)
        else:
            before = sum(given.parts[layer] for layer in skipping_layers(mlp, item))
            stand_in = own[number]
            seconds = before, before if stand_in is None else rehearsed.parts[stand_in.module]
        layers.append(_layer_speed(model, item, measurement, tokens, seconds, int8=mlp in products.rounded))
    others = linears.summary(replaced, given.parts, rehearsed.parts)
    experts = [layer for mlp, layer in zip(products.mlps, layers, strict=True) if mlp.stacked is not None]
    expected = _expected(rehearsed, experts, lambda: times.forward_pass(model, batch, prompt).seconds)
    read = _weights_read(model)
    weights = float(sum(parameter.nbytes for parameter in read))
    weights -= sum(layer.held_bytes - layer.dense_bytes for layer in layers)
    dense = sum(layer.dense_bytes for layer in layers)
    sparse = sum(layer.sparse_bytes for layer in layers)
    ideal = weights / (weights - dense + sparse - others.dense_bytes + others.new_bytes)
    ideal_mlp = dense / sparse
    if prompt:  # many tokens share what is read, so arithmetic decides
        dense_flops, sparse_flops = (
            sum(getattr(layer, name) for layer in layers) for name in ("dense_flops", "sparse_flops")
        )
        flops = max(dense_flops, 2.0 * batch * prompt * sum(parameter.numel() for parameter in read))
        ideal = max(ideal, flops / (flops - dense_flops + sparse_flops))
        ideal_mlp = max(ideal_mlp, dense_flops / sparse_flops)
    reason = small_gain_reason(batch, layers, ideal, expected, dense / weights, others, prompt=prompt)
    return Speed(batch, layers, given.seconds, ideal, ideal_mlp, expected, reason, others, prompt)


def _expected(rehearsed: RehearsalTimes, experts: Sequence[LayerSpeed], dense_seconds: Callable[[], float]) -> float:
    """Return the expected speed-up of a forward pass.

    Other products stood in for those of the model. In experts whose weights are stacked, they couldn't: what those save is taken off.

    Args:
        rehearsed: with the other products.
        experts: whose weights are stacked.
        dense_seconds: returns the seconds of a pass of the dense model, if nothing stood in.
    """
    changed = [layer for layer in experts if layer.sparse_seconds != layer.dense_seconds]
    if not changed:
        return rehearsed.gain
    seconds = rehearsed.dense_seconds if rehearsed.parts else dense_seconds()
    before = sum(layer.dense_seconds * layer.used for layer in changed)
    after = sum(layer.sparse_seconds * layer.used for layer in changed)
    return seconds / (max(seconds / rehearsed.gain - before, 0.0) + after)


def _weights_read(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights that a token reads as a whole: all but an embedding's, unless a linear layer shares them."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    multiplied = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    return [
        parameter for parameter in model.parameters() if id(parameter) not in embeddings or id(parameter) in multiplied
    ]
