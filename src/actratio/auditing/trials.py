"""Try the ways to run a model, and decide."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import Any

import torch
from torch import Tensor, nn

from actratio.auditing.comparing import loss_increase, speedup
from actratio.auditing.decision import decide
from actratio.auditing.results import Audit, Gain, LayerUse, Way, Work
from actratio.counting.measurement import Measurement
from actratio.errors import SiteError
from actratio.report.conclusions import function_names
from actratio.sites import evaluating
from actratio.sites.inputs import device_of
from actratio.sites.linear import is_linear
from actratio.sites.mlps import MLP, resolve
from actratio.sparse.active import active_counts, measure_active, measured_ratios
from actratio.sparse.calibration import LossSearch, split_text
from actratio.sparse.conversion import is_worth_int8, sparsify
from actratio.sparse.converted import densify
from actratio.sparse.curves import Curve, dropping_curves
from actratio.sparse.layer_times import ModelTimes
from actratio.sparse.planning import int8_unsupported_reason, plan, thresholds_unsupported_reason
from actratio.sparse.prediction import predict_speed
from actratio.sparse.text import Batch, list_batches, sequence_losses
from actratio.sparse.thresholds import LayerThresholds, Target

TARGETS = (0.5, 1.0, 2.0)
"""Increases of the loss, in per cent, for which thresholds are tried, beside the largest one that is accepted; larger ones aren't."""

_PROMPT = 128  # tokens, of a model that doesn't decode
_LEAST_BATCHES = 8  # two of them check
_TOKENS = 1024  # on which the neurons above thresholds are counted
_STEPS = 3  # losses that are computed to find thresholds for one of them
_INEXACT = 2  # ways whose loss and speed are measured, beside the best exact one


@dataclass(frozen=True, eq=False)
class _Trial:
    """What ``sparsify`` gets for a way to run the model."""

    name: str
    options: str
    exact: bool
    measurement: Measurement
    thresholds: Mapping[str, Tensor] | None = None
    weights: str | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        return {"thresholds": self.thresholds, "weights": self.weights, "dense": self.weights is None}


def audit(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    works: Sequence[Work] = (Work(1),),
    target: float = 1.0,
    name: str | None = None,
    progress: Callable[[str], object] = lambda stage: None,
) -> Audit:
    """Decide whether a model should stay dense on this machine, or run in a faster way.

    The ways are: skipping exact zeros, thresholds for several losses, 8-bit weights, and both. All are predicted; the best exact one and
    the two best others are tried on a copy of the model, against the dense model. The model itself is dense afterwards.

    Args:
        model: from transformers; a causal language model, or, if all ``works`` are prompts, another one that reads tokens.
        batches: each a mapping with ``input_ids``, (sequences, tokens), and an ``attention_mask`` if there is padding. Half of them
            calibrate, a quarter chooses thresholds, and a quarter checks; with fewer than 8, no way that changes the outputs is tried.
        works: what the model should do faster. The first one decides.
        target: the largest increase of the loss that is accepted, in per cent.
        name: of the model.
        progress: called with the name of each stage when it starts.

    Raises:
        DataError: a batch without ``input_ids``.
        SiteError: no work, a negative target, no MLP, or a model that can't do the work.
    """
    given = list_batches(batches, 1, of_tokens=True)
    if not works:
        raise SiteError("no work was given; give at least one, such as Work(1) for decoding one sequence")
    Target("loss", target)  # refuses a target that isn't one
    name = type(model).__name__ if name is None else name
    densify(model)
    with evaluating(model), torch.no_grad():
        progress("finding the MLPs")
        mlps = resolve(model)
        notes: list[str] = []
        checks_loss = _can_check_loss(model, given, notes)
        calibrating, choosing, checking = split_text(given) if checks_loss else (given, [], [])
        progress("measuring")
        measurement = measure_active(model, calibrating, name=name)
        trials = [_exact(mlps, measurement)]
        useful = None
        if checks_loss:
            curves = _curves(model, mlps, calibrating, notes)
            trials += _changing(model, mlps, curves, measurement, calibrating, choosing, target, notes, progress)
            useful = next(
                (_computed(trial, mlps) for trial in trials if trial.options == _thresholds_option(target)), None
            )
        ways, times = [], ModelTimes()
        for trial in trials:
            progress(f"predicting: {trial.name}")
            ways.append(_predicted(model, trial, works, mlps, times))
        dense_losses = sequence_losses(model, checking) if checks_loss else None
        order = _to_check(ways)
        for place in order:
            progress(f"trying: {ways[place].name}")
            ways[place] = _checked(model, trials[place], ways[place], checking, dense_losses)
    tokens = max(row.counts.tokens for row in measurement)
    return Audit(
        name,
        tokens,
        tuple(_layer(mlp, measurement) for mlp in mlps),
        useful,
        target,
        None if dense_losses is None else float(dense_losses[0].sum() / dense_losses[1].sum()),
        tuple(ways[place] for place in [*order, *(place for place in range(len(ways)) if place not in order)]),
        decide(ways, target),
        tuple(notes),
    )


