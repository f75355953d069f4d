"""What an audit found, as typed results."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from actratio.statistics.estimate import Estimate


@dataclass(frozen=True)
class Work:
    """What one forward pass of a model does.

    Attributes:
        batch: number of sequences.
        prompt: tokens that it reads of each sequence; 0 for a decoding step, which reads one.

    >>> str(Work(4)), str(Work(1, prompt=128))
    ('decoding, batch 4', 'a prompt of 128 tokens')
    """

    batch: int
    prompt: int = 0

    def __str__(self) -> str:
        if self.prompt:
            return f"{f'{self.batch} prompts' if self.batch > 1 else 'a prompt'} of {self.prompt} tokens"
        return f"decoding, batch {self.batch}"


UNCHANGED = Estimate(1.0, 1.0, 1.0)
"""The speed-up of a way that would change nothing on this machine. It isn't timed."""


@dataclass(frozen=True)
class Gain:
    """How much faster a way to run a model does some work.

    Attributes:
        work: what is done.
        expected: the predicted speed-up over the dense model; if the way was tried, the middle one of those that were predicted meanwhile.
        reason: why ``expected`` isn't worth it, as in ``Speed``.
        measured: the measured speed-up, with its interval as ``Race`` has it; ``UNCHANGED`` if the way would change nothing; ``None`` if
            it wasn't measured.
        before: the speed-up that was predicted before any way was tried, if the way was tried since.
    """

    work: Work
    expected: float
    reason: str
    measured: Estimate | None = None
    before: float | None = None


@dataclass(frozen=True)
class Way:
    """A way to run a model.

    Attributes:
        name: what is done, in words.
        options: those of the command that do it. ``sparsify`` without options saves nothing: ``sparsify(model, dense=True)`` does it.
        exact: whether the outputs stay the same up to the order of summation.
        computed: share of the MLPs' neuron outputs that are computed.
        gains: one for each kind of work, in the order in which they were asked for.
        loss: increase of the loss in per cent on text that wasn't used to choose, with its 95% interval over sequences; ``None``
            if it wasn't measured.
        command: the command that does it: ``sparsify`` or ``prune``.
    """

    name: str
    options: str
    exact: bool
    computed: float
    gains: tuple[Gain, ...]
    loss: Estimate | None = None
    command: str = "sparsify"

    @property
    def main(self) -> Gain:
        """The gain that decides: that of the first work."""
        return self.gains[0]


@dataclass(frozen=True)
class LayerUse:
    """How much of an MLP is used.

    Attributes:
        site: its name.
        function: its activation function.
        nonzero: share of its neuron outputs that aren't zero; ``None`` for an expert that no token reached.
        useful: ``SiteCounts.useful_ratio``, the smallest share of its neuron outputs that gives its output with a mean error of at most 20%;
            ``None`` if it isn't known.
        dead: neurons that were zero on all tokens that reached it.
        width: number of its neurons.
        tokens: number of tokens that reached it.
    """

    site: str
    function: str
    nonzero: float | None
    useful: float | None
    dead: int
    width: int
    tokens: int


@dataclass(frozen=True)
class Decision:
    """What to do with a model.

    Attributes:
        way: what to do; ``None`` to keep the model dense.
        sentences: the decision, and why.
        too_busy: whether the model stays dense because the machine was too busy to tell.
    """

    way: Way | None
    sentences: tuple[str, ...]
    too_busy: bool = False


@dataclass(frozen=True)
class Audit:
    """What ``audit`` returns.

    Attributes:
        model: its name.
        tokens: number of tokens that the counts are from.
        layers: one for each MLP.
        useful_ratio: the smallest share of all neuron outputs, by contribution, that was found to cost at most ``target`` per cent of the
            loss on the text that chose it, as ``LossSearch`` searches it; ``None`` without enough text, or if the model can't have thresholds.
        useful_loss: what it costs on text that wasn't used to choose, in per cent, with its 95% interval over sequences.
        target: the largest increase of the loss that is accepted, in per cent.
        loss: of the dense model on text that wasn't used to choose, in nats per token; ``None`` if it wasn't measured.
        ways: ways to run the model, those that were measured first.
        waited: share of the time that this process waited for a CPU while speeds were predicted and measured; NaN if it isn't known.
        decision: what to do.
        notes: what could not be tried, and why.
    """

    model: str
    tokens: int
    layers: tuple[LayerUse, ...]
    useful_ratio: float | None
    useful_loss: Estimate | None
    target: float
    loss: float | None
    ways: tuple[Way, ...]
    waited: float
    decision: Decision
    notes: tuple[str, ...] = ()

    @property
    def neurons(self) -> int:
        """The number of all neurons, without those of experts that no token reached."""
        return sum(layer.width for layer in self.layers if layer.tokens)

    @property
    def figures(self) -> dict[str, float]:
        """The numbers that a condition such as ``useful_ratio<0.3`` can name; those that weren't measured are left out."""
        outputs = sum(layer.width * layer.tokens for layer in self.layers)
        nonzero = sum((layer.nonzero or 0.0) * layer.width * layer.tokens for layer in self.layers)
        useful = [(layer.useful, layer.width) for layer in self.layers if layer.useful is not None]
        values: dict[str, float | None] = {
            "useful_ratio": self.useful_ratio,
            "layer_useful_ratio": sum(share * width for share, width in useful) / sum(width for _, width in useful)
            if useful
            else None,
            "nonzero_ratio": nonzero / outputs if outputs else None,
            "dead_ratio": sum(layer.dead for layer in self.layers) / self.neurons if self.neurons else None,
            "speedup": self._speedup(),
        }
        return {name: value for name, value in values.items() if value is not None}

    def _speedup(self) -> float | None:
        """Return how much faster the model gets if the decision is followed; ``None`` if the machine was too busy to tell."""
        if self.decision.way is None:
            return None if self.decision.too_busy else 1.0
        measured = self.decision.way.main.measured
        return None if measured is None else measured.value

    def rows(self) -> list[dict[str, Any]]:
        """Return one record for each way and kind of work."""
        return [
            {
                "way": way.name,
                "command": way.command,
                "options": way.options,
                "exact": way.exact,
                "computed": way.computed,
                "batch": gain.work.batch,
                "prompt": gain.work.prompt,
                "before": gain.expected if gain.before is None else gain.before,
                "expected": gain.expected,
                "measured": None if gain.measured is None else gain.measured.to_dict(),
                "loss_percent": None if way.loss is None else way.loss.to_dict(),
                "reason": gain.reason,
                "chosen": way == self.decision.way,
            }
            for way in self.ways
            for gain in way.gains
        ]

    def layer_rows(self) -> list[dict[str, Any]]:
        """Return one record for each MLP."""
        return [asdict(layer) for layer in self.layers]
