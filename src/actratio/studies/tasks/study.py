"""The study of tasks: what is trained, and how it is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from actratio.data import Dataset
from actratio.devices import device_named
from actratio.errors import ActratioError, plural
from actratio.report.findings import Findings
from actratio.statistics.rules import Rule
from actratio.statistics.trajectories import log_spaced
from actratio.studies.base import Arrays, Checkpoint, Option, Study, Unit
from actratio.studies.checks import check_at_least, check_memory, check_unique, check_widths
from actratio.studies.tasks.conditions import INTERVENTIONS, TASKS, Condition, prepare
from actratio.studies.tasks.counted_training import COLUMNS, counts_frame, samples, train_and_count
from actratio.training import Architecture, Recipe
from actratio.training.trainer import Trainer

if TYPE_CHECKING:
    import pandas as pd

WIDTHS = ("16", "32", "64", "128", "256", "512", "1024")
SEEDS, STEPS = 5, 6_000
_PAIRED = (32, 128, 512)  # widths of the networks with two hidden layers
_CHECKPOINTS = 13
_QUICK_SEEDS, _QUICK_STEPS = 2, 300
# Seconds per step of one thread: what every step costs, and each weight.
_STEP, _WEIGHT = 2.5e-4, 5e-9


@dataclass(frozen=True)
class TasksStudy(Study):
    """Which tasks to train on, and how.

    Raises:
        ActratioError: a number is too small, a name is given twice, or a width is not a whole number.
    """

    name: ClassVar[str] = "tasks"
    summary: ClassVar[str] = "Train MLPs on twelve real tasks: does A = F·√N hold for all of them?"
    unit_noun: ClassVar[str] = "training"
    columns: ClassVar[tuple[str, ...]] = COLUMNS
    planned: ClassVar[Mapping[str, Any]] = {
        "tasks": list(TASKS),
        "widths": [16, 32, 64, 128, 256, 512, 1024],
        "seeds": 5,
        "steps": 6_000,
    }

    tasks: tuple[str, ...] = field(
        default=TASKS,
        metadata={
            "option": Option(
                "Tasks, separated by commas: names from 'actratio datasets', CSV files, Hugging Face ids.",
                "twelve, listed in docs/studies/tasks.md",
            )
        },
    )
    widths: tuple[str, ...] = field(
        default=WIDTHS,
        metadata={
            "option": Option(
                "Widths of the hidden layer, separated by commas. Those of 32, 128 and 512 are also combined in two layers.",
                "16 to 1024, doubling",
            )
        },
    )
    seeds: int = field(default=SEEDS, metadata={"option": Option("Number of seeds, trained as one stack.", minimum=1)})
    steps: int = field(default=STEPS, metadata={"option": Option("Steps of each training.", minimum=1)})
    device: str = field(default="auto", metadata={"option": Option("auto, cpu or cuda.")})
    data_dir: Path | None = field(
        default=None, metadata={"option": Option("Folder of data sets.", environment="ACTRATIO_DATA")}
    )
    _loaded: _Loaded = field(default_factory=lambda: _Loaded(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for what, values in (("task", self.tasks), ("width", self.widths)):
            if not values:
                raise ActratioError(f"no {what} was given; give at least one with --{what}s")
        check_unique("task", self.tasks)
        check_widths(self.widths)
        check_at_least(1, number_of_seeds=self.seeds, number_of_steps=self.steps)

    def settings(self) -> dict[str, Any]:
        for width in map(int, self.widths):
            check_memory(width, self.seeds, device_named(self.device))
        return {
            "study": self.name,
            "tasks": list(self.tasks),
            "data": {task: self._loaded.facts(Condition(task), self.data_dir) for task in self.tasks},
            "widths": [int(width) for width in self.widths],
            "seeds": self.seeds,
            "steps": self.steps,
            "recipe": Recipe().to_dict(),
            "device": device_named(self.device).type,
        }

    def units(self) -> list[Unit]:
        """One training per condition and network, all seeds at once; costs are estimated seconds."""
        widths = [int(width) for width in self.widths]
        single = [(width,) for width in widths]
        paired = [(first, second) for first in widths for second in widths if {first, second} <= set(_PAIRED)]
        networks: list[tuple[Condition, tuple[int, ...]]] = [
            (Condition(task), hidden) for task in self.tasks for hidden in (*single, *paired)
        ]
        networks += [
            (Condition(item.task, item.factor, level), hidden)
            for item in INTERVENTIONS
            if item.task in self.tasks
            for level in item.levels
            for hidden in single
        ]
        return [
            Unit(
                f"{condition}--{'-'.join(map(str, hidden))}",
                self._seconds(condition, hidden),
                {"condition": condition, "hidden": hidden},
            )
            for condition, hidden in networks
        ]

    def run(self, unit: Unit, checkpoint: Checkpoint) -> Arrays:
        condition, hidden = unit.parameters["condition"], unit.parameters["hidden"]
        data = self._loaded.dataset(condition, self.data_dir)
        device = device_named(self.device)
        trainer = Trainer(
            Architecture(data.features, hidden, data.classes), data, range(self.seeds), Recipe(), device=device
        )
        return train_and_count(trainer, samples(data, device), log_spaced(self.steps, _CHECKPOINTS), checkpoint)

    def frame(self, unit: Unit, arrays: Arrays) -> pd.DataFrame:
        condition, hidden = unit.parameters["condition"], unit.parameters["hidden"]
        inputs, classes = self._shape(condition)
        before = {
            "study": self.name,
            "dataset": condition.task,
            "factor": condition.factor,
            "level": condition.level,
        }
        return counts_frame(arrays, before, str(Architecture(inputs, hidden, classes)), hidden)

    def quick(self) -> TasksStudy:
        chosen = tuple(width for width in self.widths if int(width) in _PAIRED) or self.widths[:3]
        return replace(
            self,
            tasks=self.tasks[:2],
            widths=chosen,
            seeds=min(self.seeds, _QUICK_SEEDS),
            steps=min(self.steps, _QUICK_STEPS),
        )

    def folder_name(self) -> str:
        return "tasks" if self.tasks == TASKS else "-".join(["tasks", *map(_file_name, self.tasks)])

    def announce(self) -> list[str]:
        lines = []
        for task in self.tasks:
            facts = self._loaded.facts(Condition(task), self.data_dir)
            lines.append(
                f"{task}: {facts['train']:,} + {facts['val']:,} examples, {facts['features']} inputs, {facts['classes']} classes"
            )
        return [
            *lines,
            f"widths {', '.join(self.widths)}, {plural(self.seeds, 'seed')}, {plural(self.steps, 'step')}, "
            f"on {device_named(self.device).type}",
        ]

    @staticmethod
    def rules() -> tuple[Rule, ...]:
        from actratio.studies.tasks.rules import RULES

        return RULES

    @staticmethod
    def analyse(frame: pd.DataFrame, settings: Mapping[str, Any], published: pd.DataFrame | None) -> Findings:
        from actratio.studies.tasks.analysis import tasks_findings

        return tasks_findings(frame, settings)

    def _shape(self, condition: Condition) -> tuple[int, int]:
        """Return the numbers of inputs and of classes."""
        facts = self._loaded.facts(Condition(condition.task), self.data_dir)
        return (
            condition.level if condition.factor == "components" else facts["features"],
            condition.level if condition.factor == "classes" else facts["classes"],
        )

    def _seconds(self, condition: Condition, hidden: tuple[int, ...]) -> float:
        inputs, classes = self._shape(condition)
        weights = sum(out * into for out, into in Architecture(inputs, hidden, classes).shapes)
        return self.steps * (_STEP + self.seeds * weights * _WEIGHT)


def _file_name(task: str) -> str:
    return "".join(c if c.isalnum() or c in "_." else "-" for c in Path(task).name)


class _Loaded:
    """The facts of every task that was loaded, and the last condition's data: its networks are trained one after another."""

    def __init__(self) -> None:
        self._facts: dict[Condition, dict[str, Any]] = {}
        self._latest: tuple[Condition, Dataset] | None = None

    def dataset(self, condition: Condition, data_dir: Path | None) -> Dataset:
        """Return the data of a condition, from memory if it was the last one."""
        if self._latest is None or self._latest[0] != condition:
            self._latest = None  # free the old one before the new one is read
            self._latest = (condition, prepare(condition, data_dir))
        return self._latest[1]

    def facts(self, condition: Condition, data_dir: Path | None) -> dict[str, Any]:
        """Return what decides a result about the data, as JSON values."""
        if condition not in self._facts:
            data = self.dataset(condition, data_dir)
            self._facts[condition] = {
                "fingerprint": data.fingerprint,
                "train": len(data.y_train),
                "val": len(data.y_val),
                "features": data.features,
                "classes": data.classes,
            }
        return self._facts[condition]

    def __reduce__(self) -> tuple[type[_Loaded], tuple[()]]:
        return _Loaded, ()  # another process loads its own
