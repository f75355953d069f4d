"""The article's study of transformers: the activation ratio of every MLP over the depth of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from actratio.counting.measurement import COLUMNS
from actratio.data.text import ARTICLE_PROMPTS, token_batches
from actratio.devices import device_named
from actratio.errors import ActratioError, plural
from actratio.report.findings import Findings
from actratio.statistics.rules import Rule
from actratio.studies.base import Arrays, Checkpoint, Option, Study, Unit
from actratio.studies.checks import check_unique
from actratio.studies.frames import frame_from_arrays, frame_to_arrays

if TYPE_CHECKING:
    import pandas as pd

_LONGEST = 1024  # tokens of a prompt in one forward pass


@dataclass(frozen=True)
class TransformerStudy(Study):
    """Which models to measure, and on which prompts.

    Each prompt is measured by itself, as the article did, so that all prompts have the same weight.

    Raises:
        ActratioError: no model was given, one was given twice, or there is no such dtype.
    """

    name: ClassVar[str] = "transformer"
    summary: ClassVar[str] = "Measure how the activation ratio changes over the depth of transformers."
    unit_noun: ClassVar[str] = "model"
    columns: ClassVar[tuple[str, ...]] = (*COLUMNS, "input")

    models: tuple[str, ...] = field(
        default=(),
        metadata={"option": Option("Folders, GGUF files, hub ids or short names of models, separated by commas.")},
    )
    prompts: tuple[str, ...] = field(
        default=ARTICLE_PROMPTS,
        metadata={
            "option": Option(
                "A text to measure on; repeat the option for several.",
                "the article's four",
                flag="prompt",
                repeated=True,
            )
        },
    )
    dtype: str = field(default="auto", metadata={"option": Option("auto (as saved), fp32, bf16 or fp16.")})
    device: str = field(default="auto", metadata={"option": Option("auto, cpu or cuda.")})
    revision: str | None = field(
        default=None,
        metadata={"option": Option("Branch, tag or commit of the models that are from the Hugging Face hub.")},
    )
    trust_remote_code: bool = field(
        default=False, metadata={"option": Option("Run Python code that comes with a model.", switch=True)}
    )
    allow_pickle: bool = field(
        default=False, metadata={"option": Option("Load weights that are not safetensors.", switch=True)}
    )

    def __post_init__(self) -> None:
        from actratio.models import check_dtype, check_revision

        if not self.models:
            raise ActratioError(
                "no model was given; name at least one with --models, a folder, a GGUF file, a hub id or a short name"
            )
        check_unique("model", self.models)
        check_dtype(self.dtype)
        check_revision(self.models, self.revision)

    def settings(self) -> dict[str, Any]:
        from actratio.models import check_model, model_fingerprint, revision_of, weights_note

        for name in self.models:
            check_model(name, revision=revision_of(name, self.revision), trust_remote_code=self.trust_remote_code)
        notes = {name: weights_note(name) for name in self.models}
        weights = {name: note for name, note in notes.items() if note is not None}
        return {
            "study": self.name,
            "models": list(self.models),
            **({} if self.revision is None else {"revision": self.revision}),
            "prompts": list(self.prompts),
            "dtype": self.dtype,
            "device": device_named(self.device).type,
            "fingerprints": {name: model_fingerprint(name, revision_of(name, self.revision)) for name in self.models},
            **({"weights": weights} if weights else {}),
        }

    def units(self) -> list[Unit]:
        """One model each, all taken to cost the same."""
        return [Unit(name, 1.0, {"model": name}) for name in self.models]

    def run(self, unit: Unit, checkpoint: Checkpoint) -> Arrays:
        import pandas as pd

        from actratio.counting.measuring import measure
        from actratio.models import load_model, load_tokenizer, revision_of, with_decoder_inputs

        name = unit.parameters["model"]
        tokenizer = load_tokenizer(
            name, revision=revision_of(name, self.revision), trust_remote_code=self.trust_remote_code
        )
        model = load_model(
            name,
            dtype=self.dtype,
            device=self.device,
            revision=revision_of(name, self.revision),
            trust_remote_code=self.trust_remote_code,
            allow_pickle=self.allow_pickle,
        )
        frames = []
        for number, prompt in enumerate(self.prompts):
            batches = token_batches(tokenizer, [prompt], length=_LONGEST, batch_size=1, packed=False)
            batches = with_decoder_inputs(model, batches)
            measured = measure(model, batches, tensors=["activation"], counts_alone=True, name=name)
            frames.append(measured.to_frame().assign(input=number))
            checkpoint.advance(1 / len(self.prompts))
        return frame_to_arrays(pd.concat(frames, ignore_index=True))

    def frame(self, unit: Unit, arrays: Arrays) -> pd.DataFrame:
        return frame_from_arrays(arrays)

    def quick(self) -> TransformerStudy:
        return replace(self, models=self.models[:1], prompts=self.prompts[:2])

    def folder_name(self) -> str:
        plain = [Path(name).resolve().name if Path(name).is_dir() else name.replace("/", "-") for name in self.models]
        return "-".join(["transformer", *plain])[:100]

    def announce(self) -> list[str]:
        from actratio.models import weights_note

        notes = [(name, weights_note(name)) for name in self.models]
        return [
            f"{plural(len(self.models), 'model')}, {plural(len(self.prompts), 'prompt')}, dtype {self.dtype}",
            *(f"{name}: weights {note}" for name, note in notes if note is not None),
        ]

    @staticmethod
    def rules() -> tuple[Rule, ...]:
        from actratio.studies.transformer.rules import RULES

        return RULES

    @staticmethod
    def read_published(path: Path) -> pd.DataFrame:
        from actratio.studies.transformer.profiles import read_gpt

        return read_gpt(path)

    @staticmethod
    def analyse(frame: pd.DataFrame, settings: Mapping[str, Any], published: pd.DataFrame | None) -> Findings:
        from actratio.studies.transformer.analysis import profile_findings

        return profile_findings(frame, settings, published)
