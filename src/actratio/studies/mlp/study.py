"""The article's study: train its MLPs, count how many neurons fire in every layer, every epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from actratio.data import BUILTIN, Dataset, load_dataset
from actratio.errors import ActratioError, RunError
from actratio.files import write_table
from actratio.studies.folder import RunFolder
from actratio.studies.mlp.history import EpochResult, from_tensors, to_frame, to_tensors
from actratio.training import ARTICLE_HIDDEN, Architecture
from actratio.training.trainer import Trainer

if TYPE_CHECKING:
    import pandas as pd

STUDY = "mlp"
_CHECKPOINT_SECONDS = 5.0

Progress = Callable[[str, int], None]
"""Called with what is under way and how many FLOPs of the study were done since the last call."""


@dataclass(frozen=True)
class MlpStudy:
    """What to train. Without architectures, the article's hidden layers.

    Raises:
        ActratioError: no data set, or numbers that are not positive.
    """

    datasets: tuple[str, ...] = ("digits",)
    architectures: tuple[str, ...] = ()
    seeds: int = 5
    epochs: int = 20
    batch_size: int = 64
    bias: bool = False
    device: str = "cpu"
    data_dir: Path | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if not self.datasets:
            raise ActratioError("no data set was given; name at least one with --datasets, such as digits")
        for name, value in (
            ("number of seeds", self.seeds),
            ("number of epochs", self.epochs),
            ("batch size", self.batch_size),
        ):
            if value < 1:
                raise ActratioError(f"the {name} is {value}; it must be at least 1")
        if self.label is not None and all(name in BUILTIN for name in self.datasets):
            raise ActratioError(
                f"the label {self.label!r} was given, but the label of {', '.join(self.datasets)} is known; leave --label out"
            )
        for kind, names in (("data set", self.datasets), ("architecture", self.architectures)):
            double = next((name for name in names if names.count(name) > 1), None)
            if double:
                raise ActratioError(f"the {kind} {double!r} is given twice; give each once")


@dataclass(frozen=True)
class Unit:
    """One training: a data set and an architecture, all seeds at once."""

    dataset: str
    architecture: Architecture
    flops: int

    @property
    def name(self) -> str:
        return f"{self.dataset}--{self.architecture}"


class MlpRun:
    """A study made ready: data checked, architectures resolved, folder opened.

    >>> run = MlpRun(MlpStudy(epochs=1, seeds=1), out)      # doctest: +SKIP
    >>> run.execute()                                        # doctest: +SKIP
    >>> run.frame()                                          # doctest: +SKIP
    """

    def __init__(self, study: MlpStudy, out: Path) -> None:
        """Check all input before the first step, so that hours are not lost to a typing error.

        Raises:
            ActratioError: anything wrong with the data, the architectures, the device or ``out``.
        """
        self.study = study
        self._device = _device(study.device)
        self._loaded: Dataset | None = None
        self.units: list[Unit] = []
        self.sources: dict[str, str] = {}
        data: dict[str, dict[str, Any]] = {}
        for name in study.datasets:
            dataset = self._dataset(name)
            self.sources[name] = dataset.source
            architectures = _architectures(study, dataset)
            data[name] = {
                "fingerprint": dataset.fingerprint,
                "train": len(dataset.y_train),
                "val": len(dataset.y_val),
                "features": dataset.features,
                "classes": dataset.classes,
                "architectures": [str(architecture) for architecture in architectures],
            }
            self.units += [Unit(name, each, _flops(study, each, dataset)) for each in architectures]
        self.folder = RunFolder(
            out,
            {
                "study": STUDY,
                "datasets": list(study.datasets),
                "data": data,
                "seeds": study.seeds,
                "epochs": study.epochs,
                "batch_size": study.batch_size,
                "bias": study.bias,
                "device": self._device.type,
            },
        )

    @property
    def table_path(self) -> Path:
        """The tidy table."""
        return self.folder.path / "results.parquet"

    @property
    def flops(self) -> int:
        """FLOPs of the whole study's matrix products."""
        return sum(unit.flops for unit in self.units)

    def execute(self, progress: Progress = lambda message, flops: None) -> None:
        """Train what is not trained yet; the table is rewritten after every unit.

        Raises:
            RunError: another process works in the folder, or a file in it is damaged.
        """
        with self.folder.working():
            for unit in self.units:
                if self.folder.unit_file(unit.name).exists():
                    progress(unit.name, unit.flops)
                    continue
                self.folder.note_change()
                history = self._train(unit, progress)
                self.folder.save_unit(unit.name, to_tensors(history))
                self._write_table()
            # Once more, because a kill may have come between a unit and its table.
            self._write_table()

    def finished(self) -> list[Unit]:
        """Units whose results are there."""
        return [unit for unit in self.units if self.folder.unit_file(unit.name).exists()]

    def frame(self) -> pd.DataFrame:
        """The tidy table of the finished units."""
        import pandas as pd

        frames = []
        for unit in self.finished():
            arrays = self.folder.load_unit(unit.name)
            assert arrays is not None  # finished() has just seen it
            seeds = tuple(range(self.study.seeds))
            frames.append(
                to_frame(
                    from_tensors(arrays), study=STUDY, dataset=unit.dataset, architecture=unit.architecture, seeds=seeds
                )
            )
        return pd.concat(frames, ignore_index=True)

    def _write_table(self) -> None:
        write_table(self.table_path, self.frame(), self.folder.metadata)

    def _train(self, unit: Unit, progress: Progress) -> list[EpochResult]:
        epochs = self.study.epochs
        share = unit.flops // (epochs + 1)
        trainer = Trainer(
            unit.architecture,
            self._dataset(unit.dataset),
            range(self.study.seeds),
            bias=self.study.bias,
            batch_size=self.study.batch_size,
            device=self._device,
        )
        history: list[EpochResult] = []
        checkpoint = self.folder.load_checkpoint(unit.name)
        if checkpoint is not None:
            try:
                trainer.restore(_part(checkpoint, "trainer."))
                history = from_tensors(_part(checkpoint, "history."))
            except (KeyError, RuntimeError, IndexError) as error:
                raise RunError(
                    f"the checkpoint in {self.folder.path} is damaged ({error}); remove it, and {unit.name} starts again"
                ) from None
        else:
            history.append(EpochResult(0, 0, trainer.evaluate("train"), trainer.evaluate("val")))
        progress(unit.name, share * len(history))
        saved = time.monotonic()
        for epoch in range(len(history), epochs + 1):
            trained = trainer.epoch()
            history.append(EpochResult(epoch, trainer.steps_done, trained, trainer.evaluate("val")))
            progress(unit.name, share)
            if time.monotonic() - saved > _CHECKPOINT_SECONDS and epoch < epochs:
                state = {f"trainer.{name}": tensor for name, tensor in trainer.state().items()}
                past = {f"history.{name}": tensor for name, tensor in to_tensors(history).items()}
                self.folder.save_checkpoint(unit.name, {**state, **past})
                saved = time.monotonic()
        return history

    def _dataset(self, name: str) -> Dataset:
        """The data set; the last one stays in memory, because its architectures train one after another."""
        if self._loaded is None or self._loaded.name != name:
            self._loaded = None  # free the old one before the new one is read
            self._loaded = load_dataset(name, self.study.data_dir, label=self.study.label)
        return self._loaded


