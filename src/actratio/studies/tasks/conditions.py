"""What the networks are trained on: a task as it is, or with one property changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from actratio.data import Dataset, load_dataset
from actratio.data.images import IDX_SOURCES
from actratio.data.variants import merge_labels, project_inputs, standardise, take_examples

TASKS = (
    "optdigits",
    "penbased",
    "satimage",
    "texture",
    "magic",
    "spambase",
    "segment",
    "splice",
    "letter",
    "banking77",
    "mnist",
    "fashion_mnist",
)
"""The tasks of the study. Those that need no data folder come first."""

_IMAGES = 10_000  # training examples of an image data set
_WORDS = 1_000  # inputs of BANKING77


@dataclass(frozen=True)
class Condition:
    """A task, with one property changed or none.

    Attributes:
        task: name of the data set.
        factor: ``classes``, ``components`` or ``examples``; empty for the task as it is.
        level: the property's value; 0 for the task as it is.
    """

    task: str
    factor: str = ""
    level: int = 0

    def __str__(self) -> str:
        return f"{self.task}-{self.level}-{self.factor}" if self.factor else self.task


@dataclass(frozen=True)
class Intervention:
    """One property of one task at several levels.

    Attributes:
        task, factor: as in ``Condition``.
        levels: values that are trained for this intervention.
        own_level: the value of the task as it is, which is one more level; ``None`` if that is something else.
    """

    task: str
    factor: str
    levels: tuple[int, ...]
    own_level: int | None

    @property
    def conditions(self) -> dict[int, Condition]:
        """The condition of each level."""
        own = {} if self.own_level is None else {self.own_level: Condition(self.task)}
        return {level: Condition(self.task, self.factor, level) for level in self.levels} | own


INTERVENTIONS = (
    Intervention("letter", "classes", (2, 6, 13), 26),
    Intervention("mnist", "components", (16, 64, 256), None),
    Intervention("mnist", "examples", (1_000,), _IMAGES),
    Intervention("fashion_mnist", "examples", (1_000,), _IMAGES),
    Intervention("letter", "examples", (1_000, 10_000), None),
)
"""The interventions of the study."""


def prepare(condition: Condition, data_dir: Path | None) -> Dataset:
    """Load the data of a condition, with inputs standardised on the training examples.

    Raises:
        DataError: the data set is unknown, missing or damaged, or a split is too small for the condition.
    """
    data = load_dataset(condition.task, data_dir)
    if condition.factor == "examples":
        data = take_examples(data, condition.level)
    elif condition.task in IDX_SOURCES:
        data = take_examples(data, min(_IMAGES, len(data.y_train)))
    if condition.task == "banking77":
        data = _keep_frequent(data, _WORDS)
    if condition.factor == "classes":
        data = merge_labels(data, condition.level)
    if condition.factor == "components":
        data = project_inputs(data, condition.level)
    return replace(standardise(data), name=str(condition))


def _keep_frequent(data: Dataset, inputs: int) -> Dataset:
    """Keep the inputs that are not zero for the most training examples, in their order."""
    frequency = (data.x_train != 0).sum(0)
    kept = np.sort(np.argsort(-frequency, kind="stable")[:inputs])
    return replace(data, x_train=data.x_train[:, kept], x_val=data.x_val[:, kept])
