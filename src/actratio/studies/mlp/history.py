"""What a training run gave, epoch by epoch, as exact arrays and as the tidy table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from actratio.counting.counts import SiteCounts
from actratio.counting.tidy import TidyRows, tidy_frame
from actratio.training import Architecture
from actratio.training.trainer import SplitResult

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "val")

TIDY_COLUMNS = (
    "model", "site", "layer", "position", "width", "activation", "tensor", "criterion", "tokens", "active_mean",
    "activation_ratio", "ratio_std", "dead", "always_on", "study", "dataset", "architecture", "seed", "epoch", "step",
    "split", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "block",
)  # fmt: skip
"""Columns of a study's tidy table, in order."""

_READINGS = ("active_mean", "activation_ratio", "ratio_std", "dead", "always_on")

_NOT_COUNTED = -1


@dataclass(frozen=True)
class EpochResult:
    """Counts, loss and accuracy of one epoch; epoch 0 is before training.

    ``train`` is taken over the training batches while the weights move, as the article did (for
    epoch 0 over the training split with the initial weights); ``val`` over the held-out split
    after the epoch.
    """

    epoch: int
    step: int
    train: SplitResult
    val: SplitResult


def to_tensors(history: list[EpochResult]) -> dict[str, Tensor]:
    """Arrays for a safetensors file.

    ``{split}.{layer}.active`` (epochs, seeds, width) and ``{split}.{layer}.squares`` (epochs, seeds;
    −1 where not counted) are the integers of ``SiteCounts``; ``{split}.tokens`` (epochs,),
    ``{split}.loss`` and ``{split}.accuracy`` (epochs, seeds), ``epoch`` and ``step`` (epochs,) go with them.
    """
    arrays = {
        "epoch": torch.tensor([result.epoch for result in history]),
        "step": torch.tensor([result.step for result in history]),
    }
    for split in SPLITS:
        results: list[SplitResult] = [getattr(epoch, split) for epoch in history]
        arrays[f"{split}.loss"] = torch.stack([result.loss for result in results])
        arrays[f"{split}.accuracy"] = torch.stack([result.accuracy for result in results])
        arrays[f"{split}.tokens"] = torch.tensor([result.counts[0].tokens for result in results])
        for layer in range(len(results[0].counts)):
            counts = [result.counts[layer] for result in results]
            arrays[f"{split}.{layer}.active"] = torch.stack([c.active for c in counts])
            arrays[f"{split}.{layer}.squares"] = torch.stack(
                [torch.full(c.active.shape[:-1], _NOT_COUNTED) if c.squares is None else c.squares for c in counts]
            )
    return arrays


def from_tensors(arrays: dict[str, Tensor]) -> list[EpochResult]:
    """The inverse of ``to_tensors``."""
    layers = sum(name.startswith("val.") and name.endswith(".active") for name in arrays)

    def result(split: str, index: int) -> SplitResult:
        counts = []
        for layer in range(layers):
            squares = arrays[f"{split}.{layer}.squares"][index]
            counts.append(
                SiteCounts(
                    int(arrays[f"{split}.tokens"][index]),
                    arrays[f"{split}.{layer}.active"][index],
                    None if (squares == _NOT_COUNTED).any() else squares,
                )
            )
        return SplitResult(counts, arrays[f"{split}.loss"][index], arrays[f"{split}.accuracy"][index])

    return [
        EpochResult(int(epoch), int(step), result("train", index), result("val", index))
        for index, (epoch, step) in enumerate(zip(arrays["epoch"], arrays["step"], strict=True))
    ]


def to_frame(
    history: list[EpochResult],
    *,
    study: str,
    dataset: str,
    architecture: Architecture,
    seeds: tuple[int, ...],
    block: str,
) -> pd.DataFrame:
    """Return the tidy table: one row for each epoch, split, layer and seed."""
    spec = str(architecture)
    last = len(architecture.widths) - 1
    items = []
    for epoch in history:
        for split in SPLITS:
            counts: list[SiteCounts] = getattr(epoch, split).counts
            for layer, layer_counts in enumerate(counts):
                logits = layer == last
                before = {
                    "model": spec,
                    "site": "logits" if logits else f"hidden.{layer}",
                    "layer": layer,
                    "position": layer / last,
                    "width": layer_counts.width,
                    "activation": "none" if logits else "relu",
                    "tensor": "logits" if logits else "activation",
                    "criterion": "positive",
                }
                after = {
                    "study": study,
                    "dataset": dataset,
                    "architecture": spec,
                    "seed": list(seeds),
                    "epoch": epoch.epoch,
                    "step": epoch.step,
                    "split": split,
                    "train_loss": epoch.train.loss.tolist(),
                    "val_loss": epoch.val.loss.tolist(),
                    "train_accuracy": epoch.train.accuracy.tolist(),
                    "val_accuracy": epoch.val.accuracy.tolist(),
                    "block": block,
                }
                items.append(TidyRows(before, layer_counts, after))
    return tidy_frame(items, TIDY_COLUMNS, _READINGS)