def _part(arrays: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in arrays.items() if name.startswith(prefix)}


def _architectures(study: MlpStudy, dataset: Dataset) -> list[Architecture]:
    if not study.architectures:
        return [Architecture(dataset.features, hidden, dataset.classes) for hidden in ARTICLE_HIDDEN]
    found = [Architecture.parse(spec, inputs=dataset.features, outputs=dataset.classes) for spec in study.architectures]
    for index, architecture in enumerate(found):
        if architecture in found[:index]:
            specs = (study.architectures[found.index(architecture)], study.architectures[index])
            raise ActratioError(f"{' and '.join(specs)} are the same architecture, {architecture}; give it once")
    return found


def _flops(study: MlpStudy, architecture: Architecture, dataset: Dataset) -> int:
    train, val = len(dataset.y_train), len(dataset.y_val)
    before = architecture.forward_flops(train + val)
    an_epoch = architecture.training_flops(train) + architecture.forward_flops(val)
    return study.seeds * (before + study.epochs * an_epoch)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise ActratioError(f"there is no device {name!r}; write auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ActratioError("the device cuda was asked for, but PyTorch finds no GPU on this machine; write cpu")
    return torch.device(name)


def specs(names: Sequence[str]) -> tuple[str, ...]:
    """Names from command-line values, each of which may hold several, separated by commas; a file may have one in its name."""
    values = [[value] if "," in value and Path(value).is_file() else value.split(",") for value in names]
    return tuple(part.strip() for parts in values for part in parts if part.strip())
