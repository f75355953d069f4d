"""Measuring one shard after the other with a model that is loaded once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from actratio.counting.criteria import Criterion
from actratio.counting.measurement import Measurement
from actratio.scale.manifest import Shard
from actratio.scale.results import ShardResults
from actratio.scale.shard_reader import shard_texts
from actratio.sites.late import UncountedWarning


@dataclass(frozen=True)
class ShardSettings:
    """How a shard is measured; everything that decides its counts, apart from the model and the text.

    Attributes:
        column: the field or column that has the texts.
        length, batch_size, packed: as for ``token_batches``; each shard starts a new sequence and a new batch.
        sites, tensors, criteria, counts_alone: as for ``measure``.
        threads: of PyTorch in each process. Sums are rounded otherwise with another number, and a value near zero may then be
            counted otherwise.
    """

    column: str = "text"
    length: int = 256
    batch_size: int = 4
    packed: bool = True
    sites: Sequence[str] | None = None
    tensors: Sequence[str] = ("activation", "hidden")
    criteria: Sequence[str | Criterion] = ("positive",)
    counts_alone: bool = False
    threads: int = 1

    def as_json(self) -> dict[str, Any]:
        """Return the settings as values for JSON."""
        described = {**vars(self), "tensors": [*self.tensors], "criteria": [str(item) for item in self.criteria]}
        return described | {"sites": None if self.sites is None else [*self.sites]}


@dataclass(frozen=True)
class LoadModel:
    """Loads a model of transformers and its tokenizer by name, in whatever process that is; the fields are those of ``load_model``.

    Attributes:
        tokenizer: name of the tokenizer; ``None`` for the model's own, with the model's revision.
    """

    name: str
    tokenizer: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    revision: str | None = None

    def __call__(self) -> tuple[nn.Module, Any]:
        """Return the model and the tokenizer."""
        from actratio.models import load_model, load_tokenizer

        tokenizer = load_tokenizer(
            self.tokenizer or self.name,
            revision=None if self.tokenizer else self.revision,
            trust_remote_code=self.trust_remote_code,
        )
        model = load_model(
            self.name,
            dtype=self.dtype,
            device=self.device,
            device_map=self.device_map,
            trust_remote_code=self.trust_remote_code,
            allow_pickle=self.allow_pickle,
            revision=self.revision,
        )
        return model, tokenizer

    def commit(self) -> dict[str, str]:
        """Return the commit of a loaded model of the hub, as a setting to record."""
        from actratio.models import commit_setting

        return commit_setting(self.name, self.revision)


@dataclass(frozen=True)
class ShardWorker:
    """Makes a function that measures one shard after the other with a model that is loaded once; can be pickled.

    Args:
        load: returns the model and its tokenizer.
        name: the model's name.
        results: where the counts are written.
        settings: how a shard is measured.
        recorded: settings to record in the measurement.
    """

    load: Callable[[], tuple[nn.Module, Any]]
    name: str
    results: ShardResults
    settings: ShardSettings
    recorded: Mapping[str, Any]

    def __call__(self) -> Callable[[Shard], int]:
        model, tokenizer = self.load()
        recorded = {**self.recorded, **(self.load.commit() if isinstance(self.load, LoadModel) else {})}

        def work(shard: Shard) -> int:
            before = torch.get_num_threads()
            torch.set_num_threads(self.settings.threads)
            try:
                with _uncounted() as paths:
                    measurement = self._measure(model, tokenizer, shard, recorded)
            finally:
                torch.set_num_threads(before)
            self.results.save(shard, measurement, [*paths])
            return 0 if measurement is None else max((row.counts.tokens for row in measurement), default=0)

        return work

    def _measure(
        self, model: nn.Module, tokenizer: Any, shard: Shard, recorded: Mapping[str, Any]
    ) -> Measurement | None:
        from actratio.counting.measuring import measure
        from actratio.data.text import token_batches
        from actratio.models import with_decoder_inputs

        own = self.settings
        texts = shard_texts(shard, own.column)
        if not texts:
            return None
        batches = token_batches(tokenizer, texts, length=own.length, batch_size=own.batch_size, packed=own.packed)
        return measure(
            model,
            with_decoder_inputs(model, batches),
            sites=own.sites,
            tensors=own.tensors,
            criteria=own.criteria,
            counts_alone=own.counts_alone,
            name=self.name,
            settings=recorded,
        )


@contextmanager
def _uncounted() -> Iterator[dict[str, None]]:
    """Collect the parts of the model that the block warns of; other warnings are shown at its end."""
    paths: dict[str, None] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UncountedWarning)
        yield paths
    for warning in caught:
        if isinstance(warning.message, UncountedWarning):
            paths.update(dict.fromkeys(warning.message.paths))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
