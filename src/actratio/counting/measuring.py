"""Measuring a model: find its sites, run the batches, and count."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from actratio.counting.criteria import Criterion, to_criteria
from actratio.counting.measurement import Measurement, tokens_of
from actratio.counting.partial import PartialCounts
from actratio.counting.probe import TENSORS, Probe, is_probed
from actratio.errors import ActratioError, SiteError
from actratio.models.fingerprint import weights_fingerprint
from actratio.sites import Select, check_select, checked_call, choose, device_of, evaluating, trace
from actratio.sites.inputs import without_cache
from actratio.sites.late import LateParts, asleep
from actratio.sites.wrappers import check_can_be_followed, unwrapped

_NO_BATCH = object()
"""What an iterator of batches returns after the last one."""

Progress = Callable[[int], None]
"""Called after every batch with the number of tokens (or examples) counted so far."""


def measure(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    sites: Select = None,
    tensors: str | Sequence[str] = TENSORS,
    criteria: str | Criterion | Sequence[str | Criterion] = ("positive",),
    counts_alone: bool = False,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    partial: str | Path | None = None,
    progress: Progress = lambda tokens: None,
    stage: Callable[[str], object] = lambda name: None,
) -> Measurement:
    """Measure how many neurons of a model's MLPs are active.

    The model runs in evaluation mode without gradients and without a KV cache, and is left unchanged.

    Args:
        model: any module; it runs where its weights are.
        batches: tensors, mappings of keyword arguments (with ``attention_mask`` or ``src_key_padding_mask`` for padding), or pairs ``(x, y)``, of
            which the model reads x. They are moved to the model's device.
        sites: globs over the sites' names, or a function of a ``Site``; by default all MLPs and experts.
        tensors: one or several of ``activation`` and ``hidden``, which only gated MLPs have.
        criteria: what counts as active: one criterion or several, as text or as ``Criterion``. Several criteria need
            one pass only.
        counts_alone: leave out unions, overlaps, idle blocks, magnitudes and the useful ratio.
        name: the model's name in the table; by default the name it was loaded by, or that of its class.
        settings: what else to record with the measurement, such as the text, as values for JSON.
        partial: a file for the counts of an unfinished measurement, saved every 30 seconds and after an interrupt. If
            it exists, the measurement continues after the batches that it has, and ends with the same integers as one that
            was never interrupted. ``Measurement.save`` removes it from its folder.
        progress: called after every batch with the number of tokens counted so far.
        stage: called with the name of each stage when it starts.

    Raises:
        CriterionError: a criterion is unknown or given twice.
        RunError: ``partial`` has counts of other settings, weights or batches.
        SiteError: there are no batches or no such sites, a tensor is unknown, the model fails on a batch or returns
            nothing, or a batch does not reach a site. Or a ``Probe`` is counting the model.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> _ = model[0].weight.data.copy_(torch.eye(2)), model[0].bias.data.zero_()
        >>> measure(model, [torch.tensor([[1.0, -1.0]])]).to_frame()["activation_ratio"].item()
        0.5
    """
    if not isinstance(model, nn.Module):
        raise SiteError(f"the model is of type {type(model).__name__}; give an nn.Module")
    remaining = _iterator(batches)
    check_select(sites)
    if not isinstance(tensors, Iterable):
        raise SiteError(f"tensors is {tensors!r}; write {' or '.join(TENSORS)}")
    tensors = (tensors,) if isinstance(tensors, str) else tuple(tensors)
    check_tensors(tensors)
    parsed = to_criteria(criteria)
    model = unwrapped(model)
    check_can_be_followed(model)
    model_name = name or getattr(model, "name_or_path", "") or type(model).__name__
    recorded = {**(settings or {}), **measure_settings(sites, tensors, parsed, counts_alone)}
    kept = None if partial is None else PartialCounts(Path(partial), model_name, recorded, weights_fingerprint(model))
    with _alone(model), evaluating(model), torch.no_grad(), ExitStack() as block:
        if kept is not None and kept.before is not None:
            stage("skipping the batches that are counted")
            kept.skip(remaining)
            found = list(dict.fromkeys(row.site for row in kept.before))
            sampled = {row.site.name: row.counts.useful_tokens or 0 for row in kept.before}
            probe = Probe(
                model, found, tensors=tensors, criteria=parsed, counts_alone=counts_alone, sampled_before=sampled
            )
            block.enter_context(probe)
            block.enter_context(LateParts(model, kept.asleep))
            before, left_out = tokens_of(kept.before), kept.left_out
        else:
            probe, left_out = _first_batch(model, remaining, block, sites, tensors, parsed, counts_alone, kept, stage)
            before = 0
        progress(before + probe.tokens)
        stage("counting")
        try:
            while (batch := _next_uncounted(remaining, probe)) is not _NO_BATCH:
                _count(model, batch, probe, kept)
                progress(before + probe.tokens)
        except BaseException as error:
            if kept is not None and not isinstance(error, ActratioError):  # which would happen again
                kept.save()
            raise
    if sites is None:
        recorded["left_out"] = left_out
    return Measurement.of(probe, model_name, recorded) if kept is None else kept.joined(probe, recorded)


_threads: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""The thread that measures a model."""

_lock = threading.Lock()


