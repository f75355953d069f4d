"""A callback for the ``Trainer`` of transformers (the extra ``hf``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actratio.errors import pip_install
from actratio.tracking.samplers import warn_of_repeats
from actratio.tracking.schedule import Every
from actratio.tracking.tracker import Tracker

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError:  # a caller that has no transformers gets a sentence, not a traceback of our imports
    raise ImportError(f"transformers is not installed; run {pip_install('hf')}") from None

_STATE = "actratio"


class TrainerTracker(TrainerCallback):  # type: ignore[misc]
    """Track the activation ratio of a training by ``transformers.Trainer``, and log it with ``Trainer.log``.

    Everything that the trainer reports to (``report_to``) and its ``log_history`` get the values. The state is part of
    the checkpoints, so a resumed training has the same table as an undisturbed one.

    Examples:
        >>> trainer = Trainer(model, arguments, train_dataset=examples)    # doctest: +SKIP
        >>> callback = TrainerTracker(trainer, every=50)                   # doctest: +SKIP
        >>> trainer.train()                                                # doctest: +SKIP
        >>> callback.tracker.to_frame()                                    # doctest: +SKIP

    Args:
        trainer: the trainer, which gets this callback.
        every: when to take a reading, as for ``Tracker``; ``"epoch"`` needs no number of steps.
        stop_on_dead: end the training when a layer's share of dead neurons passes ``dead_limit``.
        options: more arguments of ``Tracker``.

    Attributes:
        tracker: the tracker, which is attached while the trainer trains.
    """

    def __init__(self, trainer: Trainer, every: Every = 100, *, stop_on_dead: bool = False, **options: Any) -> None:
        self._trainer, self._every, self._options = trainer, every, options
        self._stop_on_dead = stop_on_dead
        self._has_to_stop = False
        self._values: Mapping[str, float] | None = None
        self.tracker = self._make(trainer.model)
        trainer.add_callback(self)

    def _make(self, model: Any) -> Tracker:
        steps = _steps_per_epoch(self._trainer) if self._every == "epoch" else None
        return Tracker(
            model, self._every, steps_per_epoch=steps, on_reading=self._keep, on_dead=self._stop, **self._options
        )

    def _keep(self, values: Mapping[str, float], step: int) -> None:
        self._values = values  # logged when the trainer has counted the step

    def _stop(self, site: str, step: int) -> None:
        self._has_to_stop = self._stop_on_dead

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.tracker.stop()  # the training before was interrupted
        self._has_to_stop, self._values = False, None
        self.tracker = self._make(kwargs["model"])
        if state.global_step:
            saved = (state.stateful_callbacks or {}).get(_STATE)
            if saved is None:
                saved = {**self.tracker.state_dict(), "readings": [], "states": {}}
            self.tracker.load_state_dict({**saved, "step": state.global_step})
        self.tracker.start()
        warn_of_repeats(kwargs.get("train_dataloader"))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self._values is not None:
            values, self._values = self._values, None
            self._trainer.log(dict(values))
        if control.should_save:
            self._save(state)
        if self._has_to_stop:
            control.should_training_stop = True
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_save:
            self._save(state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._save(state)  # the trainer may save now, if the model is the best so far

    def _save(self, state: TrainerState) -> None:
        """Put the tracker's state into the trainer's, which is part of its checkpoints."""
        state.stateful_callbacks = {**(state.stateful_callbacks or {}), _STATE: self.tracker.state_dict()}

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.tracker.stop()


def _steps_per_epoch(trainer: Trainer) -> int:
    batches: int = len(trainer.get_train_dataloader())
    accumulated: int = trainer.args.gradient_accumulation_steps
    return max(1, -(-batches // accumulated))
