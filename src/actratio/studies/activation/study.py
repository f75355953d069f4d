"""The study of activation functions: which models are changed, and which are trained."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from actratio.data import Dataset, data_folder, load_dataset
from actratio.data.text import read_texts
from actratio.data.variants import take_examples
from actratio.devices import device_named
from actratio.errors import ActratioError, DataError, plural
from actratio.report.findings import Findings
from actratio.statistics.rules import Rule
from actratio.studies.activation.character import ARMS, Size
from actratio.studies.activation.claims import CONFIRMATORY_DATASETS, CONFIRMATORY_MODELS
from actratio.studies.activation.trained import MLP_ARMS
from actratio.studies.base import Arrays, Checkpoint, Option, Study, Unit
from actratio.studies.checks import check_at_least, check_memory, check_unique

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("pretrained", "character", "mlp")
"""Interventions on pretrained models; character models; MLPs, with switches."""

COLUMNS = ("part", "model", "dataset", "seed", "step", "layer", "way", "share")
"""Columns that every row of the table has."""

_TEXT = Path("text") / "tinyshakespeare.txt"
_MOST_WINDOWS = 64  # of text, that interventions on a character model are scored on
_QUICK_ARMS = ("relu", "gelu")


@dataclass(frozen=True)
class ActivationStudy(Study):
    """Which models to change, and how long to train which models.

    Raises:
        ActratioError: a name is unknown or given twice, or a number is too small.
    """

    name: ClassVar[str] = "activation"
    summary: ClassVar[str] = (
        "Test whether GELU's outputs below zero are inactive, and how activation functions change the ratio."
    )
    unit_noun: ClassVar[str] = "part"
    columns: ClassVar[tuple[str, ...]] = COLUMNS
    planned: ClassVar[Mapping[str, Any]] = {
        "parts": list(PARTS),
        "models": list(CONFIRMATORY_MODELS),
        "documents": 600,
        "arms": ["relu", "leaky_relu", "gelu", "silu", "relu2"],
        "datasets": list(CONFIRMATORY_DATASETS),
        "width": 512,
        "examples": 20_000,
        "epochs": 20,
        "steps": 1500,
        "seeds": 5,
        "text": "86c4e6aa9db7c042",
    }

    parts: tuple[str, ...] = field(
        default=PARTS, metadata={"option": Option(f"Parts to run, of {', '.join(PARTS)}.", ",".join(PARTS))}
    )
    models: tuple[str, ...] = field(
        default=CONFIRMATORY_MODELS,
        metadata={
            "option": Option(
                "Folders, GGUF files, hub ids or short names of pretrained models, separated by commas.", "minilm,iglm"
            )
        },
    )
    documents: int = field(
        default=600,
        metadata={"option": Option("Texts that an encoder reads; language models read fewer, longer ones.", minimum=2)},
    )
    arms: tuple[str, ...] = field(
        default=tuple(MLP_ARMS)[:5],
        metadata={
            "option": Option(
                "Activation functions, separated by commas; the switches need relu and gelu, and SwiGLU needs silu.",
                ",".join(tuple(MLP_ARMS)[:5]),
            )
        },
    )
    datasets: tuple[str, ...] = field(
        default=CONFIRMATORY_DATASETS,
        metadata={"option": Option("Data sets of the MLPs, separated by commas.", "mnist,fashion_mnist")},
    )
    width: int = field(default=512, metadata={"option": Option("Neurons of the MLPs.", minimum=1)})
    examples: int = field(default=20_000, metadata={"option": Option("Training examples of the MLPs.", minimum=1)})
    epochs: int = field(default=20, metadata={"option": Option("Epochs of the MLPs.", minimum=1)})
    steps: int = field(default=1500, metadata={"option": Option("Steps of the character models.", minimum=1)})
    seeds: int = field(default=5, metadata={"option": Option("Number of seeds.", minimum=1)})
    text: Path | None = field(
        default=None,
        metadata={
            "option": Option(
                "Text file of the character models and of pretrained language models.",
                "Tiny Shakespeare of the data folder",
            )
        },
    )
    data_dir: Path | None = field(
        default=None, metadata={"option": Option("Folder of data sets.", environment="ACTRATIO_DATA")}
    )
    revision: str | None = field(
        default=None,
        metadata={"option": Option("Branch, tag or commit of the models that are from the Hugging Face hub.")},
    )

    def __post_init__(self) -> None:
        from actratio.models import check_revision

        for kind, names, known in (
            ("part", self.parts, PARTS),
            ("activation function", self.arms, tuple(MLP_ARMS)[:5]),
            ("model", self.models, None),
            ("data set", self.datasets, None),
        ):
            unknown = next((name for name in names if known is not None and name not in known), None)
            if unknown is not None and known is not None:
                raise ActratioError(f"there is no {kind} {unknown!r}; use one of {', '.join(known)}")
            check_unique(kind, names)
        if not self.parts:
            raise ActratioError(f"no part was given; name at least one of {', '.join(PARTS)} with --parts")
        check_revision(self.models, self.revision)
        check_at_least(2, number_of_documents=self.documents)
        check_at_least(
            1,
            width=self.width,
            number_of_examples=self.examples,
            number_of_epochs=self.epochs,
            number_of_steps=self.steps,
            number_of_seeds=self.seeds,
        )

    def settings(self) -> dict[str, Any]:
        from actratio.models import check_model, model_fingerprint, revision_of

        text = self._text()  # quicker to check than models
        pretrained = "pretrained" in self.parts
        for name in self.models if pretrained else ():
            check_model(name, revision=revision_of(name, self.revision))
        if set(self.parts) != {"pretrained"}:
            check_memory(self.width, self.seeds, device_named("cpu"))
        return {
            "study": self.name,
            "parts": list(self.parts),
            "models": list(self.models),
            **({} if self.revision is None else {"revision": self.revision}),
            "documents": self.documents,
            "arms": list(self.arms),
            "datasets": list(self.datasets),
            "width": self.width,
            "examples": self.examples,
            "epochs": self.epochs,
            "steps": self.steps,
            "seeds": self.seeds,
            "text": hashlib.sha256(text.encode()).hexdigest()[:16],
            "fingerprints": {
                name: model_fingerprint(name, revision_of(name, self.revision)) for name in self.models if pretrained
            },
            "data": {name: self._dataset(name).fingerprint for name in self.datasets if "mlp" in self.parts},
        }

    def units(self) -> list[Unit]:
        """A pretrained model, a character model with one seed, or MLPs of one arm with all seeds; costs are seconds."""
        units = []
        if "mlp" in self.parts:
            cost = 6.3e-8 * self.seeds * self.width * self.examples * self.epochs
            units += [
                Unit(f"{name} {arm}", cost, {"part": "mlp", "dataset": name, "arm": arm})
                for name in self.datasets
                for arm in self._mlp_arms()
            ]
        if "character" in self.parts:
            units += [
                Unit(f"character {arm} {seed}", 0.11 * self.steps, {"part": "character", "arm": arm, "seed": seed})
                for arm in self._character_arms()
                for seed in range(self.seeds)
            ]
        if "pretrained" in self.parts:
            units += [
                Unit(f"pretrained {name}", 0.4 * self.documents, {"part": "pretrained", "model": name})
                for name in self.models
            ]
        return units

    def run(self, unit: Unit, checkpoint: Checkpoint) -> Arrays:
        from actratio.studies.activation.pretrained import Reading, run_pretrained
        from actratio.studies.activation.trained import run_character, run_mlp

        given = unit.parameters
        if given["part"] == "mlp":
            return run_mlp(
                given["arm"], self._dataset(given["dataset"]), self.width, self.seeds, self.epochs, checkpoint
            )
        if given["part"] == "character":
            scored = min(_MOST_WINDOWS, max(2, self.documents // 8))
            return run_character(given["arm"], given["seed"], self._text(), Size(), self.steps, checkpoint, scored)
        reading = Reading(self._text(), data_folder(self.data_dir), self.documents)
        return run_pretrained(given["model"], reading, checkpoint, self.revision)

    def frame(self, unit: Unit, arrays: Arrays) -> pd.DataFrame:
        from actratio.studies.activation.rows import unit_frame

        return unit_frame(unit.parameters, arrays, self.width)

    def quick(self) -> ActivationStudy:
        return replace(
            self,
            models=self.models[:1],
            documents=min(self.documents, 60),
            arms=tuple(arm for arm in self.arms if arm in _QUICK_ARMS),
            datasets=self.datasets[:1],
            examples=min(self.examples, 2000),
            epochs=min(self.epochs, 3),
            steps=min(self.steps, 30),
            seeds=min(self.seeds, 2),
        )

    def folder_name(self) -> str:
        if self.parts == PARTS and self.models == CONFIRMATORY_MODELS:
            return "activation"
        models = self.models if "pretrained" in self.parts else ()
        plain = ["".join(c if c.isalnum() or c in "_." else "-" for c in Path(name).name) for name in models]
        return "-".join(["activation", *self.parts, *plain])[:100]

    def announce(self) -> list[str]:
        lines = []
        if "pretrained" in self.parts:
            lines.append(f"interventions on {', '.join(self.models)}, on up to {self.documents} documents")
        if "character" in self.parts:
            lines.append(
                f"character models: {', '.join(self._character_arms())}; {plural(self.steps, 'step')}, {plural(self.seeds, 'seed')}"
            )
        if "mlp" in self.parts:
            lines.append(
                f"MLPs of {self.width} neurons on {', '.join(self.datasets)}: {'; '.join(self._mlp_arms())}; "
                f"{plural(self.epochs, 'epoch')}, {plural(self.seeds, 'seed')}"
            )
        return lines

    @staticmethod
    def rules() -> tuple[Rule, ...]:
        from actratio.studies.activation.rules import RULES

        return RULES

    @staticmethod
    def analyse(frame: pd.DataFrame, settings: Mapping[str, Any], published: pd.DataFrame | None) -> Findings:
        from actratio.studies.activation.analysis import activation_findings

        return activation_findings(frame, settings)

    def _mlp_arms(self) -> list[str]:
        """The arms whose activation functions are all asked for."""
        return [arm for arm, functions in MLP_ARMS.items() if set(functions) <= set(self.arms)]

    def _character_arms(self) -> list[str]:
        return [arm for arm in ARMS if ("silu" if ARMS[arm].gated else arm) in self.arms]

    def _dataset(self, name: str) -> Dataset:
        data = load_dataset(name, self.data_dir)
        return take_examples(data, min(self.examples, len(data.y_train)))

    def _text(self) -> str:
        """Return the text; empty if nothing reads it: MiniLM reads BANKING77, and IgLM its own samples."""
        others = set(self.models) - set(CONFIRMATORY_MODELS)
        if not ("character" in self.parts or ("pretrained" in self.parts and others)):
            return ""
        folder = None if self.text is not None else data_folder(self.data_dir)
        path = self.text or (None if folder is None else folder / _TEXT)
        if path is None or not path.is_file():
            raise DataError(
                f"the text {path or _TEXT} does not exist; pass the folder that has {_TEXT} with --data-dir, or a file with --text"
            )
        return "\n\n".join(read_texts(str(path)))