@contextmanager
def _alone(model: nn.Module) -> Iterator[None]:
    """Keep other threads from measuring a model, whose hooks count what every thread runs.

    Raises:
        SiteError: a probe or another thread is counting it.
    """
    with _lock:
        owner = _threads.get(model)
        if is_probed(model) or owner not in (None, threading.get_ident()):
            raise SiteError(
                f"a Probe or another thread is counting {type(model).__name__}, and would count this measurement too; leave the Probe's "
                "block first, or wait for the thread"
            )
        _threads[model] = threading.get_ident()
    try:
        yield
    finally:
        if owner is None:
            del _threads[model]


def _iterator(batches: Any) -> Iterator[Any]:
    try:
        if not isinstance(batches, Mapping):
            return iter(batches)
    except TypeError:  # it has no items
        pass
    raise SiteError(f"batches is a {type(batches).__name__}; give a list of batches, such as [batch]")


def check_tensors(tensors: Sequence[str]) -> None:
    """Check the names of tensors.

    Raises:
        SiteError: there is no such tensor, or none is given.
    """
    unknown = [tensor for tensor in tensors if tensor not in TENSORS]
    if unknown or not tensors:
        raise SiteError(f"there is no tensor {unknown[0] if unknown else ''!r}; write {' or '.join(TENSORS)}")


def measure_settings(
    sites: Select, tensors: Sequence[str], criteria: Sequence[Criterion], counts_alone: bool
) -> dict[str, Any]:
    """Return the arguments of ``measure`` that decide what is counted, as values for JSON."""
    names = [sites] if isinstance(sites, str) else sites
    return {
        "sites": getattr(names, "__qualname__", repr(names))
        if callable(names)
        else None
        if names is None
        else [*names],
        "tensors": [*tensors],
        "criteria": [str(criterion) for criterion in criteria],
        "counts_alone": counts_alone,
    }


def _first_batch(
    model: nn.Module,
    batches: Iterator[Any],
    block: ExitStack,
    sites: Select,
    tensors: Sequence[str],
    criteria: Sequence[Criterion],
    counts_alone: bool,
    kept: PartialCounts | None,
    stage: Callable[[str], object],
) -> tuple[Probe, dict[str, int]]:
    """Find the sites by following the first batch, and count it.

    Returns:
        The probe, entered in ``block``, and how many sites of each role are left out.
    """
    stage("reading the first batch")
    batch = next(batches, _NO_BATCH)
    if batch is _NO_BATCH:
        raise SiteError("there are no batches to measure; give at least one")
    first = _inputs(model, batch)
    for few_tokens, few_sequences in ((True, True), (False, True), (False, False)):
        try:
            stage("finding the MLPs")
            ran: set[str] = set()
            found = trace(model, first, few_tokens=few_tokens, few_sequences=few_sequences, ran=ran)
            late = asleep(model, ran, found)
            probe = Probe(model, choose(found, sites), tensors=tensors, criteria=criteria, counts_alone=counts_alone)
            block.enter_context(probe)
            block.enter_context(LateParts(model, late))
            left_out = dict(Counter(str(site.role) for site in found if site.down and site not in probe.sites))
            if kept is not None:
                kept.left_out, kept.asleep = left_out, late
            stage("counting the first batch")
            _count(model, batch, probe, kept)
            return probe, left_out
        except SiteError as error:
            # Perhaps a site runs only in longer sequences or larger batches, or more often in them.
            block.__exit__(type(error), error, None)
            if not few_sequences:
                raise
    raise AssertionError


def _count(model: nn.Module, batch: Any, probe: Probe, kept: PartialCounts | None) -> None:
    """Count a batch, and note it in the file for the counts of an unfinished measurement."""
    _run(model, _inputs(model, batch), probe)
    if kept is not None:
        kept.note(probe, batch)


def _run(model: nn.Module, inputs: Any, probe: Probe) -> None:
    """Run the model on a batch.

    Raises:
        SiteError: the model fails, or the probe did not count the forward pass.
    """
    passes = probe.passes
    output = checked_call(model, inputs, "the forward pass of a batch")
    if probe.passes > passes:
        return
    name = type(model).__name__
    if output is None:  # torch passes None to the hooks of a failed pass too
        raise SiteError(
            f"{name}'s forward pass returned nothing, so it can't be counted; return its output from forward"
        )
    raise SiteError(f"{name} ran without its hooks, so it can't be counted; don't override __call__ of torch.nn.Module")


def _next_uncounted(inputs: Iterator[Any], probe: Probe) -> Any:
    """Return the next batch, or ``_NO_BATCH``; what makes it may run the model too, which is not counted."""
    probe.enabled = False
    try:
        return next(inputs, _NO_BATCH)
    finally:
        probe.enabled = True


def _inputs(model: nn.Module, batch: Any) -> Any:
    """Return what the model reads of a batch, on the model's device and without a KV cache."""
    device = device_of(model)
    if isinstance(batch, tuple | list):
        batch = batch[0]
    values = batch.values() if isinstance(batch, Mapping) else [batch]
    if any(getattr(value, "is_nested", False) for value in values):
        raise SiteError(
            "a batch has a nested tensor, whose tokens can't be told apart; give a padded one, with an attention_mask"
        )
    if isinstance(batch, Mapping):
        moved = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
        return without_cache(model, moved)
    if not isinstance(batch, Tensor):
        raise SiteError(
            f"a batch is a {type(batch).__name__}; it must be a tensor, a mapping of tensors, or a pair (x, y)"
        )
    return without_cache(model, batch.to(device))
