"""Train one stack of networks and count its active neurons at checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from actratio.data import Dataset
from actratio.studies.base import Arrays, Checkpoint
from actratio.training.trainer import Trainer

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("val", "train")
_COUNTED = 2_000  # examples of each split that are counted
_SAVE_EVERY = 500  # steps between two chances to save

Sample = tuple[Tensor, Tensor]


def samples(data: Dataset, device: torch.device) -> dict[str, Sample]:
    """Return the examples that are counted, by split: all, or a fixed random choice of 2,000."""
    chosen = {}
    for position, (split, x, y) in enumerate((("val", data.x_val, data.y_val), ("train", data.x_train, data.y_train))):
        kept = np.random.default_rng((0, 4, position)).permutation(len(y))[:_COUNTED]
        chosen[split] = (torch.from_numpy(x[kept]).to(device), torch.from_numpy(y[kept]).to(device))
    return chosen


def train_and_count(
    trainer: Trainer, counted: dict[str, Sample], steps: Sequence[int], checkpoint: Checkpoint
) -> Arrays:
    """Train to the last of ``steps``, and count at each of them.

    Args:
        trainer: a new trainer.
        counted: the examples, as ``samples`` returns them.
        steps: steps at which to count, from 0 upwards.
        checkpoint: where the state is saved.

    Returns:
        ``step`` of shape (checkpoints,), and for each split its number of examples, loss and accuracy, shape (checkpoints,
        seeds), and for each hidden layer the sums of active neurons over the examples and the dead neurons.
    """
    history: list[Arrays] = []
    saved = checkpoint.load()
    if saved is not None:
        try:
            trainer.restore({name[8:]: tensor for name, tensor in saved.items() if name.startswith("trainer.")})
            past = {name[8:]: tensor for name, tensor in saved.items() if name.startswith("history.")}
            history = [{name: tensor[index] for name, tensor in past.items()} for index in range(len(past["step"]))]
        except (KeyError, RuntimeError, IndexError) as error:
            raise checkpoint.unusable(error) from None
    last = steps[-1]
    checkpoint.advance(trainer.steps_done / last)
    for stop in sorted({*steps, *range(0, last, _SAVE_EVERY)}):
        if stop < trainer.steps_done or (stop == trainer.steps_done and stop in [int(at["step"]) for at in history]):
            continue
        advanced = stop - trainer.steps_done
        if advanced:
            trainer.train(advanced)
        if stop in steps:
            history.append({"step": torch.tensor(stop), **_count(trainer, counted)})
        checkpoint.advance(advanced / last)
        if stop < last:
            checkpoint.save(lambda: _state(trainer, history))
    return _stack(history)


def _count(trainer: Trainer, counted: dict[str, Sample]) -> Arrays:
    arrays = {}
    for split, (inputs, labels) in counted.items():
        result = trainer.evaluate_on(inputs, labels)
        arrays[f"{split}.examples"] = torch.tensor(len(labels))
        arrays[f"{split}.loss"], arrays[f"{split}.accuracy"] = result.loss, result.accuracy
        for layer, counts in enumerate(result.counts[:-1]):
            arrays[f"{split}.{layer}.active"] = counts.active.sum(-1)
            arrays[f"{split}.{layer}.dead"] = (counts.active == 0).sum(-1)
    return arrays


def _stack(history: Sequence[Arrays]) -> Arrays:
    return {name: torch.stack([at[name] for at in history]) for name in history[0]}


def _state(trainer: Trainer, history: Sequence[Arrays]) -> Arrays:
    return {
        **{f"trainer.{name}": tensor for name, tensor in trainer.state().items()},
        **{f"history.{name}": tensor for name, tensor in _stack(history).items()},
    }


COLUMNS = (
    "study", "dataset", "factor", "level", "architecture", "layers", "layer", "width", "other_width", "seed", "step", "split",
    "tokens", "active_mean", "activation_ratio", "dead", "train_loss", "val_loss", "train_accuracy", "val_accuracy",
)  # fmt: skip
"""Columns of the tidy table. ``factor`` and ``level`` are those of the condition; ``other_width`` is the width of the other
hidden layer, 0 if there is none."""


def counts_frame(arrays: Arrays, before: dict[str, object], architecture: str, hidden: Sequence[int]) -> pd.DataFrame:
    """Return the tidy rows of a unit: one for each checkpoint, split, hidden layer and seed.

    Args:
        arrays: as ``train_and_count`` returned them.
        before: the columns that come first.
        architecture: all widths, as text.
        hidden: widths of the hidden layers.
    """
    import pandas as pd

    numbers = {name: tensor.numpy() for name, tensor in arrays.items()}
    seeds = numbers["val.loss"].shape[1]
    parts = []
    for index, step in enumerate(numbers["step"]):
        scores = {
            f"{split}_{score}": numbers[f"{split}.{score}"][index]
            for score in ("loss", "accuracy")
            for split in ("train", "val")
        }
        for split in SPLITS:
            tokens = int(numbers[f"{split}.examples"][index])
            for layer, width in enumerate(hidden):
                mean = numbers[f"{split}.{layer}.active"][index] / tokens
                others = [other for position, other in enumerate(hidden) if position != layer]
                columns = {
                    **before,
                    "architecture": architecture,
                    "layers": len(hidden),
                    "layer": layer,
                    "width": width,
                    "other_width": others[0] if others else 0,
                    "seed": np.arange(seeds),
                    "step": int(step),
                    "split": split,
                    "tokens": tokens,
                    "active_mean": mean,
                    "activation_ratio": mean / width,
                    "dead": numbers[f"{split}.{layer}.dead"][index],
                    **scores,
                }
                parts.append(pd.DataFrame(columns, columns=list(COLUMNS)))
    return pd.concat(parts, ignore_index=True)
