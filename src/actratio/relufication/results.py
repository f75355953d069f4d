"""The result of a fine-tuning."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from actratio.relufication.activations import KEEP
from actratio.relufication.schedule import Evaluation, FineTuning
from actratio.sparse.thresholds import Target, increase_in_words, missed
from actratio.statistics.estimate import Estimate
from actratio.tracking.readings import SiteReading

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Relufied:
    """What a fine-tuning made of a model.

    Attributes:
        tuning: how it was fine-tuned.
        function: the activation function that the model had.
        tokens: that one step trains on.
        bound: the largest loss, in nats per token, on the text that chose the model.
        evaluations: on that text, in the order of the steps; the first one is of the given model, at step 0.
        kept: the evaluation of the model that was kept, or ``None`` if the loss was above the bound at every one.
        before: the given model on text that was neither trained on nor used to choose.
        after: the model that was kept, on the same text.
        increase: of the loss from ``before`` to ``after`` in per cent, with its 95% interval over sequences; ``None`` if no model was kept.
        readings: what the tracker read while it was trained.
    """

    tuning: FineTuning
    function: str
    tokens: int
    bound: float
    evaluations: list[Evaluation]
    kept: Evaluation | None
    before: Evaluation
    after: Evaluation | None
    increase: Estimate | None
    readings: list[SiteReading]

    @property
    def verdicts(self) -> list[str]:
        """What was reached and what it cost, in sentences."""
        tuning = self.tuning
        new = self.function if tuning.activation == KEEP else tuning.activation
        if self.after is None or self.kept is None or self.increase is None:
            lowest = min(item.loss for item in self.evaluations[1:])
            return [
                f"No model was kept: with {new}, the loss was {lowest:.4f} nats per token at best, which is more than {self.bound:.4f} "
                f"({tuning.loss:g}% above that of the given model). More steps (--steps), a higher learning rate (--lr) or a larger --loss may help."
            ]
        is_control = tuning.activation == KEEP and tuning.target == 1
        reached = "reached" if self.after.ratio <= tuning.target else "missed"
        return [
            f"{self.after.ratio:.1%} of the neuron outputs are not zero on text that was not used; they were {self.before.ratio:.1%}"
            + (f". The target of {100 * tuning.target:.3g}% was {reached}." if tuning.target < 1 else "."),
            f"The loss on the same text goes from {self.before.loss:.4f} to {self.after.loss:.4f} nats per token "
            f"({increase_in_words(self.increase)}){missed(Target('loss', tuning.loss), self.increase, 'the model')}.",
            f"The model trained on {self.kept.step * self.tokens:,} tokens of this text. Training alone lowers the loss on similar text"
            + (
                "."
                if is_control
                else ": to see what the zeros cost, train the same steps with --activation keep --target 1."
            ),
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Return one record for each evaluation: step, loss, ratio, strength."""
        return [asdict(item) for item in self.evaluations]

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a pandas frame."""
        import pandas as pd

        return pd.DataFrame(self.rows())
