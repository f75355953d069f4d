"""Predict how fast ways to run a model are, and try them beside the dense model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from actratio.auditing.decision import WORTH
from actratio.auditing.results import UNCHANGED, Gain, Way, Work
from actratio.auditing.ways import Trial
from actratio.sites.mlps import MLP
from actratio.sparse.comparing import Race, loss_increase
from actratio.sparse.contention import CPUWait
from actratio.sparse.converted import Converted
from actratio.sparse.layer_times import ModelTimes
from actratio.sparse.masking import masked
from actratio.sparse.prediction import predict_speed
from actratio.sparse.pruning import Pruning
from actratio.sparse.text import Batch, sequence_losses, text_tokens
from actratio.statistics.estimate import Estimate

_NONE = Estimate(0.0, 0.0, 0.0)
_SPELLS = 5  # of measuring a way
_LEAST, _MOST = 3, 33  # rounds of each
_PASS_SECONDS, _PASSES = 0.8, 3  # how long forward passes are timed before each spell, and at least how many
_FIRST_SECONDS = 1.5  # how long they are timed to choose the ways to try
_RACE_SECONDS = 1.4  # how long each kind of work is measured in a spell


class Bench:
    """Predicts how fast ways to run a model are, and tries them on copies of the model.

    Args:
        model: dense, in evaluation mode.
        mlps: the model's MLPs.
        works: what the model should do faster. The first one decides.
        checking: text that chose nothing. The timed models read it, and losses are measured on it.
        has_loss: whether the model predicts next tokens, so that it has a loss.
    """

    def __init__(
        self, model: nn.Module, mlps: Sequence[MLP], works: Sequence[Work], checking: Sequence[Batch], *, has_loss: bool
    ) -> None:
        self._model, self._mlps, self._works, self._checking = model, mlps, works, checking
        self._text = text_tokens(checking)
        self._times = ModelTimes(self._text, _FIRST_SECONDS, _PASSES)
        self.dense_losses = sequence_losses(model, checking) if has_loss else None
        """Losses of the dense model, if it has any."""
        self.wait = CPUWait()
        """How long this process waited for CPUs while speeds were predicted and measured."""

    def predicted(self, trial: Trial) -> Way:
        """Return a way with the speed-ups that are expected."""
        with self.wait:
            gains = self._expected(trial, self._works, self._times)
        computed = trial.computed(self._mlps)
        return Way(trial.name, trial.options, trial.exact, computed, gains, command=trial.command)

    def tried(self, trial: Trial, way: Way) -> Way:
        """Return a way with its measured speed-ups, and with its loss if it changes the outputs.

        What else the machine does changes speed-ups by a fifth within seconds. So all works are measured in several spells. In each of them,
        the speed-up of the first work, which decides, is predicted again; those of the others in the middle one only. That comes before
        the first work is measured in one spell and after it in the next: what was computed before, such as prompts, changes speed-ups, too.
        """
        other = trial.applied_to(self._model)
        if trial.pruning is None and not any(isinstance(module, Converted) for module in other.modules()):
            gains = tuple(replace(gain, expected=1.0, measured=UNCHANGED) for gain in way.gains)
            return replace(way, gains=gains, loss=None if way.exact or self.dense_losses is None else _NONE)
        predicted: dict[Work, list[Gain]] = {work: [] for work in self._works}
        with self.wait:
            races = [
                Race.of_models(self._model, other, work.batch, prompt=work.prompt, text=self._text)
                for work in self._works
            ]
            rounds = [(_LEAST, _MOST)] * len(races)
            for spell in range(_SPELLS):
                again = self._works if spell == _SPELLS // 2 else self._works[:1]
                added: list[int] = []
                for race, numbers in zip(races, rounds, strict=True):
                    if race is races[0] and spell % 2 == 0:
                        self._predict_again(trial, again, predicted)
                    added.append(race.run(_RACE_SECONDS, *numbers))
                    if race is races[0] and spell % 2 == 1:
                        self._predict_again(trial, again, predicted)
                rounds = [(number, number) for number in added]  # all spells count alike
        gains = tuple(
            replace(_middle(predicted[before.work]), measured=race.estimate, before=before.expected)
            for before, race in zip(way.gains, races, strict=True)
        )
        return replace(way, gains=gains, loss=None if way.exact else self._loss_of(other))

    def loss_with(self, thresholds: Mapping[str, Tensor]) -> Estimate | None:
        """Return the increase of the loss with thresholds, in per cent; ``None`` if the model has no loss."""
        with masked([mlp for mlp in self._mlps if mlp.site.name in thresholds], thresholds):
            return self._loss_of(self._model)

    def _loss_of(self, other: nn.Module) -> Estimate | None:
        if self.dense_losses is None:
            return None
        return loss_increase(self.dense_losses, sequence_losses(other, self._checking))

    def _predict_again(self, trial: Trial, works: Sequence[Work], predicted: dict[Work, list[Gain]]) -> None:
        for gain in self._expected(trial, works, self._times.renewed(_PASS_SECONDS, _PASSES)):
            predicted[gain.work].append(gain)

    def _expected(self, trial: Trial, works: Sequence[Work], times: ModelTimes) -> tuple[Gain, ...]:
        if trial.pruning is not None:
            return tuple(self._pruned_gain(trial.pruning, work, times) for work in works)
        gains: dict[Work, Gain] = {}
        for prompt in dict.fromkeys(work.prompt for work in works):
            alike = [work for work in works if work.prompt == prompt]
            sizes = [work.batch for work in alike]
            prediction = predict_speed(
                self._model,
                trial.measurement,
                sizes,
                **trial.arguments,
                prompt=prompt,
                mlps=self._mlps,
                times=times,
            )
            for work, speed in zip(alike, prediction.speeds, strict=True):
                gains[work] = Gain(work, speed.expected, speed.reason)
        return tuple(gains[work] for work in works)

    def _pruned_gain(self, pruning: Pruning, work: Work, times: ModelTimes) -> Gain:
        """Predict the gain of smaller MLPs: their products take as much less time as they have fewer neurons."""
        passes = times.forward_pass(self._model, work.batch, work.prompt)
        left = {mlp.site.name: mlp.width / mlp.before for mlp in pruning.mlps}
        layers = [
            (left[mlp.site.name], passes.parts.get(layer, 0.0))
            for mlp in self._mlps
            if mlp.site.name in left
            for layer in {*mlp.inputs, mlp.down}
        ]
        before, after = sum(part for _, part in layers), sum(share * part for share, part in layers)
        removed = 1 - pruning.parameters / pruning.parameters_before
        expected = passes.seconds / (passes.remaining(before, after) + after)
        return Gain(work, expected, "" if expected >= WORTH else f"only {removed:.0%} of the parameters are removed")


def _middle(gains: Sequence[Gain]) -> Gain:
    """Return the gain whose expectation is the median; of an even number, the lower one of both."""
    return sorted(gains, key=lambda gain: gain.expected)[(len(gains) - 1) // 2]