def works_of(model: nn.Module, batches: Sequence[int], prompt: int) -> list[Work]:
    """Return what a model should do faster: decode, if it does that, and read prompts.

    Args:
        model: from transformers.
        batches: numbers of sequences that are decoded together.
        prompt: tokens of a prompt; 0 for no prompt if the model decodes.
    """
    can_generate = getattr(model, "can_generate", None)
    works = [Work(batch) for batch in batches] if can_generate is not None and can_generate() else []
    return [*works, Work(1, prompt or _PROMPT)] if prompt or not works else works


def _exact(mlps: Sequence[MLP], measurement: Measurement) -> _Trial:
    """Return the way that keeps the outputs."""
    if _has_zeros(mlps, measurement):
        return _Trial("skip exact zeros, with faster dense products", "--target zeros --dense", True, measurement)
    return _Trial("faster dense products", "", True, measurement)


def _has_zeros(mlps: Sequence[MLP], measurement: Measurement) -> bool:
    return any(item.kind != "dense" for item in plan(mlps, measured_ratios(measurement, mlps)))


def _can_check_loss(model: nn.Module, given: Sequence[Batch], notes: list[str]) -> bool:
    """Return whether the loss of ways that change the outputs can be measured; if not, note why."""
    if len(given) < _LEAST_BATCHES:
        notes.append(
            "Ways that change the outputs (thresholds, 8-bit weights) were not tried: the text is too short to check the loss. "
            f"Give one of at least {_LEAST_BATCHES} batches."
        )
        return False
    try:
        sequence_losses(model, given[:1])
    except SiteError:
        notes.append(
            "Ways that change the outputs (thresholds, 8-bit weights) were not tried: the model predicts no next tokens, so its loss "
            "cannot be measured here."
        )
        return False
    return True


def _curves(model: nn.Module, mlps: Sequence[MLP], calibrating: Sequence[Batch], notes: list[str]) -> list[Curve]:
    reasons = {mlp.site.name: thresholds_unsupported_reason(mlp, mlps) for mlp in mlps}
    supported = [mlp for mlp in mlps if reasons[mlp.site.name] is None]
    if len(supported) < len(mlps):
        reason = next(reason for reason in reasons.values() if reason is not None)
        notes.append(f"{len(mlps) - len(supported)} of {len(mlps)} MLPs cannot have thresholds: {reason}.")
    return dropping_curves(model, supported, calibrating) if supported else []


def _changing(
    model: nn.Module,
    mlps: Sequence[MLP],
    curves: Sequence[Curve],
    measurement: Measurement,
    calibrating: Sequence[Batch],
    choosing: Sequence[Batch],
    target: float,
    notes: list[str],
    progress: Callable[[str], object],
) -> list[_Trial]:
    """Return the ways that change the outputs."""
    reason = int8_unsupported_reason(device_of(model))
    if reason is None and not any(is_linear(module) and is_worth_int8(module) for module in model.modules()):
        reason = "no linear layer is large enough"
    if reason is not None:
        notes.append(f"8-bit weights were not tried: {reason}.")
    trials: list[_Trial] = []
    if curves:
        progress("choosing thresholds")
        search = LossSearch(model, curves, choosing, _STEPS)
        chosen: dict[float, LayerThresholds] = {}
        for percent in sorted({target, *(percent for percent in TARGETS if percent < target)}, reverse=True):
            found = search.at(percent)
            if all(found.thresholds != other.thresholds for other in chosen.values()):
                chosen[percent] = found
                trials.append(_with_thresholds(model, mlps, percent, found, calibrating))
        if reason is None:
            trials.append(_with_int8(trials, target))
    if reason is None:
        name = "8-bit weights, and skip exact zeros" if _has_zeros(mlps, measurement) else "8-bit weights"
        trials.append(_Trial(name, "--target zeros --weights int8", False, measurement, None, "int8"))
    return trials


