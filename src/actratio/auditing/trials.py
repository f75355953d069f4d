"""Try the ways to run a model, and decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import nn

from actratio.auditing.decision import WORTH, decide
from actratio.auditing.results import UNCHANGED, Audit, Gain, LayerUse, Way, Work
from actratio.auditing.ways import (
    Trial,
    Ways,
    thresholds_option,
)
from actratio.counting.measurement import Measurement
from actratio.errors import SiteError
from actratio.report.conclusions import function_names
from actratio.sites import evaluating
from actratio.sites.mlps import MLP, resolve
from actratio.sparse.active import active_counts, measure_active
from actratio.sparse.calibration import split_text
from actratio.sparse.comparing import loss_increase, speedup
from actratio.sparse.contention import CPUWait
from actratio.sparse.converted import Converted, densify
from actratio.sparse.layer_times import ModelTimes
from actratio.sparse.masking import masked
from actratio.sparse.planning import thresholds_unsupported_reason
from actratio.sparse.prediction import predict_speed
from actratio.sparse.pruning import Pruning
from actratio.sparse.text import Batch, SequenceLosses, list_batches, sequence_losses, text_tokens
from actratio.sparse.timing import ForwardPasses
from actratio.statistics.estimate import Estimate

_PROMPT = 128  # tokens, of a model that doesn't decode
_LEAST_BATCHES = 8  # two of them check
_TRIED = 3  # ways: the best exact one and two others; more only if none of them qualifies


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

    The ways are: skipping exact zeros, removing neurons that never fire, thresholds for several losses, 8-bit weights, and both of these.
    All are predicted. The exact one and the two best others are tried on a copy of the model, against the dense model; if none of them
    qualifies, the next best ones too. The model itself is dense afterwards.

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
    if not 0 <= target < math.inf:
        raise SiteError(f"the accepted increase of the loss is {target:g}%; give 0 or more")
    name = type(model).__name__ if name is None else name
    densify(model)
    with evaluating(model), torch.no_grad():
        for work in works:  # before anything that takes long
            ForwardPasses(model, work.batch, prompt=work.prompt).seconds()
        progress("finding the MLPs")
        mlps = resolve(model)
        notes: list[str] = []
        no_loss = _no_loss_reason(model, given)
        if no_loss is not None:
            notes.append(f"Ways that change the outputs (thresholds, 8-bit weights) were not tried, because {no_loss}.")
        checks_loss = no_loss is None
        calibrating, choosing, checking = split_text(given) if checks_loss else (given, [], given)
        progress("measuring")
        measurement = measure_active(model, calibrating, name=name)
        candidates = Ways(model, mlps, measurement, calibrating, choosing)
        trials = [candidates.exact()]
        useful = None  # the way whose thresholds leave the useful ratio
        if checks_loss:
            pruned = candidates.pruned()
            trials += [] if pruned is None else [pruned]
            trials += candidates.changing(target, progress)
            useful = next((trial for trial in trials if trial.options == thresholds_option(target)), None)
        dense_losses = sequence_losses(model, checking) if checks_loss else None
        ways, wait = [], CPUWait()
        times = ModelTimes(text_tokens(checking))
        for trial in trials:
            progress(f"predicting: {trial.name}")
            ways.append(_predicted(model, trial, works, mlps, times))
        order: list[int] = []
        for place in _to_check(trials, ways, target):
            if len(order) >= _TRIED and decide([ways[tried] for tried in order], target).way is not None:
                break
            progress(f"trying: {ways[place].name}")
            ways[place] = _checked(model, trials[place], ways[place], mlps, checking, dense_losses, times.renewed())
            order.append(place)
        waited, useful_loss = wait.share(), None
        if useful is not None and useful.thresholds is not None and dense_losses is not None:
            place = trials.index(useful)
            if ways[place].loss is None:  # this way wasn't tried
                progress("checking the useful ratio")
                with masked([mlp for mlp in mlps if mlp.site.name in useful.thresholds], useful.thresholds):
                    loss = loss_increase(dense_losses, sequence_losses(model, checking))
                ways[place] = replace(ways[place], loss=loss)
            useful_loss = ways[place].loss
    tokens = max(row.counts.passed or row.counts.tokens for row in measurement)  # fewer reach an expert
    return Audit(
        name,
        tokens,
        tuple(_layer(mlp, measurement) for mlp in mlps),
        None if useful is None else useful.computed(mlps),
        useful_loss,
        target,
        None if dense_losses is None else dense_losses.mean,
        tuple(ways[place] for place in [*order, *(place for place in range(len(ways)) if place not in order)]),
        waited,
        decide(ways, target, waited),
        (*notes, *candidates.notes),
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


def unknown_figure_reason(figure: str, model: nn.Module, batches: Sequence[Batch]) -> str | None:
    """Return why an audit can't find a figure of a model, or ``None`` if it can.

    Args:
        figure: of ``Audit.figures``.
        model, batches: as for ``audit``.

    Raises:
        SiteError: no MLP.
    """
    with evaluating(model), torch.no_grad():
        mlps = resolve(model)
        if figure == "useful_ratio":
            reasons = [thresholds_unsupported_reason(mlp, mlps) for mlp in mlps]
            return _no_loss_reason(model, batches) or (reasons[0] if all(reasons) else None)
    if figure == "layer_useful_ratio" and all(mlp.site.expert is not None for mlp in mlps):
        return "it isn't counted for experts"
    return None


def _no_loss_reason(model: nn.Module, given: Sequence[Batch]) -> str | None:
    """Return why the loss of ways that change the outputs can't be measured, or ``None`` if it can."""
    try:
        sequence_losses(model, given[:1])
    except SiteError as error:
        return f"the loss cannot be measured ({error})"
    if len(given) < _LEAST_BATCHES:
        return f"the text makes too few batches to check the loss ({len(given)} of {_LEAST_BATCHES}; see --text and --limit-tokens)"
    return None


