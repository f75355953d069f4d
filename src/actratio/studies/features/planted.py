"""Endless examples of tasks whose number of features is known: planted features, and teachers with K ReLU units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actratio.data import Dataset
from actratio.errors import ActratioError

DIMENSIONS, CLASSES = 64, 10
_NOISE = 0.1  # standard deviation of the noise in each dimension; a feature has the length 1
_STEPS = 64  # steps that are drawn at once
_TASK, _TRAINING, _HELD_OUT = range(3)  # streams of random numbers of a seed

Array = NDArray[np.float32]


class Task(Protocol):
    """A task with fixed random parameters, from which examples are drawn."""

    def draw(self, rng: np.random.Generator, examples: int) -> tuple[Array, NDArray[np.int64]]:
        """Return inputs of shape (examples, 64) and labels of shape (examples,)."""


class Generator(Protocol):
    """A kind of task; a seed decides the task itself."""

    def task(self, rng: np.random.Generator) -> Task:
        """Return a task with random parameters."""


@dataclass(frozen=True)
class PlantedFeatures:
    """x = Σ z_k f_k + noise, with z_k ~ Bernoulli(present / features); the label is the largest logit of a random read-out of z.

    The directions f_k are orthonormal, so that there are exactly ``features`` of them. An example without any feature has the
    label 0.

    Attributes:
        features: K, the number of features, at most 64.
        present: how many are present in an example on average, less than ``features``.

    Raises:
        ActratioError: the numbers are out of range. With all features present in every example, the label would never change.
    """

    features: int
    present: int

    def __post_init__(self) -> None:
        if not 0 < self.present < self.features <= DIMENSIONS:
            raise ActratioError(
                f"{self.present} of {self.features} features were to be present; "
                f"give fewer than there are, and at most {DIMENSIONS} features"
            )

    def task(self, rng: np.random.Generator) -> Task:
        directions = np.linalg.qr(rng.standard_normal((DIMENSIONS, self.features)))[0].T
        read_out = rng.standard_normal((self.features, CLASSES))
        return _PlantedTask(
            directions.astype(np.float32), read_out.astype(np.float32), np.float32(self.present / self.features)
        )


@dataclass(frozen=True)
class _PlantedTask:
    directions: Array
    read_out: Array
    probability: np.float32

    def draw(self, rng: np.random.Generator, examples: int) -> tuple[Array, NDArray[np.int64]]:
        z = (rng.random((examples, len(self.directions)), dtype=np.float32) < self.probability).astype(np.float32)
        noise = rng.standard_normal((examples, DIMENSIONS), dtype=np.float32)
        return z @ self.directions + np.float32(_NOISE) * noise, (z @ self.read_out).argmax(1)


@dataclass(frozen=True)
class Teacher:
    """Normally distributed inputs; the label is the largest logit of a random network with one hidden layer of ReLU units.

    Attributes:
        units: K, the number of hidden units.

    Raises:
        ActratioError: there is not at least one unit.
    """

    units: int

    def __post_init__(self) -> None:
        if self.units < 1:
            raise ActratioError(f"a teacher with {self.units} units was asked for; give at least one")

    def task(self, rng: np.random.Generator) -> Task:
        hidden = rng.standard_normal((DIMENSIONS, self.units))
        hidden /= np.linalg.norm(hidden, axis=0)
        return _TeacherTask(hidden.astype(np.float32), rng.standard_normal((self.units, CLASSES)).astype(np.float32))


@dataclass(frozen=True)
class _TeacherTask:
    hidden: Array
    read_out: Array

    def draw(self, rng: np.random.Generator, examples: int) -> tuple[Array, NDArray[np.int64]]:
        x = rng.standard_normal((examples, DIMENSIONS), dtype=np.float32)
        return x, (np.maximum(x @ self.hidden, 0) @ self.read_out).argmax(1)


class EndlessBatches:
    """Batches that are drawn afresh at every step; each seed has a task and examples of its own.

    Args:
        generator: the kind of task.
        seeds: one seed per model.
        batch_size: examples in a batch.
        device: where the examples are stored.
    """

    def __init__(
        self, generator: Generator, seeds: Sequence[int], batch_size: int, device: torch.device | str = "cpu"
    ) -> None:
        self._seeds, self._batch_size, self._device = tuple(seeds), batch_size, device
        self._tasks = [generator.task(np.random.default_rng((seed, _TASK))) for seed in self._seeds]
        self._chunk = -1
        self._inputs, self._labels = torch.empty(0), torch.empty(0)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        chunk, position = divmod(step, _STEPS)
        if chunk != self._chunk:
            self._inputs, self._labels = self._draw((_TRAINING, chunk), _STEPS * self._batch_size)
            self._chunk = chunk
        rows = slice(position * self._batch_size, (position + 1) * self._batch_size)
        return self._inputs[:, rows], self._labels[:, rows]

    def held_out(self, examples: int) -> tuple[Tensor, Tensor]:
        """Return examples that no step uses: inputs of shape (seeds, examples, 64), labels of shape (seeds, examples)."""
        return self._draw((_HELD_OUT, 0), examples)

    def _draw(self, stream: tuple[int, int], examples: int) -> tuple[Tensor, Tensor]:
        drawn = [
            task.draw(np.random.default_rng((seed, *stream)), examples)
            for seed, task in zip(self._seeds, self._tasks, strict=True)
        ]
        inputs, labels = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
        return inputs.to(self._device), labels.to(self._device)


def sample_dataset(generator: Generator, name: str) -> Dataset:
    """Return a few examples as a ``Dataset``. A trainer with endless batches reads only the shapes."""
    task = generator.task(np.random.default_rng((0, _TASK)))
    inputs, labels = task.draw(np.random.default_rng(0), 2 * CLASSES)
    half = CLASSES
    return Dataset(name, inputs[:half], labels[:half], inputs[half:], labels[half:], CLASSES, "generated")
