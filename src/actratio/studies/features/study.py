"""The study of features: whether wide layers run out of features to learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from actratio.data import Dataset, load_dataset
from actratio.devices import device_named
from actratio.errors import ActratioError, plural
from actratio.report.findings import Findings
from actratio.statistics.rules import Rule
from actratio.studies.base import Arrays, Checkpoint, Option, Study, Unit
from actratio.studies.checks import check_at_least, check_memory, check_unique, check_widths
from actratio.studies.features.capacity import compare_capacity
from actratio.studies.features.grid import (
    CAPACITY,
    NEED_DATA,
    SCHEMES,
    STEPS,
    TESTS,
    WIDTHS,
    Planned,
    planned_trainings,
)
from actratio.studies.features.planted import CLASSES, DIMENSIONS, EndlessBatches, sample_dataset
from actratio.studies.features.recording import Examples, Probes, record
from actratio.studies.features.tidy import COLUMNS, capacity_rows, training_rows
from actratio.training import Architecture
from actratio.training.trainer import Trainer

if TYPE_CHECKING:
    import pandas as pd

_EARLY, _FINAL = 1_000, 10_000  # examples of an evaluation
_QUICK_SEEDS, _QUICK_STEPS, _QUICK_WIDTHS = 2, 100, ("16", "64", "256")
_STEP_SECONDS, _FLOPS_PER_SECOND = 6e-4, 8e10  # of one thread, for the costs


@dataclass(frozen=True)
class FeaturesStudy(Study):
    """Which tests to run, and how large.

    Raises:
        ActratioError: a test is unknown or given twice, a number is too small, or a width is not a whole number from 1 to
            99999.
    """

    name: ClassVar[str] = "features"
    summary: ClassVar[str] = "Do wide layers run out of features to learn? Planted features, labels, muP, capacity."
    unit_noun: ClassVar[str] = "training"
    columns: ClassVar[tuple[str, ...]] = COLUMNS
    planned: ClassVar[Mapping[str, Any]] = {
        "tests": list(TESTS),
        "widths": {test: list(widths) for test, widths in WIDTHS.items()},
        "steps": STEPS,
        "seeds": 5,
        "data": {
            "mnist": {
                "fingerprint": "108d6b7de40591a98498f8660fcb315ddf04b645c535dadd3db4e19925b321ce",
                "train": 60_000,
                "val": 10_000,
                "features": 784,
                "classes": 10,
            }
        },
    }

    tests: tuple[str, ...] = field(
        default=TESTS, metadata={"option": Option(f"Tests, separated by commas: {', '.join(TESTS)}.", "all")}
    )
    widths: tuple[str, ...] = field(
        default=(), metadata={"option": Option("Widths of all tests, separated by commas.", "those of each test")}
    )
    seeds: int = field(default=5, metadata={"option": Option("Number of seeds, trained as one stack.", minimum=1)})
    steps: int | None = field(
        default=None, metadata={"option": Option("Steps of each training.", "5,000 to 18,000", minimum=1)}
    )
    dataset: str = field(
        default="mnist", metadata={"option": Option("Data set of the tests that do not generate their examples.")}
    )
    device: str = field(default="cpu", metadata={"option": Option("auto, cpu or cuda.")})
    data_dir: Path | None = field(
        default=None, metadata={"option": Option("Folder of data sets.", environment="ACTRATIO_DATA")}
    )
    _loaded: _Loaded = field(default_factory=lambda: _Loaded(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for test in self.tests:
            if test not in TESTS:
                raise ActratioError(f"there is no test {test!r}; use some of {', '.join(TESTS)}")
        check_unique("test", self.tests)
        check_widths(self.widths)
        check_at_least(1, number_of_seeds=self.seeds, number_of_steps=self.steps)

    def settings(self) -> dict[str, Any]:
        for width in {width for test in self.tests for width in self._widths(test)}:
            check_memory(width, self.seeds, device_named(self.device))
        data = {}
        if self._needs_data():
            whole = self._loaded.whole(self.dataset, self.data_dir)
            data[self.dataset] = {
                "fingerprint": whole.fingerprint,
                "train": len(whole.y_train),
                "val": len(whole.y_val),
                "features": whole.features,
                "classes": whole.classes,
            }
        return {
            "study": self.name,
            "tests": list(self.tests),
            "widths": {test: list(self._widths(test)) for test in self.tests},
            "steps": {test: self._steps(test) for test in self.tests},
            "seeds": self.seeds,
            "data": data,
            "device": device_named(self.device).type,
        }

    def units(self) -> list[Unit]:
        """One training per condition and width, all seeds at once; costs are about the seconds of one thread."""
        planned = [
            training
            for test in self.tests
            for training in planned_trainings(test, self._widths(test), self._steps(test), self.seeds)
        ]
        return [Unit(training.name, self._seconds(training), {"planned": training}) for training in planned]

    def run(self, unit: Unit, checkpoint: Checkpoint) -> Arrays:
        planned: Planned = unit.parameters["planned"]
        device = device_named(self.device)
        if planned.generator is not None:
            batches = EndlessBatches(planned.generator, range(self.seeds), planned.recipe.batch_size, device)
            inputs, labels = batches.held_out(_EARLY + _FINAL)
            probes = Probes(
                (inputs[:, :_EARLY], labels[:, :_EARLY]),
                (inputs[:, _EARLY : 2 * _EARLY], labels[:, _EARLY : 2 * _EARLY]),
                (inputs[:, _EARLY:], labels[:, _EARLY:]),
            )
            data = sample_dataset(planned.generator, planned.condition)
        else:
            batches = None
            data = self._loaded.scheme(planned.scheme, self.dataset, self.data_dir)
            probes = Probes(
                _examples(data.x_train, data.y_train, _EARLY, device),
                _examples(data.x_val, data.y_val, _EARLY, device),
                _examples(data.x_val, data.y_val, _FINAL, device),
            )
        if planned.seed is not None:
            return compare_capacity(
                data, planned.width, planned.seed, planned.recipe, planned.steps, probes.final, checkpoint, device
            )
        trainer = Trainer(
            self._architecture(planned, data.features, data.classes),
            data,
            range(self.seeds),
            planned.recipe,
            batches=batches,
            device=device,
        )
        return record(trainer, probes, planned.equal_steps, planned.steps, checkpoint)

    def frame(self, unit: Unit, arrays: Arrays) -> pd.DataFrame:
        planned: Planned = unit.parameters["planned"]
        return capacity_rows(planned, arrays) if planned.test == CAPACITY else training_rows(planned, arrays)

    def quick(self) -> FeaturesStudy:
        return replace(
            self,
            widths=self.widths[:3] or _QUICK_WIDTHS,
            seeds=min(self.seeds, _QUICK_SEEDS),
            steps=min(self.steps or _QUICK_STEPS, _QUICK_STEPS),
        )

    def folder_name(self) -> str:
        return "features" if self.tests == TESTS else "-".join(["features", *self.tests])

    def announce(self) -> list[str]:
        lines = [
            f"{test}: widths {', '.join(map(str, self._widths(test)))}, {self._steps(test):,} steps"
            + (f" on {self.dataset}" if test in NEED_DATA else "")
            for test in self.tests
        ]
        return [*lines, f"{plural(self.seeds, 'seed')}, on {device_named(self.device).type}"]

    @staticmethod
    def rules() -> tuple[Rule, ...]:
        from actratio.studies.features.rules import RULES

        return RULES

    @staticmethod
    def analyse(frame: pd.DataFrame, settings: Mapping[str, Any], published: pd.DataFrame | None) -> Findings:
        from actratio.studies.features.analysis import study_findings

        return study_findings(frame, settings)

    def _needs_data(self) -> bool:
        return any(test in NEED_DATA for test in self.tests)

    def _widths(self, test: str) -> tuple[int, ...]:
        return tuple(map(int, self.widths)) or WIDTHS[test]

    def _steps(self, test: str) -> int:
        return self.steps or STEPS[test]

    def _architecture(self, planned: Planned, features: int, classes: int) -> Architecture:
        return Architecture(features, (planned.width,) * planned.layers, classes)

    def _seconds(self, planned: Planned) -> float:
        features, classes = DIMENSIONS, CLASSES
        if planned.generator is None:
            whole = self._loaded.whole(self.dataset, self.data_dir)
            features, classes = whole.features, whole.classes
        stack = self.seeds if planned.seed is None else 1
        flops = stack * self._architecture(planned, features, classes).training_flops(planned.recipe.batch_size)
        return planned.steps * (_STEP_SECONDS + flops / _FLOPS_PER_SECOND)


def _examples(inputs: Any, labels: Any, limit: int, device: torch.device) -> Examples:
    return torch.from_numpy(inputs[:limit]).to(device), torch.from_numpy(labels[:limit]).to(device)


class _Loaded:
    """The whole data set, and the last scheme that was made of it: its widths train one after another."""

    def __init__(self) -> None:
        self._whole: Dataset | None = None
        self._scheme: tuple[str, Dataset] | None = None

    def whole(self, name: str, data_dir: Path | None) -> Dataset:
        if self._whole is None:
            self._whole = load_dataset(name, data_dir)
        return self._whole

    def scheme(self, scheme: str, name: str, data_dir: Path | None) -> Dataset:
        if self._scheme is None or self._scheme[0] != scheme:
            self._scheme = (scheme, SCHEMES[scheme](self.whole(name, data_dir)))
        return self._scheme[1]

    def __reduce__(self) -> tuple[type[_Loaded], tuple[()]]:
        return _Loaded, ()  # another process loads its own