def _predicted(model: nn.Module, trial: Trial, works: Sequence[Work], mlps: Sequence[MLP], times: ModelTimes) -> Way:
    gains: dict[Work, Gain] = {}
    if trial.pruning is not None:
        gains = {work: _pruned_gain(model, trial.pruning, work, mlps, times) for work in works}
    else:
        for prompt in {work.prompt for work in works}:
            alike = [work for work in works if work.prompt == prompt]
            sizes = [work.batch for work in alike]
            prediction = predict_speed(
                model, trial.measurement, sizes, **trial.arguments, prompt=prompt, mlps=mlps, times=times
            )
            for work, speed in zip(alike, prediction.speeds, strict=True):
                gains[work] = Gain(work, speed.expected, speed.reason)
    computed = trial.computed(mlps)
    return Way(
        trial.name, trial.options, trial.exact, computed, tuple(gains[work] for work in works), command=trial.command
    )


def _pruned_gain(model: nn.Module, pruning: Pruning, work: Work, mlps: Sequence[MLP], times: ModelTimes) -> Gain:
    """Predict the gain of smaller MLPs: their products take as much less time as they have fewer neurons."""
    passes = times.forward_pass(model, work.batch, work.prompt)
    left = {mlp.site.name: mlp.width / mlp.before for mlp in pruning.mlps}
    layers = [
        (left[mlp.site.name], passes.parts.get(layer, 0.0))
        for mlp in mlps
        if mlp.site.name in left
        for layer in {*mlp.inputs, mlp.down}
    ]
    before, after = sum(part for _, part in layers), sum(share * part for share, part in layers)
    removed = 1 - pruning.parameters / pruning.parameters_before
    expected = passes.seconds / (passes.remaining(before, after) + after)
    return Gain(work, expected, "" if expected >= WORTH else f"only {removed:.0%} of the parameters are removed")


def _to_check(trials: Sequence[Trial], ways: Sequence[Way], target: float) -> list[int]:
    """Return the places of the ways that may be tried: the exact one, then the others, by what is expected of the first work.

    Thresholds for a larger loss than the target aren't tried. After the first two, neither are ways that aren't expected to be worth it.
    """
    others = sorted(
        (place for place, way in enumerate(ways) if not way.exact and trials[place].percent <= target),
        key=lambda place: -ways[place].main.expected,
    )
    later = [place for place in others[_TRIED - 1 :] if ways[place].main.expected >= WORTH]
    return [*(place for place, way in enumerate(ways) if way.exact), *others[: _TRIED - 1], *later]


def _checked(
    model: nn.Module,
    trial: Trial,
    way: Way,
    mlps: Sequence[MLP],
    checking: Sequence[Batch],
    dense_losses: SequenceLosses | None,
    times: ModelTimes,
) -> Way:
    """Return a way with its measured speed-ups, and with its loss if it changes the outputs.

    What is expected of the first work, and of all decoding if that decodes, is predicted again right before it is measured: within a minute,
    what else the machine does can change speed-ups by a fifth.
    """
    other, text = trial.applied_to(model), text_tokens(checking)
    if trial.pruning is None and not any(isinstance(module, Converted) for module in other.modules()):
        unchanged = tuple(replace(gain, expected=1.0, measured=UNCHANGED) for gain in way.gains)
        return replace(
            way, gains=unchanged, loss=None if way.exact or dense_losses is None else Estimate(0.0, 0.0, 0.0)
        )
    again = [gain.work for gain in way.gains if gain.work.prompt == way.main.work.prompt]
    latest = {gain.work: gain for gain in _predicted(model, trial, again, mlps, times).gains}
    gains = tuple(
        replace(
            latest.get(gain.work, gain),
            measured=speedup(model, other, gain.work.batch, prompt=gain.work.prompt, text=text),
        )
        for gain in way.gains
    )
    if way.exact or dense_losses is None:
        return replace(way, gains=gains)
    return replace(way, gains=gains, loss=loss_increase(dense_losses, sequence_losses(other, checking)))


def _layer(mlp: MLP, measurement: Measurement) -> LayerUse:
    counts = active_counts(measurement, mlp.site)
    assert counts is not None  # measured by ``nonzero``
    useful = counts.useful_ratio
    return LayerUse(
        mlp.site.name,
        function_names([mlp.site]),
        float(counts.activation_ratio) if counts.tokens else None,
        None if useful is None else float(useful),
        int(counts.dead) if counts.tokens else 0,
        mlp.site.width,
        counts.tokens,
    )
