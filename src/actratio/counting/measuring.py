"""The loop: batches through a model, counts out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from actratio.counting.criteria import Criterion
from actratio.counting.measurement import Measurement
from actratio.counting.probe import TENSORS, Probe
from actratio.errors import SiteError
from actratio.sites import Site, call, choose, device_of, evaluating, trace
from actratio.sites.find import Select

Progress = Callable[[int], None]
"""Called after every batch with the tokens (or examples) counted so far at the first site."""


def measure(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    sites: Select = None,
    tensors: Sequence[str] = TENSORS,
    criteria: Sequence[str | Criterion] = ("positive",),
    counts_alone: bool = False,
    name: str | None = None,
    progress: Progress = lambda tokens: None,
) -> Measurement:
    """Measure how many neurons of a model's MLPs fire.

    The model runs in evaluation mode without gradients, and is afterwards as it was.

    Args:
        batches: tensors, mappings of keyword arguments (padding is what ``attention_mask`` says), or pairs
            ``(x, y)`` of which x is what the model reads. They go to where the model reads them.
        sites: globs over the sites' names, or a function of a ``Site``; by default all MLPs and experts.
        tensors: ``activation``, and in gated MLPs ``hidden``.
        criteria: what counts as active; several cost one pass.
        counts_alone: leave out unions, overlaps, idle blocks and magnitudes.
        name: of the model, for the table; by default its class's, or the one that it was loaded by.

    Raises:
        ActratioError: no batches, no such sites, an unknown criterion or tensor, a site that a batch does not reach.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> _ = model[0].weight.data.copy_(torch.eye(2)), model[0].bias.data.zero_()
        >>> measure(model, [torch.tensor([[1.0, -1.0]])]).to_frame()["activation_ratio"].item()
        0.5
    """
    unknown = [tensor for tensor in tensors if tensor not in TENSORS]
    if unknown or not tensors:
        raise SiteError(f"there is no tensor {unknown[0] if unknown else ''!r}; write {' or '.join(TENSORS)}")
    if not criteria:
        raise SiteError("there is no criterion to count by; write one, such as positive")
    wanted = [each if isinstance(each, Criterion) else Criterion.parse(each) for each in criteria]
    device = device_of(model)
    probe: Probe | None = None
    every: list[Site] = []
    with evaluating(model), torch.no_grad():
        for batch in batches:
            inputs = _inputs(batch, device)
            if probe is None:
                every = trace(model, inputs)
                probe = Probe(
                    model,
                    choose(every, sites),
                    tensors=tensors,
                    criteria=wanted,
                    counts_alone=counts_alone,
                )
            with probe:
                call(model, inputs)
            progress(probe.tokens)
    if probe is None:
        raise SiteError("there are no batches to measure; give at least one")
    settings: dict[str, Any] = {
        "tensors": list(tensors),
        "criteria": [str(each) for each in wanted],
        "counts_alone": counts_alone,
    }
    if sites is None:
        settings["left_out"] = dict(Counter(site.role for site in every if site.down and site not in probe.sites))
    return Measurement.of(probe, name or getattr(model, "name_or_path", "") or type(model).__name__, settings)


def _inputs(batch: Any, device: torch.device) -> Any:
    """What the model reads of a batch, on its device."""
    if isinstance(batch, tuple | list):
        batch = batch[0]
    if isinstance(batch, Mapping):
        return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
    if not isinstance(batch, Tensor):
        raise SiteError(
            f"a batch is a {type(batch).__name__}; it must be a tensor, a mapping of tensors, or a pair (x, y)"
        )
    return batch.to(device)
