"""What to expect of skipping neurons, as typed results with a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actratio.sparse.active import NO_ZEROS
from actratio.sparse.contention import BUSY, waited_in_words
from actratio.sparse.planning import Plan
from actratio.sparse.timing import Machine
from actratio.statistics.estimate import Estimate, finite_or_none

if TYPE_CHECKING:
    import pandas as pd

_WORTH = 1.1  # a smaller speed-up isn't worth it
_MARGIN = 1.03  # within noise, neither faster nor slower
_NEARLY_ALL = 0.6  # share of the neurons that explains a small speed-up
_REST = "the rest of the model takes most of the time"


@dataclass(frozen=True)
class LayerSpeed:
    """What an MLP reads and computes in one decoding step.

    Attributes:
        plan: what ``sparsify`` would do to it.
        needed: share of neurons that at least one example of the batch needs; of an expert, one of those that reach it.
        used: probability that at least one example needs the MLP: 1, except for an expert.
        held_bytes: bytes of its weights.
        dense_bytes, sparse_bytes: bytes of the weights that are read.
        dense_flops, sparse_flops: multiplications and additions.
        dense_seconds, sparse_seconds: of the products that sparsity changes, timed inside a forward pass, or alone for experts whose weights
            are stacked; the sparse ones on random numbers with the measured ratio. 0 if it changes none.
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
class OtherLayers:
    """The linear layers that get another product although they read all weights, all together.

    Attributes:
        dense_bytes, new_bytes: bytes of their weights, before and after.
        dense_seconds, new_seconds: of their products in one decoding step.
    """

    dense_bytes: float = 0.0
    new_bytes: float = 0.0
    dense_seconds: float = 0.0
    new_seconds: float = 0.0


