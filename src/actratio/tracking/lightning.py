"""A callback for Lightning (the extra ``lightning``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from actratio.errors import TrackerError, pip_install
from actratio.tracking.samplers import warn_of_repeats
from actratio.tracking.schedule import Every
from actratio.tracking.tracker import Tracker

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import ParallelStrategy
except ImportError:  # a caller that has no Lightning gets a sentence, not a traceback of our imports
    raise ImportError(f"Lightning is not installed; run {pip_install('lightning')}") from None


class LightningTracker(Callback):  # type: ignore[misc]  # mypy skips Lightning
    """Track the activation ratio of a Lightning training, and log it with the trainer's own loggers.

    The state is part of Lightning's checkpoints, so a resumed training has the same table as an undisturbed one.

    Examples:
        >>> callback = LightningTracker(every=50)                          # doctest: +SKIP
        >>> Trainer(callbacks=[callback], logger=CSVLogger("logs")).fit(model, loader)   # doctest: +SKIP
        >>> callback.tracker.to_frame()                                    # doctest: +SKIP

    Args:
        every: when to take a reading, as for ``Tracker``; ``"epoch"`` needs no number of steps.
        module: name of the submodule that is called in training. By default the one child with parameters, if there is
            only one, or else the LightningModule, whose ``forward`` must then be called.
        histograms: also log each site's histogram of its neurons' ratios, to loggers of TensorBoard and Weights & Biases.
        stop_on_dead: end the training when a layer's share of dead neurons passes ``dead_limit``.
        options: more arguments of ``Tracker``.

    Attributes:
        tracker: the tracker; it exists once the training has begun.
    """

    def __init__(
        self,
        every: Every = 100,
        *,
        module: str | None = None,
        histograms: bool = False,
        stop_on_dead: bool = False,
        **options: Any,
    ) -> None:
        self._every, self._module, self._options = every, module, options
        self._histograms, self._stop_on_dead = histograms, stop_on_dead
        self._resumed: Mapping[str, Any] | None = None
        self._tracker: Tracker | None = None

    @property
    def tracker(self) -> Tracker:
        """The tracker.

        Raises:
            TrackerError: the training has not begun.
        """
        if self._tracker is None:
            raise TrackerError("the training has not begun, so there is no tracker yet; call the trainer's fit first")
        return self._tracker

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trained = _trained_module(pl_module, self._module)
        if trained is pl_module and isinstance(trainer.strategy, ParallelStrategy) and "inputs" not in self._options:
            raise TrackerError(
                f"a parallel strategy calls training_step instead of forward, so the sites of {type(pl_module).__name__} can't be "
                "found in its first pass; give the module that computes them, or inputs"
            )
        steps = _steps_per_epoch(trainer) if self._every == "epoch" else None
        tracker = Tracker(
            trained,
            self._every,
            steps_per_epoch=steps,
            on_reading=lambda values, step: self._log(trainer, values, step),
            on_dead=lambda site, step: self._stop(trainer),
            **self._options,
        )
        if self._resumed is not None:
            tracker.load_state_dict(self._resumed)
            self._resumed = None
        elif self._tracker is not None:  # fit was called again
            tracker.load_state_dict(self._tracker.state_dict())
        self._tracker = tracker.start()
        warn_of_repeats(trainer.train_dataloader)

    def _log(self, trainer: Trainer, values: Mapping[str, float], step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(dict(values), step=step)
            if self._histograms:
                _log_histograms(logger, self.tracker, step)

    def _stop(self, trainer: Trainer) -> None:
        if self._stop_on_dead:
            trainer.should_stop = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._tracker is not None:
            self._tracker.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")

    def state_dict(self) -> dict[str, Any]:
        return {} if self._tracker is None else self._tracker.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed = state_dict or None


def _steps_per_epoch(trainer: Trainer) -> int:
    batches = float(trainer.num_training_batches)
    if not math.isfinite(batches):
        raise TrackerError(
            "the number of batches in an epoch is unknown, which every='epoch' needs; give a number of steps"
        )
    return max(1, math.ceil(batches / int(trainer.accumulate_grad_batches)))


def _trained_module(pl_module: LightningModule, name: str | None) -> nn.Module:
    if name is not None:
        modules = dict(pl_module.named_modules())
        if name not in modules:
            raise TrackerError(
                f"{type(pl_module).__name__} has no module {name!r}; give one of {', '.join(filter(None, modules))}"
            )
        module: nn.Module = modules[name]
        return module
    whole: nn.Module = pl_module
    trained: list[nn.Module] = [child for child in whole.children() if any(True for _ in child.parameters())]
    return trained[0] if len(trained) == 1 else whole


def _log_histograms(logger: Any, tracker: Tracker, step: int) -> None:
    experiment = logger.experiment
    for name, ratios in tracker.neuron_ratios.items():
        key = f"actratio/{name}/neurons"
        if hasattr(experiment, "add_histogram"):  # TensorBoard
            experiment.add_histogram(key, ratios, step)
        elif type(experiment).__module__.startswith("wandb"):
            import wandb

            experiment.log({key: wandb.Histogram(ratios.tolist())}, commit=False)
