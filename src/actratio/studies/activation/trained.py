"""Train the models of each arm, and count active neurons at log-spaced checkpoints."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from actratio.data import Dataset
from actratio.sites import trace
from actratio.sites.mlps import resolve
from actratio.statistics.trajectories import log_spaced
from actratio.studies.activation.character import (
    CharacterModel,
    Characters,
    CharacterTrainer,
    Size,
    count_active,
    evenly_spaced_windows,
)
from actratio.studies.activation.intervening import intervene, plan_interventions
from actratio.studies.activation.scoring import LanguageScorer
from actratio.studies.base import Arrays, Checkpoint
from actratio.training.architecture import Architecture
from actratio.training.recipe import Recipe
from actratio.training.trainer import Trainer

MLP_ARMS: dict[str, tuple[str, str, str]] = {
    **{name: (name, name, name) for name in ("relu", "leaky_relu", "gelu", "silu", "relu2")},
    "relu, gelu, relu": ("relu", "gelu", "relu"),
    "gelu, relu, gelu": ("gelu", "relu", "gelu"),
}
"""The MLPs by name: the activation function in each third of the steps."""

_MLP_POINTS, _CHARACTER_POINTS = 24, 16  # checkpoints, about
_EVALUATED = 2000  # examples of each split
_COUNTED = 32  # windows of text
_TRAINING_SHARE = 0.85  # of a character unit's work; the rest are interventions


def switch_steps(steps: int) -> tuple[int, int]:
    """Return the steps at which the activation function is switched, and back."""
    return steps // 3, 2 * steps // 3


def run_mlp(
    arm: str, data: Dataset, width: int, seeds: int, epochs: int, checkpoint: Checkpoint, batch_size: int = 64
) -> Arrays:
    """Train one-hidden-layer MLPs, all seeds at once.

    Returns:
        ``step``, (checkpoints,); ``active`` and ``dead`` (seeds, checkpoints) neurons on held-out examples; ``batch_active`` over the training batches since
        the last checkpoint, NaN at step 0; ``train_loss``, ``val_loss`` and ``val_accuracy``.
    """
    recipe = Recipe(activation=MLP_ARMS[arm][0], batch_size=batch_size)
    trainer = Trainer(Architecture(data.features, (width,), data.classes), data, range(seeds), recipe)
    steps = epochs * -(-len(data.y_train) // batch_size)
    first, second = switch_steps(steps)
    points = sorted({*log_spaced(steps, _MLP_POINTS), first, second})
    splits = {
        "val": (torch.from_numpy(data.x_val[:_EVALUATED]), torch.from_numpy(data.y_val[:_EVALUATED])),
        "train": (torch.from_numpy(data.x_train[:_EVALUATED]), torch.from_numpy(data.y_train[:_EVALUATED])),
    }
    arrays, done = _restored(checkpoint, trainer)
    checkpoint.advance(done / len(points))
    for point in points[done:]:
        before = trainer.steps_done
        trainer.switch(MLP_ARMS[arm][(before >= first) + (before >= second)])
        batch_active = torch.full((seeds,), torch.nan, dtype=torch.float64)
        if point > before:
            hidden = trainer.train(point - before).counts[0]
            batch_active = hidden.active.sum(-1).double() / hidden.tokens
        val, train = trainer.evaluate_on(*splits["val"]), trainer.evaluate_on(*splits["train"])
        hidden = val.counts[0]
        row = {
            "step": torch.tensor([point]),
            "active": (hidden.active.sum(-1).double() / hidden.tokens).unsqueeze(1),
            "dead": (hidden.active == 0).sum(-1).unsqueeze(1),
            "batch_active": batch_active.unsqueeze(1),
            "train_loss": train.loss.unsqueeze(1),
            "val_loss": val.loss.unsqueeze(1),
            "val_accuracy": val.accuracy.unsqueeze(1),
        }
        arrays = _appended(arrays, row)
        checkpoint.save(partial(_saved, arrays, trainer))
        checkpoint.advance(1 / len(points))
    return arrays


def run_character(
    arm: str, seed: int, text: str, size: Size, steps: int, checkpoint: Checkpoint, scored: int
) -> Arrays:
    """Train a character model, then drop outputs of it in every way.

    Args:
        scored: windows of held-out text that the interventions are scored on; means are taken from half as many others.

    Returns:
        ``step``, (checkpoints,); ``ratio``, (layers, checkpoints), on held-out text; ``train_loss`` and ``val_loss``, (checkpoints,); and under names that begin with ``drop.``
        what ``intervene`` returns, with the mean loss over documents, (interventions,).
    """
    characters = Characters.of(text, size.context)
    model = CharacterModel(len(characters.vocabulary), arm, size, seed)
    trainer = CharacterTrainer(model, characters, size, steps, seed)
    points = log_spaced(steps, _CHARACTER_POINTS)
    window = size.context + 1
    val, train = (evenly_spaced_windows(ids, _COUNTED, window) for ids in (characters.val, characters.train))
    arrays, done = _restored(checkpoint, trainer)
    total = max(1, points[-1])
    checkpoint.advance(_TRAINING_SHARE * trainer.steps_done / total)
    for point in points[done:]:
        steps_before = trainer.steps_done
        trainer.train(point - steps_before)
        (val_loss, ratios), (train_loss, _) = count_active(model, val), count_active(model, train)
        row = {
            "step": torch.tensor([point]),
            "ratio": ratios.unsqueeze(1),
            "train_loss": train_loss.unsqueeze(0),
            "val_loss": val_loss.unsqueeze(0),
        }
        arrays = _appended(arrays, row)
        checkpoint.save(partial(_saved, arrays, trainer))
        checkpoint.advance(_TRAINING_SHARE * (point - steps_before) / total)
    return arrays | _dropped(model, characters, size, scored, checkpoint)


def _dropped(model: CharacterModel, text: Characters, size: Size, scored: int, checkpoint: Checkpoint) -> Arrays:
    documents = list(evenly_spaced_windows(text.val, scored, size.context))
    calibration = list(evenly_spaced_windows(text.train, max(1, scored // 2), size.context))
    mlps = resolve(model, trace(model, documents[0].unsqueeze(0)))
    share = (1 - _TRAINING_SHARE) / len(plan_interventions([mlp.site.layer for mlp in mlps]))
    scorer = LanguageScorer(model, documents, calibration, 1)
    arrays = intervene(mlps, scorer, None, lambda _: checkpoint.advance(share))
    return {f"drop.{name}": array.double().mean(1) if array.ndim == 2 else array for name, array in arrays.items()}


def _appended(arrays: Arrays, row: Arrays) -> Arrays:
    return {name: torch.cat([arrays[name], values], -1) if arrays else values for name, values in row.items()}


def _saved(arrays: Arrays, trainer: Trainer | CharacterTrainer) -> Arrays:
    return arrays | {f"trainer.{name}": value for name, value in trainer.state().items()}


def _restored(checkpoint: Checkpoint, trainer: Trainer | CharacterTrainer) -> tuple[Arrays, int]:
    """Return the arrays of a unit that was stopped and the number of their checkpoints, and restore the trainer."""
    saved = checkpoint.load()
    if saved is None:
        return {}, 0
    prefix = "trainer."
    try:
        trainer.restore({name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)})
        arrays: dict[str, Tensor] = {name: value for name, value in saved.items() if not name.startswith(prefix)}
        return arrays, len(arrays["step"])
    except (KeyError, RuntimeError, IndexError) as error:
        raise checkpoint.unusable(error) from None