def _with_int8(trials: Sequence[_Trial], target: float) -> _Trial:
    """Return the way with the target's thresholds, and with 8-bit weights too."""
    trial = next(trial for trial in trials if trial.options == _thresholds_option(target))
    options = f"--target loss={target:g} --weights int8"
    return replace(trial, name=f"8-bit weights, and {trial.name}", options=options, weights="int8")


def _with_thresholds(
    model: nn.Module, mlps: Sequence[MLP], percent: float, chosen: LayerThresholds, calibrating: Sequence[Batch]
) -> _Trial:
    thresholds = chosen.by_neuron(mlps)
    measurement = measure_active(model, _first(calibrating, _TOKENS), thresholds, counts_alone=True)
    return _Trial(f"thresholds for {percent:g} % of loss", _thresholds_option(percent), False, measurement, thresholds)


def _first(batches: Sequence[Batch], tokens: int) -> list[Batch]:
    """Return the first batches, until they have this many tokens."""
    taken, total = [], 0
    for batch in batches:
        if total < tokens:
            taken.append(batch)
            total += batch["input_ids"].numel()
    return taken


def _thresholds_option(percent: float) -> str:
    return f"--target loss={percent:g} --dense"


def _computed(trial: _Trial, mlps: Sequence[MLP]) -> float:
    """Return the share of all neuron outputs that a way computes; an MLP without counts computes all."""
    ratios = measured_ratios(trial.measurement, mlps)
    computed = sum(mlp.site.width * (1.0 if isnan(ratios[mlp.site.name]) else ratios[mlp.site.name]) for mlp in mlps)
    return computed / sum(mlp.site.width for mlp in mlps)


def _predicted(model: nn.Module, trial: _Trial, works: Sequence[Work], mlps: Sequence[MLP], times: ModelTimes) -> Way:
    gains: dict[Work, Gain] = {}
    for prompt in {work.prompt for work in works}:
        alike = [work for work in works if work.prompt == prompt]
        sizes = [work.batch for work in alike]
        prediction = predict_speed(
            model, trial.measurement, sizes, **trial.arguments, prompt=prompt, mlps=mlps, times=times
        )
        for work, speed in zip(alike, prediction.speeds, strict=True):
            gains[work] = Gain(work, speed.expected, speed.verdict)
    computed = _computed(trial, mlps)
    return Way(trial.name, trial.options, trial.exact, computed, tuple(gains[work] for work in works))


def _to_check(ways: Sequence[Way]) -> list[int]:
    """Return the places of the ways to try: the best exact one and the best others, by what is expected of the first work."""
    order = sorted(range(len(ways)), key=lambda place: -ways[place].main.expected)
    exact = [place for place in order if ways[place].exact][:1]
    others = [place for place in order if not ways[place].exact][:_INEXACT]
    return [place for place in order if place in {*exact, *others}]


def _checked(
    model: nn.Module,
    trial: _Trial,
    way: Way,
    checking: Sequence[Batch],
    dense_losses: tuple[Tensor, Tensor] | None,
) -> Way:
    """Return a way with its measured speed-ups, and with its loss if it changes the outputs."""
    other = sparsify(copy.deepcopy(model), trial.measurement, **trial.arguments)
    gains = tuple(replace(gain, measured=speedup(model, other, gain.work)) for gain in way.gains)
    if way.exact or dense_losses is None:
        return replace(way, gains=gains)
    return replace(way, gains=gains, loss=loss_increase(dense_losses[0], other, checking))


def _layer(mlp: MLP, measurement: Measurement) -> LayerUse:
    counts = active_counts(measurement, mlp.site)
    assert counts is not None  # measured by ``nonzero``
    ratio, dead = (float(counts.activation_ratio), int(counts.dead)) if counts.tokens else (0.0, 0)
    useful = counts.useful_ratio
    return LayerUse(
        mlp.site.name,
        function_names([mlp.site]),
        ratio,
        None if useful is None else float(useful),
        dead,
        mlp.site.width,
    )
