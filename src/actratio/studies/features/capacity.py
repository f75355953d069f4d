"""The test of capacity: a wide network cut down to as many neurons as are active, against a network trained that small."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from actratio.data import Dataset
from actratio.studies.base import Arrays, Checkpoint
from actratio.studies.features.recording import Examples, train_towards, without_prefix
from actratio.training import Architecture, Recipe
from actratio.training.trainer import Trainer

WHOLE, CUT, RANDOM_CUT, FRESH = NETWORKS = ("whole", "cut by contribution", "cut at random", "trained that small")
"""The networks that are compared."""

_SHARE = 0.75  # of the work that is in the wide network, for the progress


class _Part:
    """A checkpoint that reports a part of the progress of a unit, and can save only there."""

    def __init__(self, whole: Checkpoint, share: float, *, saves: bool) -> None:
        self._whole, self._share, self._saves = whole, share, saves

    def load(self) -> Arrays | None:
        return self._whole.load() if self._saves else None

    def save(self, make_arrays: Callable[[], Arrays]) -> None:
        if self._saves:
            self._whole.save(make_arrays)

    def advance(self, share: float) -> None:
        self._whole.advance(share * self._share)

    def unusable(self, error: Exception) -> Exception:
        return self._whole.unusable(error)


def compare_capacity(
    data: Dataset,
    width: int,
    seed: int,
    recipe: Recipe,
    steps: int,
    held_out: Examples,
    checkpoint: Checkpoint,
    device: torch.device | str = "cpu",
) -> Arrays:
    """Train a wide network and a small one, cut the wide one, and return how good they are.

    Returns:
        ``neurons``, ``accuracy``, ``loss`` and ``active_mean`` of ``NETWORKS``, in their order.
    """
    first = _Part(checkpoint, _SHARE, saves=True)
    whole = Trainer(Architecture(data.features, (width,), data.classes), data, [seed], recipe, device=device)
    saved = first.load()
    if saved is not None:
        try:
            whole.restore(without_prefix("trainer.", saved))
            first.advance(whole.steps_done / steps)
        except (KeyError, RuntimeError) as error:
            raise first.unusable(error) from None
    train_towards(whole, steps, steps, first, {})
    rows = [_quality(whole, held_out)]
    kept = max(1, round(rows[0][3]))
    contributions = mean_contributions(whole, torch.from_numpy(data.x_train).to(device))[0]
    largest = contributions.topk(kept).indices
    random = torch.randperm(width, generator=torch.Generator().manual_seed(seed))[:kept].to(contributions.device)
    out = whole.model.weights[-1]
    original = out.detach().clone()
    for neurons in (largest, random):
        with torch.no_grad():
            out.zero_()
            out[:, :, neurons] = original[:, :, neurons]
        rows.append([float(kept), *_quality(whole, held_out)[1:3], float("nan")])
    small = Trainer(Architecture(data.features, (kept,), data.classes), data, [seed], recipe, device=device)
    train_towards(small, steps, steps, _Part(checkpoint, 1 - _SHARE, saves=False), {})
    rows.append(_quality(small, held_out))
    table = torch.tensor(rows, dtype=torch.float64)
    return {name: table[:, column] for column, name in enumerate(("neurons", "accuracy", "loss", "active_mean"))}


@torch.no_grad()
def mean_contributions(trainer: Trainer, inputs: Tensor) -> Tensor:
    """Return the mean over examples of |h|·‖w_out‖ of each neuron of the last hidden layer, shape (seeds, width).

    Args:
        inputs: shape (examples, features).
    """
    total: Tensor | None = None
    for batch in torch.split(inputs, 500):
        hidden = trainer.outputs(batch)[-2].abs().double().sum(2)
        total = hidden if total is None else total + hidden
    assert total is not None
    contributions: Tensor = total / len(inputs) * trainer.model.weights[-1].norm(dim=1)
    return contributions


def _quality(trainer: Trainer, held_out: Examples) -> list[float]:
    """Return the number of neurons, the accuracy, the loss and the mean number of active neurons."""
    result = trainer.evaluate_on(*held_out)
    hidden = result.counts[0]
    return [
        float(hidden.active.shape[-1]),
        result.accuracy.item(),
        result.loss.item(),
        hidden.active.sum().item() / hidden.tokens,
    ]
