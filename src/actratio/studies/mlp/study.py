"""The article's study: train its MLPs and count how many neurons fire in every layer, every epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from actratio.data import BUILTIN, Dataset
from actratio.devices import device_named
from actratio.errors import ActratioError, plural
from actratio.laws.observations import ARTICLE_BLOCK
from actratio.report.findings import Findings
from actratio.statistics.rules import Rule
from actratio.studies.base import Arrays, Checkpoint, Option, Study, Unit
from actratio.studies.checks import check_at_least, check_memory, check_unique
from actratio.studies.mlp.crossed import CROSSED_BLOCK, CROSSED_EXAMPLES, crossed_examples, crossed_shapes
from actratio.studies.mlp.history import TIDY_COLUMNS, EpochResult, from_tensors, to_frame, to_tensors
from actratio.studies.mlp.loaded import Facts, LoadedData
from actratio.training import ARTICLE_HIDDEN, Architecture, Recipe
from actratio.training.trainer import Trainer

if TYPE_CHECKING:
    import pandas as pd

_QUICK_SEEDS, _QUICK_EPOCHS = 2, 1


@dataclass(frozen=True)
class MlpStudy(Study):
    """Which MLPs to train, and on what.

    Raises:
        ActratioError: a number that is not positive, a name that is given twice, or no data set.
    """

    name: ClassVar[str] = "mlp"
    summary: ClassVar[str] = (
        "Train the article's ReLU MLPs, count how many neurons fire, fit how that grows with width."
    )
    unit_noun: ClassVar[str] = "training"
    columns: ClassVar[tuple[str, ...]] = TIDY_COLUMNS
    planned: ClassVar[Mapping[str, Any]] = {
        "datasets": ["mnist", "fashion_mnist"],
        "seeds": 5,
        "epochs": 20,
        "batch_size": 64,
        "bias": False,
    }

    datasets: tuple[str, ...] = field(
        default=("digits",),
        metadata={
            "option": Option(
                "Data sets, separated by commas: names from 'actratio datasets', CSV files, Hugging Face ids.", "digits"
            )
        },
    )
    architectures: tuple[str, ...] = field(
        default=(),
        metadata={
            "option": Option("Widths joined by '-', separated by commas, such as 512-256-10.", "the article's six")
        },
    )
    seeds: int = field(default=5, metadata={"option": Option("Number of seeds, trained as one stack.", minimum=1)})
    epochs: int = field(default=20, metadata={"option": Option("Passes over the training data.", minimum=1)})
    batch_size: int = field(default=64, metadata={"option": Option("Examples per step.", minimum=1)})
    bias: bool = field(
        default=False,
        metadata={"option": Option("Use biases. The article's text has none; its published data does.")},
    )
    crossed: bool = field(
        default=True,
        metadata={
            "option": Option(
                "Also train the crossed block (widths × depths), on data sets of at least 20,000 training examples."
            )
        },
    )
    device: str = field(default="auto", metadata={"option": Option("auto, cpu or cuda.")})
    data_dir: Path | None = field(
        default=None, metadata={"option": Option("Folder of data sets.", environment="ACTRATIO_DATA")}
    )
    label: str | None = field(
        default=None,
        metadata={"option": Option("Label column of a CSV file or hub data set.", "found by its name")},
    )
    _loaded: LoadedData = field(default_factory=lambda: LoadedData(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.datasets:
            raise ActratioError("no data set was given; name at least one with --datasets, such as digits")
        check_at_least(1, number_of_seeds=self.seeds, number_of_epochs=self.epochs, batch_size=self.batch_size)
        if self.label is not None and all(name in BUILTIN for name in self.datasets):
            raise ActratioError(
                f"the label column {self.label!r} was given, but {', '.join(self.datasets)} has a known one; omit --label"
            )
        check_unique("data set", self.datasets)
        check_unique("architecture", self.architectures)

    def settings(self) -> dict[str, Any]:
        data = {}
        for name in self.datasets:
            facts = self._facts(name)
            for architecture in (*self._architectures(facts), *self._crossed(facts)):
                check_memory(architecture, self.seeds, device_named(self.device))
            data[name] = {
                "fingerprint": facts.fingerprint,
                "train": facts.train,
                "val": facts.val,
                "features": facts.features,
                "classes": facts.classes,
                "architectures": [str(architecture) for architecture in self._architectures(facts)],
                "crossed": [str(architecture) for architecture in self._crossed(facts)],
            }
        return {
            "study": self.name,
            "datasets": list(self.datasets),
            "data": data,
            "seeds": self.seeds,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "bias": self.bias,
            "device": device_named(self.device).type,
        }

    def units(self) -> list[Unit]:
        """One training per data set, block and architecture, all seeds at once; costs are FLOPs."""
        units = []
        for name in self.datasets:
            facts = self._facts(name)
            for architecture in self._architectures(facts):
                parameters = {"dataset": name, "architecture": architecture, "block": ARTICLE_BLOCK}
                cost = self._flops(architecture, facts.train, facts.val)
                units.append(Unit(f"{name}--{architecture}", cost, parameters))
            for architecture in self._crossed(facts):
                parameters = {"dataset": name, "architecture": architecture, "block": CROSSED_BLOCK}
                cost = self._flops(architecture, CROSSED_EXAMPLES, facts.val)
                units.append(Unit(f"{name}--{CROSSED_BLOCK}--{architecture}", cost, parameters))
        return units

    def run(self, unit: Unit, checkpoint: Checkpoint) -> Arrays:
        data = self._dataset(unit.parameters["dataset"])
        trainer = Trainer(
            unit.parameters["architecture"],
            data if unit.parameters["block"] == ARTICLE_BLOCK else crossed_examples(data),
            range(self.seeds),
            Recipe(bias=self.bias, batch_size=self.batch_size),
            device=device_named(self.device),
        )
        saved = checkpoint.load()
        if saved is None:
            history = [EpochResult(0, 0, trainer.evaluate("train"), trainer.evaluate("val"))]
        else:
            try:
                trainer.restore(_with_prefix(saved, "trainer."))
                history = from_tensors(_with_prefix(saved, "history."))
            except (KeyError, RuntimeError, IndexError) as error:
                raise checkpoint.unusable(error) from None
        share = 1 / (self.epochs + 1)
        checkpoint.advance(share * len(history))
        for epoch in range(len(history), self.epochs + 1):
            trained = trainer.epoch()
            history.append(EpochResult(epoch, trainer.steps_done, trained, trainer.evaluate("val")))
            checkpoint.advance(share)
            if epoch < self.epochs:
                checkpoint.save(lambda: _state(trainer, history))
        return to_tensors(history)

    def frame(self, unit: Unit, arrays: Arrays) -> pd.DataFrame:
        return to_frame(
            from_tensors(arrays),
            study=self.name,
            dataset=unit.parameters["dataset"],
            architecture=unit.parameters["architecture"],
            seeds=tuple(range(self.seeds)),
            block=unit.parameters["block"],
        )

    def quick(self) -> MlpStudy:
        return replace(
            self,
            datasets=self.datasets[:1],
            seeds=min(self.seeds, _QUICK_SEEDS),
            epochs=min(self.epochs, _QUICK_EPOCHS),
        )

    def folder_name(self) -> str:
        plain = ["".join(c if c.isalnum() or c in "_." else "-" for c in Path(name).name) for name in self.datasets]
        return "-".join(["mlp", *plain]) + ("-bias" if self.bias else "")

    def announce(self) -> list[str]:
        lines = []
        for name in self.datasets:
            facts = self._facts(name)
            lines.append(
                f"{name}: {facts.train:,} + {facts.val:,} examples, {facts.features} features, {facts.classes} classes "
                f"({facts.source}); architectures {', '.join(map(str, self._architectures(facts)))}"
            )
            crossed = self._crossed(facts)
            if crossed:
                lines.append(
                    f"{name}, crossed block: {CROSSED_EXAMPLES:,} examples, {plural(len(crossed), 'architecture')}"
                )
        biases = "with" if self.bias else "without"
        return [
            *lines,
            f"{plural(self.seeds, 'seed')}, {plural(self.epochs, 'epoch')}, {biases} biases, on {device_named(self.device).type}",
        ]

    @staticmethod
    def read_published(path: Path) -> pd.DataFrame:
        from actratio.laws.observations import read_published

        return read_published(path)

    @staticmethod
    def rules() -> tuple[Rule, ...]:
        from actratio.studies.mlp.rules import study_rules

        return study_rules()

    @staticmethod
    def analyse(frame: pd.DataFrame, settings: Mapping[str, Any], published: pd.DataFrame | None) -> Findings:
        from actratio.studies.mlp.analysis import study_findings

        return study_findings(frame, settings, published)

    def _dataset(self, name: str) -> Dataset:
        return self._loaded.dataset(name, self.data_dir, self.label)

    def _facts(self, name: str) -> Facts:
        if name not in self._loaded.facts:
            self._dataset(name)
        return self._loaded.facts[name]

    def _architectures(self, facts: Facts) -> list[Architecture]:
        if not self.architectures:
            return [Architecture(facts.features, hidden, facts.classes) for hidden in ARTICLE_HIDDEN]
        parsed = [Architecture.parse(spec, inputs=facts.features, outputs=facts.classes) for spec in self.architectures]
        for index, architecture in enumerate(parsed):
            first = parsed.index(architecture)
            if first < index:
                raise ActratioError(
                    f"{self.architectures[first]} and {self.architectures[index]} are the same architecture, "
                    f"{architecture}; give it once"
                )
        return parsed

    def _crossed(self, facts: Facts) -> list[Architecture]:
        """Return the networks of the crossed block, or none."""
        if not self.crossed or facts.train < CROSSED_EXAMPLES:
            return []
        return [Architecture(facts.features, hidden, facts.classes) for hidden in crossed_shapes()]

    def _flops(self, architecture: Architecture, train: int, val: int) -> int:
        """FLOPs of the matrix products of a training with this many examples, with its evaluations."""
        before = architecture.forward_flops(train + val)
        per_epoch = architecture.training_flops(train) + architecture.forward_flops(val)
        return self.seeds * (before + self.epochs * per_epoch)


def _state(trainer: Trainer, history: Sequence[EpochResult]) -> Arrays:
    return {
        **{f"trainer.{name}": tensor for name, tensor in trainer.state().items()},
        **{f"history.{name}": tensor for name, tensor in to_tensors(list(history)).items()},
    }


def _with_prefix(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): tensor for name, tensor in arrays.items() if name.startswith(prefix)}
