"""The study of architectures: which models, on which text, in which variants."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from actratio.data import data_folder
from actratio.data.text import read_texts
from actratio.devices import device_named
from actratio.errors import ActratioError, DataError, plural
from actratio.models import (
    SHORT_NAMES,
    check_dtype,
    check_model,
    check_revision,
    find_source,
    load_model,
    load_tokenizer,
    model_fingerprint,
    revision_of,
    weights_note,
)
from actratio.report.findings import Findings
from actratio.statistics.rules import Rule
from actratio.studies.architectures.sequences import (
    Block,
    published_blocks,
    sampled_blocks,
    shuffled_blocks,
    text_blocks,
)
from actratio.studies.architectures.tidy_counts import COUNT_COLUMNS, counts_frame, losses_frame
from actratio.studies.base import Arrays, Checkpoint, Option, Study, Unit
from actratio.studies.checks import check_unique

if TYPE_CHECKING:
    import pandas as pd

LENGTH = 125
"""Most tokens of a sequence."""

INITIALISATIONS = 5
"""Twins of a model; each reads the blocks of one residue."""

_EVERY = 4  # one in four blocks is read for the smallest share
_TEXT = Path("text") / "tinyshakespeare.txt"
_COSTS = {"pretrained": 1.0, "shuffled": 1.0, "twin": 1.2, "quantised": 1.0, "published": 0.1, "reduced": 3.5}


@dataclass(frozen=True)
class ArchitecturesStudy(Study):
    """Which pretrained models to measure, and on how many tokens.

    Raises:
        ActratioError: no model, a model that is given twice, an unknown dtype, or too few blocks or tokens.
    """

    name: ClassVar[str] = "architectures"
    summary: ClassVar[str] = "Compare the profile of other pretrained models with the article's GPT models."
    unit_noun: ClassVar[str] = "variant"
    columns: ClassVar[tuple[str, ...]] = COUNT_COLUMNS
    planned: ClassVar[Mapping[str, Any]] = {
        "models": list(SHORT_NAMES),
        "texts": [],
        "tokens": 20_000,
        "blocks": 40,
        "seed": 0,
    }

    models: tuple[str, ...] = field(
        default=tuple(SHORT_NAMES),
        metadata={
            "option": Option(
                "Folders, GGUF files, hub ids or short names of models, separated by commas.", ",".join(SHORT_NAMES)
            )
        },
    )
    texts: tuple[str, ...] = field(
        default=(),
        metadata={
            "option": Option(
                "Text files, .jsonl files or Hugging Face ids, separated by commas; iglm reads its own samples.",
                "Tiny Shakespeare of the data folder",
            )
        },
    )
    tokens: int = field(default=20_000, metadata={"option": Option("Tokens for each variant of a model.", minimum=1)})
    blocks: int = field(default=40, metadata={"option": Option("Blocks that are resampled.", minimum=2)})
    seed: int = field(default=0, metadata={"option": Option("Seed of samples, orders and initial weights.", minimum=0)})
    dtype: str = field(default="auto", metadata={"option": Option("auto (as saved), fp32, bf16 or fp16.")})
    device: str = field(default="auto", metadata={"option": Option("auto, cpu or cuda.")})
    data_dir: Path | None = field(
        default=None, metadata={"option": Option("Folder of data sets.", environment="ACTRATIO_DATA")}
    )
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
        if not self.models:
            raise ActratioError("no model was given; name at least one with --models")
        check_unique("model", self.models)
        check_dtype(self.dtype)
        check_revision(self.models, self.revision)
        if self.blocks < 2 or self.tokens < 8 * self.blocks:
            raise ActratioError(
                f"the study can't read {plural(self.tokens, 'token')} in {plural(self.blocks, 'block')}; "
                "give at least 2 blocks and 8 tokens a block"
            )

    def settings(self) -> dict[str, Any]:
        for name in self.models:
            check_model(name, revision=revision_of(name, self.revision), trust_remote_code=self.trust_remote_code)
        notes = {name: weights_note(name) for name in self.models}
        return {
            "study": self.name,
            "models": list(self.models),
            **({} if self.revision is None else {"revision": self.revision}),
            "texts": list(self.texts),
            "text_fingerprint": hashlib.sha256(self._text().encode()).hexdigest()[:16] if self._needs_text() else None,
            "tokens": self.tokens,
            "blocks": self.blocks,
            "seed": self.seed,
            "dtype": self.dtype,
            "device": device_named(self.device).type,
            "fingerprints": {name: model_fingerprint(name, revision_of(name, self.revision)) for name in self.models},
            "weights": {name: note for name, note in notes.items() if note is not None},
        }

    def units(self) -> list[Unit]:
        """One for each model and variant, the small models first."""
        units = [
            Unit(f"{name} {variant}", _COSTS[variant] * _size(name), {"model": name, "variant": variant})
            for name in self.models
            for variant in self._variants(name)
        ]
        return sorted(units, key=lambda unit: _size(unit.parameters["model"]))

    @staticmethod
    def _variants(name: str) -> list[str]:
        source = find_source(name)
        extra = ["quantised"] if source.gguf_file is None else []
        extra += ["published"] if source.vocabulary is not None else []
        return ["pretrained", "shuffled", "twin", *extra, "reduced"]

    def run(self, unit: Unit, checkpoint: Checkpoint) -> Arrays:
        from actratio.studies.architectures.counted_blocks import BlockCounter, count_blocks
        from actratio.studies.architectures.kept_neurons import reduce_blocks
        from actratio.studies.architectures.variants import round_weights, twin_of

        name, variant = unit.parameters["model"], unit.parameters["variant"]
        model = load_model(
            name,
            dtype=self.dtype,
            device=self.device,
            revision=revision_of(name, self.revision),
            trust_remote_code=self.trust_remote_code,
            allow_pickle=self.allow_pickle,
        )
        blocks = self._blocks(name, variant, model)
        order = list(range(len(blocks)))
        if variant == "reduced":
            order = order[::_EVERY]
        if variant == "twin":
            order.sort(key=lambda number: (number % INITIALISATIONS, number))
        if variant == "quantised":
            round_weights(model)

        @lru_cache(maxsize=1)  # a twin is needed until the next one is
        def counter(seed: int) -> BlockCounter:
            return BlockCounter(twin_of(model, self.seed + seed) if variant == "twin" else model, blocks[0])

        def after_each(arrays: Arrays) -> None:
            checkpoint.save(lambda: arrays)
            checkpoint.advance(1 / len(order))

        done = checkpoint.load()
        if done is not None:
            checkpoint.advance(len(done["tokens"]) / len(order))
        chosen = [blocks[number] for number in order]
        if variant == "reduced":
            arrays = reduce_blocks(model, chosen, done, after_each)
        else:
            arrays = count_blocks(lambda number: counter(_seed(variant, order[number])), chosen, done, after_each)
        return {**arrays, "order": torch.tensor(order)}

    def _blocks(self, name: str, variant: str, model: nn.Module) -> Sequence[Block]:
        tokenizer = load_tokenizer(
            name, revision=revision_of(name, self.revision), trust_remote_code=self.trust_remote_code
        )
        sequences = max(1, self.tokens // (self.blocks * LENGTH))
        if variant == "published":
            return published_blocks(tokenizer)
        if find_source(name).vocabulary is not None:
            blocks = sampled_blocks(model, tokenizer, blocks=self.blocks, sequences=sequences, seed=self.seed)
        else:
            length = min(LENGTH, self.tokens // (self.blocks * sequences))
            blocks = text_blocks(tokenizer, self._text(), blocks=self.blocks, sequences=sequences, length=length)
        return shuffled_blocks(blocks, self.seed) if variant == "shuffled" else blocks

    def _needs_text(self) -> bool:
        return any(find_source(name).vocabulary is None for name in self.models)

    def _text(self) -> str:
        folder = None if self.texts else data_folder(self.data_dir)
        if not self.texts and (folder is None or not (folder / _TEXT).is_file()):
            raise DataError(
                f"the text {_TEXT} is not in the data folder ({folder}); pass the folder with --data-dir, or other texts with --texts"
            )
        sources = self.texts if folder is None else (str(folder / _TEXT),)
        return "\n\n".join(text for source in sources for text in read_texts(source))

    def frame(self, unit: Unit, arrays: Arrays) -> pd.DataFrame:
        name, variant = unit.parameters["model"], unit.parameters["variant"]
        seeds = [_seed(variant, number) for number in arrays["order"].tolist()]
        if variant == "reduced":
            return losses_frame(name, arrays, seeds)
        return counts_frame(name, variant, arrays, seeds)

    def quick(self) -> ArchitecturesStudy:
        blocks = min(self.blocks, 4)
        return replace(self, blocks=blocks, tokens=min(self.tokens, blocks * LENGTH))

    def folder_name(self) -> str:
        if self.models == tuple(SHORT_NAMES):
            return "architectures"
        plain = [Path(name).resolve().name if Path(name).exists() else name.replace("/", "-") for name in self.models]
        return "-".join(["architectures", *plain])[:100]

    def announce(self) -> list[str]:
        lines = [
            f"{plural(len(self.models), 'model')}, {self.tokens:,} tokens for each variant in {plural(self.blocks, 'block')}"
        ]
        notes = [(name, weights_note(name)) for name in self.models]
        lines += [f"{name}: weights {note}" for name, note in notes if note is not None]
        return lines + [f"{name}: licence {SHORT_NAMES[name].licence}" for name in self.models if name in SHORT_NAMES]

    @staticmethod
    def rules() -> tuple[Rule, ...]:
        from actratio.studies.architectures.rules import RULES

        return RULES

    @staticmethod
    def read_published(path: Path) -> pd.DataFrame:
        from actratio.studies.transformer.profiles import read_gpt

        return read_gpt(path)

    @staticmethod
    def analyse(frame: pd.DataFrame, settings: Mapping[str, Any], published: pd.DataFrame | None) -> Findings:
        from actratio.studies.architectures.analysis import architecture_findings

        return architecture_findings(frame, settings, published)


def _seed(variant: str, block: int) -> int:
    """Return which initialisation reads a block; 0 for the pretrained weights."""
    return block % INITIALISATIONS if variant == "twin" else 0


def _size(name: str) -> float:
    """Return a measure of a model's size: the megabytes of its files as 32-bit weights, or a guess for a hub id."""
    source = find_source(name)
    if source.gguf_path is not None:
        from actratio.models.weights import stored_weights

        return stored_weights(source.gguf_path).parameters * 4e-6
    folder = Path(source.place)
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin")] if folder.is_dir() else []
    return sum(path.stat().st_size for path in files) * 1e-6 or 500.0