@dataclass(frozen=True)
class Speed:
    """What to expect of a model at one batch size.

    Attributes:
        batch: number of sequences.
        layers: what each MLP reads and computes.
        dense_seconds: of one forward pass, timed here once; ``expected`` comes from other passes.
        ideal: speed-up if time were spent on reading weights only, all at the same rate; for prompts, or on multiplying only.
        ideal_mlp: the same for the MLPs alone.
        expected: speed-up of a pass in which the new products stand in for the model's own.
        reason: why ``expected`` isn't worth it, to be read after "because"; empty if it is, or if it would be slower.
        others: the other linear layers whose product changes, with ``dense`` or ``weights``.
        prompt: tokens that the pass reads of each sequence; 0 for a decoding step, which reads one.
    """

    batch: int
    layers: list[LayerSpeed]
    dense_seconds: float
    ideal: float
    ideal_mlp: float
    expected: float
    reason: str
    others: OtherLayers = OtherLayers()
    prompt: int = 0

    @property
    def verdict(self) -> str:
        """A sentence that starts with "yes" or "no" and says why."""
        if self.faster:
            return f"yes, about {self.expected:.2f} times as fast"
        if not self.reason:
            return f"no, it would be slower, about {self.expected:.2f} times as fast"
        advice = (
            "; `actratio sparsify` can choose thresholds that create zeros" if self.reason.endswith(NO_ZEROS) else ""
        )
        result = f", so it would be {self.expected:.2f} times as fast" if self.reason == _REST else ""
        return f"no, because {self.reason}{result}{advice}"

    @property
    def faster(self) -> bool:
        """Whether the expected speed-up is worth it, and fewer bytes can explain it."""
        return _is_worth_it(self.ideal, self.expected, self.others)

    @property
    def needed(self) -> float:
        """Mean share of neurons needed, over the MLPs that skip some; 1 if none does."""
        return _mean_needed(self.layers)

    def row(self) -> dict[str, Any]:
        """Return the record of a table."""
        return {
            "batch": self.batch,
            "prompt": self.prompt,
            "needed": self.needed,
            "dense_ms": self.dense_seconds * 1e3,
            "dense_bytes": sum(layer.dense_bytes for layer in self.layers),
            "sparse_bytes": sum(layer.sparse_bytes for layer in self.layers),
            "dense_flops": sum(layer.dense_flops for layer in self.layers),
            "sparse_flops": sum(layer.sparse_flops for layer in self.layers),
            "ideal_mlp": self.ideal_mlp,
            "ideal": self.ideal,
            "expected": self.expected,
            "faster": self.faster,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class SpeedPrediction:
    """What ``predict_speed`` returns.

    Attributes:
        machine: how fast the model's device reads and multiplies.
        speeds: one for each batch size.
        waited: share of the time that this process waited for a CPU while they were timed; NaN if it isn't known.
    """

    machine: Machine
    speeds: list[Speed]
    waited: float = math.nan

    @property
    def verdicts(self) -> list[str]:
        """One sentence for each batch size."""
        return [f"Batch {speed.batch}: {speed.verdict}." for speed in self.speeds]

    def __str__(self) -> str:
        """The verdicts and the warning, if there is one, one to a line."""
        return "\n".join([*self.verdicts, *filter(None, [self.warning])])

    @property
    def warning(self) -> str:
        """Two sentences if the machine was busy, so that the figures may be wrong; else empty."""
        if not self.waited > BUSY or all(speed.expected == 1 for speed in self.speeds):
            return ""
        return f"These figures may be wrong: {waited_in_words(self.waited)}. Run this again when the machine is idle."

    def rows(self) -> list[dict[str, Any]]:
        """Return one record for each batch size."""
        return [speed.row() for speed in self.speeds]

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a pandas frame."""
        import pandas as pd

        return pd.DataFrame(self.rows())


@dataclass(frozen=True)
class SpeedCheck:
    """The expected and the measured speed-up at one batch size.

    Attributes:
        batch: number of sequences.
        expected: predicted speed-up.
        measured: speed-up of a decoding step of the sparse model, with its 95% interval.
        reason: as in ``Speed``.
        waited: share of the time that this process waited for a CPU meanwhile; NaN if it isn't known.
    """

    batch: int
    expected: float
    measured: Estimate
    reason: str
    waited: float = math.nan

    def __str__(self) -> str:
        measured = f"{self.measured.value:.2f} ({self.measured.low:.2f} to {self.measured.high:.2f})"
        because = f", because {self.reason}" if self.reason else ""
        return f"Batch {self.batch}: {measured} times as fast. {self._conclusion()}. Expected was {self.expected:.2f}{because}."

    def _conclusion(self) -> str:
        if self.measured.low > 1:
            return "It is faster"
        if self.waited > BUSY:
            return f"This machine is too busy to tell whether it is faster: meanwhile, {waited_in_words(self.waited)}"
        return "It is slower" if self.measured.high < 1 else "This machine is too noisy to tell whether it is faster"

    def row(self) -> dict[str, Any]:
        """Return the record of a table."""
        return {
            "batch": self.batch, "expected": self.expected, "measured": self.measured.to_dict(), "reason": self.reason,
            "waited": finite_or_none(self.waited),
        }  # fmt: skip


def small_gain_reason(
    batch: int,
    layers: Sequence[LayerSpeed],
    ideal: float,
    expected: float,
    mlp_share: float,
    others: OtherLayers | None = None,
    *,
    prompt: int = 0,
) -> str:
    """Return why a speed-up isn't worth it, to be read after "because"; nothing if it is, or if it would be slower.

    Args:
        batch, layers: as in ``Speed``.
        ideal, expected: speed-ups, as in ``Speed``.
        mlp_share: the MLPs' share of the bytes that a dense step reads.
        others, prompt: as in ``Speed``.
    """
    others = others or OtherLayers()
    sparse = [layer for layer in layers if layer.plan.kind != "dense"]
    if not sparse and not others.dense_bytes:
        return layers[0].plan.why
    if _is_worth_it(ideal, expected, others) or expected < 1 / _MARGIN:
        return ""
    needed = _mean_needed(sparse)
    if sparse and needed > _NEARLY_ALL:
        one = f"a prompt of {prompt} tokens" if prompt else "a token"
        reader = f"{batch} {'prompts' if prompt else 'sequences'} together need" if batch > 1 else f"{one} needs"
        return f"{reader} {needed:.0%} of the neurons"
    if sparse and ideal < _WORTH:  # a larger expected speed-up is noise of the timing
        return (
            f"the MLPs are {mlp_share:.0%} of the weights that a step reads, so skipping neurons makes it at most "
            f"{ideal:.2f} times as fast"
        )
    if sparse and sum(layer.dense_seconds for layer in sparse) < 2 * sum(layer.sparse_seconds for layer in sparse):
        return "reading fewer weights saves little time here, for example because they fit in the cache"
    return _REST


def _is_worth_it(ideal: float, expected: float, others: OtherLayers) -> bool:
    # Another product can be faster without reading fewer bytes.
    return (expected if others.dense_bytes else min(ideal, expected)) >= _WORTH


def _mean_needed(layers: Sequence[LayerSpeed]) -> float:
    needed = [layer.needed for layer in layers if layer.plan.kind != "dense"]
    return sum(needed) / len(needed) if needed else 1.0
