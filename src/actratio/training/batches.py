"""The batches of a training: a step's examples depend on the step and the seed only, so that a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Batches(Protocol):
    """Where the examples of each step come from."""

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the inputs, shape (seeds, batch, features), and the labels, shape (seeds, batch), of a step from 0."""


def batch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """Return the order in which ``seed`` sees the examples in ``epoch``, a permutation of ``range(examples)``.

    The order depends only on the arguments, so a resumed run sees the same batches as an uninterrupted one.
    """
    return np.random.default_rng((seed, epoch)).permutation(examples)


class EpochBatches:
    """Batches of a finite data set: every seed sees every example once an epoch, in an order of its own.

    Args:
        inputs: shape (examples, features).
        labels: shape (examples,).
        seeds: one seed per model.
        batch_size: examples in a batch; the last batch of an epoch may be smaller.

    Attributes:
        steps: steps in an epoch.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, seeds: Sequence[int], batch_size: int) -> None:
        self._inputs, self._labels = inputs, labels
        self._seeds, self._batch_size = tuple(seeds), batch_size
        self.steps = -(-len(labels) // batch_size)
        self._epoch, self._order = 0, torch.empty(0)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        epoch, position = divmod(step, self.steps)
        if epoch + 1 != self._epoch:  # epochs count from 1
            self._epoch = epoch + 1
            orders = [batch_order(seed, self._epoch, len(self._labels)) for seed in self._seeds]
            self._order = torch.from_numpy(np.stack(orders)).to(self._labels.device)
        chosen = self._order[:, position * self._batch_size : (position + 1) * self._batch_size]
        inputs = self._inputs.index_select(0, chosen.reshape(-1)).view(*chosen.shape, -1)
        return inputs, self._labels[chosen]
