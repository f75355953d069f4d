"""Measuring a model: find its sites, run the batches, and count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from actratio.counting.criteria import Criterion, to_criteria
from actratio.counting.measurement import Measurement
from actratio.counting.probe import TENSORS, Probe
from actratio.errors import SiteError
from actratio.sites import Select, checked_call, choose, device_of, evaluating, trace
from actratio.sites.inputs import without_cache

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
    progress: Progress = lambda tokens: None,
) -> Measurement:
    """Measure how many neurons of a model's MLPs are active.

    The model runs in evaluation mode without gradients and without a KV cache, and is left unchanged.

    Args:
        model: any module; it runs where its weights are.
        batches: tensors, mappings of keyword arguments (with ``attention_mask`` for padding), or pairs ``(x, y)``, of
            which the model reads x. They are moved to the model's device.
        sites: globs over the sites' names, or a function of a ``Site``; by default all MLPs and experts.
        tensors: one or several of ``activation`` and ``hidden``, which only gated MLPs have.
        criteria: what counts as active: one criterion or several, as text or as ``Criterion``. Several criteria need
            one pass only.
        counts_alone: leave out unions, overlaps, idle blocks and magnitudes.
        name: the model's name in the table; by default the name it was loaded by, or that of its class.
        progress: called after every batch with the number of tokens counted so far.

    Raises:
        CriterionError: a criterion is unknown or given twice.
        SiteError: there are no batches or no such sites, a tensor is unknown, the model fails on a batch or returns
            nothing, or a batch does not reach a site.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> _ = model[0].weight.data.copy_(torch.eye(2)), model[0].bias.data.zero_()
        >>> measure(model, [torch.tensor([[1.0, -1.0]])]).to_frame()["activation_ratio"].item()
        0.5
    """
    if isinstance(batches, Mapping):
        raise SiteError(f"batches is a {type(batches).__name__}; give a list of batches, such as [batch]")
    tensors = (tensors,) if isinstance(tensors, str) else tuple(tensors)
    unknown = [tensor for tensor in tensors if tensor not in TENSORS]
    if unknown or not tensors:
        raise SiteError(f"there is no tensor {unknown[0] if unknown else ''!r}; write {' or '.join(TENSORS)}")
    parsed = to_criteria(criteria)
    device = device_of(model)
    with evaluating(model), torch.no_grad(), ExitStack() as block:
        inputs = (without_cache(model, _inputs(batch, device)) for batch in batches)
        first = next(inputs, None)
        if first is None:
            raise SiteError("there are no batches to measure; give at least one")
        for few_tokens in (True, False):
            try:
                found = trace(model, first, few_tokens=few_tokens)
                probe = Probe(model, choose(found, sites), tensors=tensors, criteria=parsed, counts_alone=counts_alone)
                block.enter_context(probe)
                _run(model, first, probe)
                break
            except SiteError:  # perhaps a site runs only in longer sequences, or more often in them
                block.close()
                if not few_tokens:
                    raise
        progress(probe.tokens)
        while (batch_inputs := _next_uncounted(inputs, probe)) is not None:
            _run(model, batch_inputs, probe)
            progress(probe.tokens)
    settings: dict[str, Any] = {
        "tensors": list(tensors),
        "criteria": [str(criterion) for criterion in parsed],
        "counts_alone": counts_alone,
    }
    if sites is None:
        settings["left_out"] = dict(Counter(site.role for site in found if site.down and site not in probe.sites))
    return Measurement.of(probe, name or getattr(model, "name_or_path", "") or type(model).__name__, settings)


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
    """Return the next batch; what makes it may run the model too, which is not counted."""
    probe.enabled = False
    try:
        return next(inputs, None)
    finally:
        probe.enabled = True


def _inputs(batch: Any, device: torch.device) -> Any:
    """Return what the model reads of a batch, on the model's device."""
    if isinstance(batch, tuple | list):
        batch = batch[0]
    if isinstance(batch, Mapping):
        return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
    if not isinstance(batch, Tensor):
        raise SiteError(
            f"a batch is a {type(batch).__name__}; it must be a tensor, a mapping of tensors, or a pair (x, y)"
        )
    return batch.to(device)
