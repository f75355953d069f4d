"""Skip true zeros only: which MLPs have them, and how many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from actratio.counting.measurement import Measurement
from actratio.errors import SiteError
from actratio.sites import evaluating
from actratio.sites.mlps import MLP, resolve
from actratio.sparse.active import NO_ZEROS, measure_active, measured_mlps, measured_ratios, nonzero_ratio
from actratio.sparse.calibration import dense_losses, split_text
from actratio.sparse.converted import densify
from actratio.sparse.planning import plan
from actratio.sparse.text import Batch, SequenceLosses
from actratio.sparse.thresholds import ZEROS, LayerThresholds


@dataclass(frozen=True, eq=False)
class Zeros(LayerThresholds):
    """The MLPs whose zeros are skipped, and the share of their neurons that are zero.

    Attributes:
        dense_losses: of the model, on the text that wasn't counted.
        measurement: which neurons are not zero on the rest of the text.
    """

    dense_losses: SequenceLosses
    measurement: Measurement

    @property
    def loss_dense(self) -> float:
        """The loss of the model on the text that wasn't counted, in nats per token."""
        return self.dense_losses.mean

    @property
    def verdicts(self) -> list[str]:
        """How many neurons are skipped, and the loss, in a sentence."""
        if not self.dropped:
            return [
                f"No MLP has zeros to skip; the loss on the last quarter of the text is {self.loss_dense:.4f} nats per token."
            ]
        mlps = len({row.site.name for row in self.measurement})
        return [
            f"{1 - nonzero_ratio(self.measurement):.0%} of the neuron outputs are zero. Skipping zeros, in {len(self.dropped)} of {mlps} MLPs, changes "
            f"the outputs by rounding only; the loss on text that was not counted is {self.loss_dense:.4f} nats per token."
        ]


def measure_zeros(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    required: bool = True,
    mlps: Sequence[MLP] | None = None,
    progress: Callable[[str], object] = lambda stage: None,
) -> Zeros:
    """Measure the zeros that can be skipped on three quarters of a text, and the loss on the last quarter.

    The model runs in evaluation mode, and is dense afterwards.

    Args:
        model: a causal language model from transformers.
        batches: at least 4, as for ``calibrate``.
        required: whether a model without such zeros is refused. With 8-bit weights, it may have none.
        mlps: the model's MLPs as ``resolve`` returns them; by default they are resolved here.
        progress: called with the name of each stage when it starts.

    Raises:
        DataError: fewer than 4 batches, or a batch without ``input_ids``.
        SiteError: no MLP has zeros that can be skipped, though they are required, or the model isn't a causal language model with finite outputs.
    """
    *counted, checking = split_text(batches)
    densify(model)
    with evaluating(model):
        progress("computing the loss")
        losses = dense_losses(model, checking)
        progress("counting zeros")
        handles = resolve(model) if mlps is None else mlps
        measurement = measure_active(model, [batch for part in counted for batch in part])
        handles = measured_mlps(model, measurement, handles)
    planned = plan(handles, measured_ratios(measurement, handles))
    # A site that no token reached, such as an expert, has no ratio.
    dropped = {
        item.site.name: 1 - item.ratio if item.ratio == item.ratio else 0.0 for item in planned if item.kind != "dense"
    }
    if required and not dropped:
        why = planned[0].why
        advice = (
            "choose thresholds with --target loss=1" if why.endswith(NO_ZEROS) else "use another model, dtype or device"
        )
        raise SiteError(f"no MLP of {type(model).__name__} can skip zeros: {why}; {advice}")
    none = dict.fromkeys(dropped, 0.0)
    return Zeros(ZEROS, none, none, dropped, dense_losses=losses, measurement=measurement)
