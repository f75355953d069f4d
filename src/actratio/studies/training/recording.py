"""Train a stack of networks and record it at given steps, so that a killed run continues where it stopped."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from actratio.studies.base import Arrays, Checkpoint
from actratio.training.trainer import Trainer

SPLITS = ("train", "val")
_STRIDE = 1000  # steps after which the state can be saved, also between recorded steps
_DRIFT_EXAMPLES = 500
_TRAINER, _HISTORY = "trainer.", "history."


def record(
    trainer: Trainer, steps: Sequence[int], examples: Sequence[tuple[Tensor, Tensor]], checkpoint: Checkpoint
) -> Arrays:
    """Train to the last of ``steps``, and measure the networks at each of them.

    Args:
        trainer: not trained yet, with hidden layers of equal width.
        steps: increasing, from 0.
        examples: inputs and labels of each of ``SPLITS``.
        checkpoint: where the state is saved.

    Returns:
        Tensors whose first axis is the recorded step: ``step``; ``active`` and ``dead``, shape (steps, splits, layers, seeds),
        the sum over a hidden layer of how often neurons were active, and the number that never were; ``loss`` and
        ``accuracy``, shape (steps, splits, seeds); ``shift`` and ``skewness``, shape (steps, layers, seeds), see ``drift``.
    """
    history = _resume(trainer, checkpoint)
    checkpoint.advance(trainer.steps_done / steps[-1])
    for step in steps[len(history) :]:
        while trainer.steps_done < step:
            stride = min(_STRIDE, step - trainer.steps_done)
            trainer.train(stride)
            checkpoint.advance(stride / steps[-1])
            checkpoint.save(lambda: _state(trainer, history))
        history.append(_measure(trainer, examples))
    return _stacked(history)


def drift(trainer: Trainer, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far the pre-activations of hidden neurons have moved from 0, and how skewed they are.

    Args:
        trainer: the networks.
        inputs: shape (examples, features).

    Returns:
        Two tensors of shape (layers, seeds): the medians over the neurons of a layer of mean / standard deviation and of
        the skewness. Neurons whose pre-activation never changes are left out.
    """
    shifts, skews = [], []
    with torch.no_grad():
        belows = [inputs.T, *trainer.outputs(inputs)[:-2]]
        for weight, below in zip(trainer.model.weights[:-1], belows, strict=True):
            values = weight @ below
            if trainer.recipe.centred:
                values = values - values.mean(2, keepdim=True)
            mean, deviation = values.mean(2), values.std(2)
            standard = (values - mean.unsqueeze(2)) / deviation.unsqueeze(2)
            changing = deviation > 0
            shift = torch.where(changing, mean / deviation, torch.nan)
            skew = torch.where(changing, standard.pow(3).mean(2), torch.nan)
            shifts.append(shift.nanmedian(1).values)
            skews.append(skew.nanmedian(1).values)
    return torch.stack(shifts).double().cpu(), torch.stack(skews).double().cpu()


def _measure(trainer: Trainer, examples: Sequence[tuple[Tensor, Tensor]]) -> Arrays:
    results = [trainer.evaluate_on(inputs, labels) for inputs, labels in examples]
    shift, skewness = drift(trainer, examples[-1][0][:_DRIFT_EXAMPLES])
    # Hidden layers have equal widths here: (splits, layers, seeds, width).
    active = torch.stack([torch.stack([site.active for site in result.counts[:-1]]) for result in results])
    return {
        "step": torch.tensor(trainer.steps_done),
        "active": active.sum(-1),
        "dead": (active == 0).sum(-1),
        "loss": torch.stack([result.loss for result in results]),
        "accuracy": torch.stack([result.accuracy for result in results]),
        "shift": shift,
        "skewness": skewness,
    }


def _stacked(history: Sequence[Arrays]) -> Arrays:
    return {name: torch.stack([entry[name] for entry in history]) for name in history[0]}


def _state(trainer: Trainer, history: Sequence[Arrays]) -> Arrays:
    return {
        **{_TRAINER + name: tensor for name, tensor in trainer.state().items()},
        **{_HISTORY + name: tensor for name, tensor in _stacked(history).items()},
    }


def _resume(trainer: Trainer, checkpoint: Checkpoint) -> list[Arrays]:
    """Restore the saved state, if there is one, and return what was recorded before."""
    saved = checkpoint.load()
    if saved is None:
        return []
    try:
        trainer.restore({key.removeprefix(_TRAINER): value for key, value in saved.items() if key.startswith(_TRAINER)})
        stacked = {key.removeprefix(_HISTORY): value for key, value in saved.items() if key.startswith(_HISTORY)}
        return [{name: tensor[index] for name, tensor in stacked.items()} for index in range(len(stacked["step"]))]
    except (KeyError, RuntimeError, IndexError) as error:
        raise checkpoint.unusable(error) from None
