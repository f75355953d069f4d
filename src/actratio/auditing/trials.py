"""Try the ways to run a model, and decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import nn

from actratio.auditing.bench import Bench
from actratio.auditing.decision import WORTH, decide, qualifying
from actratio.auditing.results import Audit, LayerUse, Way, Work
from actratio.auditing.ways import Trial, Ways, thresholds_option
from actratio.counting.measurement import Measurement
from actratio.errors import SiteError
from actratio.report.conclusions import function_names
from actratio.sites import evaluating
from actratio.sites.mlps import MLP, resolve
from actratio.sparse.active import active_counts, measure_active
from actratio.sparse.calibration import split_text
from actratio.sparse.converted import densify
from actratio.sparse.planning import thresholds_unsupported_reason
from actratio.sparse.text import Batch, list_batches, sequence_losses
from actratio.sparse.timing import ForwardPasses

_PROMPT = 128  # tokens, of a model that doesn't decode
_LEAST_BATCHES = 8  # two of them check
_FAVOUR = (
    1.05  # a way with thresholds is tried before one without them only if it's expected to be faster by more than that
)


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
    All are predicted. The exact one and the best other one are tried on a copy of the model, against the dense model. So are the next best
    ones, as long as they are expected to be worth it, compared with the best one that qualified. The model itself is dense afterwards.

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
        no_loss = _no_loss_reason(model, given)
        calibrating, choosing, checking = split_text(given) if no_loss is None else (given, [], given)
        progress("measuring")
        measurement = measure_active(model, calibrating, name=name)
        candidates = Ways(model, mlps, measurement, calibrating, choosing)
        trials = [candidates.exact()]
        if no_loss is None:
            trials += candidates.changing(target, progress)
        bench = Bench(model, mlps, works, checking, has_loss=no_loss is None)
        ways, order = _tried(bench, trials, target, progress)
        waited = bench.wait.share()
        useful = next((place for place, trial in enumerate(trials) if trial.options == thresholds_option(target)), None)
        if useful is not None and ways[useful].loss is None:  # this way wasn't tried
            progress("checking the useful ratio")
            ways[useful] = replace(ways[useful], loss=bench.loss_with(trials[useful].thresholds or {}))
    notes = list(candidates.notes)
    if no_loss is not None:
        notes.insert(0, f"Ways that change the outputs (thresholds, 8-bit weights) were not tried, because {no_loss}.")
    return Audit(
        name,
        max(row.counts.passed or row.counts.tokens for row in measurement),  # fewer tokens reach an expert
        tuple(_layer(mlp, measurement) for mlp in mlps),
        None if useful is None else ways[useful].computed,
        None if useful is None else ways[useful].loss,
        target,
        None if bench.dense_losses is None else bench.dense_losses.mean,
        tuple(ways[place] for place in [*order, *(place for place in range(len(ways)) if place not in order)]),
        waited,
        decide(ways, target, waited),
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


def unknown_figure_reason(figure: str, model: nn.Module, batches: Sequence[Batch]) -> str | None:
    """Return why an audit can't find a figure of a model, or ``None`` if it can.

    Args:
        figure: of ``Audit.figures``.
        model, batches: as for ``audit``.

    Raises:
        SiteError: no MLP, if a useful ratio is asked for.
    """
    if figure not in ("useful_ratio", "layer_useful_ratio"):
        return None
    with evaluating(model), torch.no_grad():
        mlps = resolve(model)
        if figure == "layer_useful_ratio":
            has_experts_alone = all(mlp.site.expert is not None for mlp in mlps)
            return "it isn't counted for experts" if has_experts_alone else None
        reasons = [thresholds_unsupported_reason(mlp, mlps) for mlp in mlps]
        return _no_loss_reason(model, batches) or (reasons[0] if all(reasons) else None)


def _no_loss_reason(model: nn.Module, given: Sequence[Batch]) -> str | None:
    """Return why the loss of ways that change the outputs can't be measured, or ``None`` if it can."""
    try:
        sequence_losses(model, given[:1])
    except SiteError as error:
        return f"the loss cannot be measured ({error})"
    if len(given) < _LEAST_BATCHES:
        (sequences, length), enough = given[0]["input_ids"].shape, _LEAST_BATCHES - 1
        return (
            f"the text makes too few batches to check the loss: {len(given)} of {_LEAST_BATCHES}, each of {sequences} sequences of "
            f"{length} tokens; give more than {enough * sequences * length:,} tokens (--text, --limit-tokens)"
        )
    return None


def _tried(
    bench: Bench, trials: Sequence[Trial], target: float, progress: Callable[[str], object]
) -> tuple[list[Way], list[int]]:
    """Predict all ways, and try the best ones.

    Returns:
        The ways, and the places of those that were tried.
    """
    ways = []
    for trial in trials:
        progress(f"predicting: {trial.name}")
        ways.append(bench.predicted(trial))
    exact, others = _to_try(trials, ways, target)
    order: list[int] = []
    for place in [*exact, *others]:
        if place in others[1:] and ways[place].main.expected < WORTH * _reached(
            [ways[tried] for tried in order], target
        ):
            continue
        progress(f"trying: {ways[place].name}")
        ways[place] = bench.tried(trials[place], ways[place])
        order.append(place)
    return ways, order


def _reached(tried: Sequence[Way], target: float) -> float:
    """Return the largest speed-up of the ways that qualified, or 1: as measured or predicted before, whichever is larger.

    Other ways' predictions were made in the same state of the machine as ``gain.before``.
    """
    gains = [way.main for way in qualifying(tried, target)]
    return max(
        (max(gain.measured.value, gain.before or 0.0) for gain in gains if gain.measured is not None), default=1.0
    )


def _to_try(trials: Sequence[Trial], ways: Sequence[Way], target: float) -> tuple[list[int], list[int]]:
    """Return the places of the ways that may be tried: of the exact ones, and of the others, by what is expected of the first work.

    Thresholds for a larger loss than the target aren't tried.
    """
    exact = [place for place, way in enumerate(ways) if way.exact]
    others = [place for place, way in enumerate(ways) if not way.exact and trials[place].percent <= target]
    return exact, sorted(
        others, key=lambda place: -ways[place].main.expected / (_FAVOUR if trials[place].percent else 1.0)
    )


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
