"""Train a stack of networks, and measure it at log-spaced steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actratio.statistics.trajectories import log_spaced
from actratio.studies.base import Arrays, Checkpoint
from actratio.studies.features.rank import (
    StreamedCovariance,
    count_duplicates,
    effective_rank,
    participation_ratio,
)
from actratio.training.trainer import Trainer

_POINTS = 28
_SAVED_EVERY = 250  # steps between chances to save the state
_RANK_EXAMPLES, _RANK_BATCH = 2_000, 500
READINGS = ("effective_rank", "participation_ratio", "duplicates")
"""What is measured once, at the step at which all conditions are compared."""

Examples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Probes:
    """The examples on which a network is measured.

    Attributes:
        train: training examples, for the training loss.
        early: held-out examples for most steps.
        final: held-out examples for the last step, and for the step at which conditions are compared.
    """

    train: Examples
    early: Examples
    final: Examples


def measured_steps(equal_steps: int, steps: int) -> list[int]:
    """Return the steps at which a training is measured, log-spaced and with both ends.

    >>> measured_steps(2, 8)
    [0, 1, 2, 3, 4, 5, 6, 7, 8]
    """
    later = [step for step in log_spaced(steps, _POINTS) if step > equal_steps]
    return [*log_spaced(equal_steps, _POINTS), *later]


def train_towards(trainer: Trainer, step: int, steps: int, checkpoint: Checkpoint, state: Arrays) -> None:
    """Train to ``step`` of ``steps``, report the progress, and save the trainer with the arrays of ``state`` now and then."""
    while trainer.steps_done < step:
        done = min(_SAVED_EVERY, step - trainer.steps_done)
        trainer.train(done)
        checkpoint.advance(done / steps)
        if trainer.steps_done < steps:
            checkpoint.save(lambda: {**with_prefix("trainer.", trainer.state()), **state})


def with_prefix(prefix: str, arrays: Arrays) -> Arrays:
    """Return the arrays with longer names."""
    return {prefix + name: array for name, array in arrays.items()}


def without_prefix(prefix: str, arrays: Arrays) -> Arrays:
    """Return the arrays whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def record(trainer: Trainer, probes: Probes, equal_steps: int, steps: int, checkpoint: Checkpoint) -> Arrays:
    """Train for ``steps`` steps, and return what was measured.

    Returns:
        ``step`` and ``examples`` (held-out), shape (checkpoints,); ``train_loss``, ``val_loss``, ``train_accuracy`` and
        ``val_accuracy``, shape (checkpoints, seeds); ``active_mean`` and ``dead``, shape (checkpoints, layers, seeds); and the
        ``READINGS`` at ``equal_steps``, shape (layers, seeds).
    """
    rows: Arrays = {}
    saved = checkpoint.load()
    if saved is not None:
        try:
            trainer.restore(without_prefix("trainer.", saved))
            rows = without_prefix("rows.", saved)
            checkpoint.advance(trainer.steps_done / steps)
        except (KeyError, RuntimeError) as error:
            raise checkpoint.unusable(error) from None
    for index, step in enumerate(measured_steps(equal_steps, steps)):
        if rows and index < len(rows["step"]):
            continue
        train_towards(trainer, step, steps, checkpoint, with_prefix("rows.", rows))
        held_out = probes.final if step in (equal_steps, steps) else probes.early
        row = _measure(trainer, probes.train, held_out)
        rows = {name: torch.cat([rows[name], value]) if name in rows else value for name, value in row.items()} | {
            name: rows[name] for name in READINGS if name in rows
        }
        if step == equal_steps:
            rows |= _readings(trainer, probes.final)
    return rows


def _measure(trainer: Trainer, train: Examples, held_out: Examples) -> Arrays:
    """Return one row of each array, with a leading axis of length 1."""
    before, after = trainer.evaluate_on(*train), trainer.evaluate_on(*held_out)
    hidden = after.counts[:-1]
    row = {
        "step": torch.tensor(trainer.steps_done),
        "examples": torch.tensor(held_out[0].shape[-2]),
        "train_loss": before.loss,
        "val_loss": after.loss,
        "train_accuracy": before.accuracy,
        "val_accuracy": after.accuracy,
        "active_mean": torch.stack([counts.active.sum(-1).double() / counts.tokens for counts in hidden]),
        "dead": torch.stack([(counts.active == 0).sum(-1) for counts in hidden]),
    }
    return {name: value.unsqueeze(0) for name, value in row.items()}


def _readings(trainer: Trainer, examples: Examples) -> Arrays:
    inputs = examples[0][..., :_RANK_EXAMPLES, :]
    layers = len(trainer.model.weights) - 1
    covariances = [StreamedCovariance() for _ in range(layers)]
    living: list[Tensor] = []
    for batch in torch.split(inputs, _RANK_BATCH, -2):
        hidden = trainer.outputs(batch)[:-1]
        active = [(output > 0).any(2) for output in hidden]
        living = [old | new for old, new in zip(living, active, strict=True)] if living else active
        for covariance, output in zip(covariances, hidden, strict=True):
            covariance.add(output)
    matrices = [covariance.matrix() for covariance in covariances]
    duplicates = [count_duplicates(trainer.model.weights[layer], living[layer]) for layer in range(layers)]
    return {
        "effective_rank": _stacked([effective_rank(matrix) for matrix in matrices]),
        "participation_ratio": _stacked([participation_ratio(matrix) for matrix in matrices]),
        "duplicates": _stacked(duplicates),
    }


def _stacked(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).double().cpu()
