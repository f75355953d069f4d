"""The study of training: which networks to train, and what to record of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from actratio.data import Dataset, load_dataset
from actratio.data.variants import take_examples
from actratio.devices import device_named
from actratio.errors import plural
from actratio.report.findings import Findings
from actratio.statistics.rules import Rule
from actratio.studies.base import Arrays, Checkpoint, Option, Study, Unit
from actratio.studies.checks import check_at_least, check_memory, check_widths
from actratio.studies.training.conditions import MECHANISM_RECIPES, factorial_runs
from actratio.studies.training.recording import record
from actratio.studies.training.rules import RULES
from actratio.studies.training.schedule import COUNTED, FEW_SEEDS, FIXED_WIDTH, decay_steps, short_steps
from actratio.studies.training.tidying import (
    COLUMNS,
    DECAY,
    FACTORIAL,
    MECHANISM,
    START,
    recorded_frame,
    untrained_frame,
)
from actratio.studies.training.untrained import network_count, untrained_counts
from actratio.training import Architecture, Recipe
from actratio.training.trainer import Trainer

if TYPE_CHECKING:
    import pandas as pd

_QUICK_SEEDS, _QUICK_EPOCHS, _QUICK_NETWORKS, _QUICK_EXAMPLES, _QUICK_WIDTHS = 2, 4, 20, 5000, 2


@dataclass(frozen=True)
class TrainingStudy(Study):
    """Which networks to train, and on what.

    Raises:
        ActratioError: a number is too small, a width is not a whole number from 1 to 99999, or a width is given twice.
    """

    name: ClassVar[str] = "training"
    summary: ClassVar[str] = "Follow the activation ratio from the first step on, and test what makes it fall."
    unit_noun: ClassVar[str] = "condition"
    columns: ClassVar[tuple[str, ...]] = COLUMNS
    planned: ClassVar[Mapping[str, Any]] = {
        "dataset": "mnist",
        "features": 784,
        "classes": 10,
        "widths": [32, 128, 512],
        "seeds": 5,
        "epochs": 100,
        "examples": 20_000,
        "networks": 200,
    }

    dataset: str = field(
        default="mnist",
        metadata={"option": Option("Data set: a name from 'actratio datasets', a CSV file or a Hugging Face id.")},
    )
    widths: tuple[str, ...] = field(
        default=("32", "128", "512"),
        metadata={"option": Option("Widths of the two hidden layers, separated by commas.", "32,128,512")},
    )
    seeds: int = field(
        default=5, metadata={"option": Option("Number of seeds; the factorial uses at most three.", minimum=1)}
    )
    epochs: int = field(
        default=100,
        metadata={"option": Option("Passes over the training data; the comparisons take a quarter of it.", minimum=1)},
    )
    examples: int = field(
        default=20_000, metadata={"option": Option("Maximum number of training examples.", minimum=1)}
    )
    networks: int = field(
        default=200, metadata={"option": Option("Untrained networks for each width, more for narrow ones.", minimum=2)}
    )
    device: str = field(default="auto", metadata={"option": Option("auto, cpu or cuda.")})
    data_dir: Path | None = field(
        default=None, metadata={"option": Option("Folder of data sets.", environment="ACTRATIO_DATA")}
    )
    _loaded: _Loaded = field(default_factory=lambda: _Loaded(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_at_least(
            1, number_of_seeds=self.seeds, number_of_epochs=self.epochs, number_of_training_examples=self.examples
        )
        check_at_least(2, number_of_untrained_networks=self.networks)
        check_widths(self.widths)

    def settings(self) -> dict[str, Any]:
        data = self._data
        for width in self._widths:
            check_memory(self._architecture(width), self.seeds, device_named(self.device))
        return {
            "study": self.name,
            "dataset": self.dataset,
            "features": data.features,
            "classes": data.classes,
            "widths": self._widths,
            "seeds": self.seeds,
            "epochs": self.epochs,
            "examples": len(data.y_train),
            "networks": self.networks,
            "device": device_named(self.device).type,
            "fingerprint": data.fingerprint,
        }

    def units(self) -> list[Unit]:
        """One condition with all its seeds; costs are FLOPs."""
        units = []
        for width in self._widths:
            flops = 2 * network_count(self.networks, width) * self._architecture(width).forward_flops(COUNTED)
            units.append(Unit(f"{START} {width}", flops, {"part": START, "width": width}))
        for part, condition, width, recipe in self._trainings():
            parameters = {"part": part, "condition": condition, "width": width, "recipe": recipe}
            step = self._architecture(width).training_flops(recipe.batch_size) * self._seeds_of(part)
            units.append(Unit(f"{part} {condition}", step * self._steps(part)[-1], parameters))
        return units

    def run(self, unit: Unit, checkpoint: Checkpoint) -> Arrays:
        part, width = unit.parameters["part"], unit.parameters["width"]
        splits = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in self._counted()]
        if part == START:
            networks = network_count(self.networks, width)
            return untrained_counts(self._architecture(width), networks, splits[1][0], checkpoint)
        device = device_named(self.device)
        trainer = Trainer(
            self._architecture(width), self._data, range(self._seeds_of(part)), unit.parameters["recipe"], device=device
        )
        examples: list[tuple[Tensor, Tensor]] = [(x.to(device), y.to(device)) for x, y in splits]
        return record(trainer, self._steps(part), examples, checkpoint)

    def frame(self, unit: Unit, arrays: Arrays) -> pd.DataFrame:
        part, width = unit.parameters["part"], unit.parameters["width"]
        tokens = tuple(len(labels) for _, labels in self._counted())
        if part == START:
            return untrained_frame(arrays, width=width, tokens=tokens[1])
        return recorded_frame(
            arrays,
            part=part,
            condition=unit.parameters["condition"],
            width=width,
            tokens=tokens,
            recipe=unit.parameters["recipe"],
            examples=len(self._data.y_train),
        )

    def quick(self) -> TrainingStudy:
        return replace(
            self,
            widths=self.widths[:_QUICK_WIDTHS],
            seeds=min(self.seeds, _QUICK_SEEDS),
            epochs=min(self.epochs, _QUICK_EPOCHS),
            examples=min(self.examples, _QUICK_EXAMPLES),
            networks=min(self.networks, _QUICK_NETWORKS),
        )

    def folder_name(self) -> str:
        plain = "".join(c if c.isalnum() or c in "_." else "-" for c in Path(self.dataset).name)
        return f"training-{plain}"

    def announce(self) -> list[str]:
        data = self._data
        return [
            f"{self.dataset}: {len(data.y_train):,} training examples ({data.source})",
            f"two hidden layers of {', '.join(self.widths)} neurons, {plural(self.seeds, 'seed')}, "
            f"{plural(self.epochs, 'epoch')}, on {device_named(self.device).type}",
            f"{plural(len(MECHANISM_RECIPES), 'arm')} and {plural(len(factorial_runs()), 'run')} of a factorial with {FIXED_WIDTH} neurons",
        ]

    @staticmethod
    def rules() -> tuple[Rule, ...]:
        return RULES

    @staticmethod
    def analyse(frame: pd.DataFrame, settings: Mapping[str, Any], published: pd.DataFrame | None) -> Findings:
        from actratio.studies.training.analysis import training_findings

        return training_findings(frame, settings)

    @property
    def _widths(self) -> list[int]:
        return [int(width) for width in self.widths]

    @property
    def _data(self) -> Dataset:
        return self._loaded.dataset(self.dataset, self.examples, self.data_dir)

    def _architecture(self, width: int) -> Architecture:
        return Architecture(self._data.features, (width, width), self._data.classes)

    def _seeds_of(self, part: str) -> int:
        return min(self.seeds, FEW_SEEDS) if part == FACTORIAL else self.seeds

    def _steps(self, part: str) -> list[int]:
        """Return the steps that are recorded."""
        steps = decay_steps if part == DECAY else short_steps
        return steps(self.epochs, len(self._data.y_train))

    def _trainings(self) -> Iterator[tuple[str, str, int, Recipe]]:
        """Yield part, condition, width and recipe of every training."""
        for width in self._widths:
            yield DECAY, str(width), width, Recipe()
        for condition, recipe in MECHANISM_RECIPES.items():
            yield MECHANISM, condition, FIXED_WIDTH, recipe
        for run in factorial_runs():
            yield FACTORIAL, run.name, FIXED_WIDTH, run.recipe

    def _counted(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the training and the held-out examples on which neurons are counted."""
        data = self._data
        held_out = np.random.default_rng(0).permutation(len(data.y_val))[:COUNTED]
        # The training examples are in random order already.
        return [(data.x_train[:COUNTED], data.y_train[:COUNTED]), (data.x_val[held_out], data.y_val[held_out])]


class _Loaded:
    """The data set, once it was read."""

    def __init__(self) -> None:
        self._data: Dataset | None = None

    def dataset(self, name: str, examples: int, data_dir: Path | None) -> Dataset:
        if self._data is None:
            data = load_dataset(name, data_dir)
            self._data = take_examples(data, min(examples, len(data.y_train)))
        return self._data

    def __reduce__(self) -> tuple[type[_Loaded], tuple[()]]:
        return _Loaded, ()  # another process loads its own
