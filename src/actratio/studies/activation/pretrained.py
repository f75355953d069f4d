"""Interventions on a pretrained model, on text of its own kind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actratio.data.antibodies import CONDITIONS, has_antibody_tokens, published_antibodies, sample_antibodies
from actratio.errors import DataError
from actratio.sites.mlps import resolve
from actratio.sparse.text import next_token_logits
from actratio.studies.activation.intervening import intervene, plan_interventions
from actratio.studies.activation.scoring import (
    LanguageScorer,
    Scorer,
    SentenceScorer,
    fit_probe,
    sentence_embeddings,
)
from actratio.studies.base import Arrays, Checkpoint

TEXTS = ("BANKING77", "text", "own samples", "published domains")
"""Kinds of documents; the array ``text`` holds the index of each document's kind."""

_BLOCK = 128  # tokens of a block of text
_MOST_BLOCKS, _MOST_SAMPLES = 40, 120  # documents of language models, which are longer than BANKING77's
_SAMPLE_SEED = 0


@dataclass(frozen=True)
class Reading:
    """What the models read.

    Attributes:
        text: the text of causal language models.
        data_dir: folder with BANKING77, which encoders of sentences read.
        documents: number of documents of an encoder; causal language models read fewer, longer ones.
    """

    text: str
    data_dir: Path | None
    documents: int


def run_pretrained(name: str, reading: Reading, checkpoint: Checkpoint, revision: str | None = None) -> Arrays:
    """Return the scores of every intervention on a model, as ``intervene`` does, and the kind of each document, ``text``.

    Args:
        revision: of a model of the hub.

    Raises:
        ActratioError: the model or its text can't be loaded, or its neurons can't be told from its modules.
    """
    from actratio.models import load_model, load_tokenizer, revision_of

    revision = revision_of(name, revision)
    model = load_model(name, dtype="fp32", device="cpu", revision=revision)
    mlps = resolve(model)
    scorer, kinds = make_scorer(model, load_tokenizer(name, revision=revision), reading)
    share = 1 / len(plan_interventions([mlp.site.layer for mlp in mlps]))

    def after_each(arrays: Arrays) -> None:
        checkpoint.save(lambda: arrays)
        checkpoint.advance(share)

    done = checkpoint.load()
    if done is not None:
        checkpoint.advance(share * (len(done["layer"]) - 1))
    return {**intervene(mlps, scorer, done, after_each), "text": kinds}


def make_scorer(model: nn.Module, tokenizer: Any, reading: Reading) -> tuple[Scorer, Tensor]:
    """Return the scorer of a model on text of its own kind, and the kind of each document, (documents,).

    Raises:
        DataError: there is too little text.
    """
    if has_antibody_tokens(tokenizer):
        count = min(reading.documents, _MOST_SAMPLES)
        sampled = _tensors(sample_antibodies(model, tokenizer, count + -(-count // 3), _SAMPLE_SEED))
        published = _tensors(published_antibodies(tokenizer))
        logits = partial(_logits, model)
        scorer = LanguageScorer(logits, [*sampled[:count], *published], sampled[count:], CONDITIONS)
        return scorer, torch.tensor([2] * count + [3] * len(published))
    if type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        count = min(reading.documents, _MOST_BLOCKS)
        documents, calibration = text_blocks(tokenizer, reading.text, count, -(-2 * count // 5))
        return LanguageScorer(partial(_logits, model), documents, calibration, 1), torch.full((count,), 1)
    return _sentence_scorer(model, tokenizer, reading), torch.zeros(reading.documents, dtype=torch.int64)


def text_blocks(tokenizer: Any, text: str, count: int, more: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return ``count`` blocks of 128 tokens, evenly spaced in a text, and ``more`` blocks from between them.

    Raises:
        DataError: the text has too few tokens.
    """
    ids = torch.tensor(tokenizer(text, truncation=False, verbose=False)["input_ids"])
    blocks = ids[: len(ids) // _BLOCK * _BLOCK].view(-1, _BLOCK)
    if len(blocks) < count + more:
        raise DataError(
            f"the text has {len(blocks)} blocks of {_BLOCK} tokens, and {count + more} are needed; give more text with --text, "
            "or fewer --documents"
        )
    chosen = [position * len(blocks) // (count + more) for position in range(count + more)]
    every = [position * (count + more) // more for position in range(more)]
    rest = [index for position, index in enumerate(chosen) if position not in every]
    return list(blocks[rest]), list(blocks[[chosen[position] for position in every]])


def _sentence_scorer(model: nn.Module, tokenizer: Any, reading: Reading) -> SentenceScorer:
    from actratio.data.tables import read_banking77

    train, test = read_banking77(reading.data_dir)
    names = sorted(train["category"].unique())
    fitted = _evenly_spaced(len(train), reading.documents * 20 // 3)
    scored = _evenly_spaced(len(test), reading.documents)

    def documents(frame: Any, rows: list[int]) -> tuple[list[Tensor], Tensor]:
        chosen = frame.iloc[rows]
        ids = [tokenizer(text, truncation=True)["input_ids"] for text in chosen["text"]]
        return _tensors(ids), torch.tensor([names.index(label) for label in chosen["category"]])

    texts, labels = documents(train, fitted)
    calibration = [texts[position] for position in _evenly_spaced(len(texts), reading.documents * 2 // 3)]
    probe = fit_probe(sentence_embeddings(model, texts), labels)
    return SentenceScorer(model, probe, *documents(test, scored), calibration)


def _evenly_spaced(length: int, count: int) -> list[int]:
    if count > length:
        raise DataError(f"BANKING77 has {length} texts in a split, and {count} are needed; use fewer --documents")
    return [position * length // count for position in range(count)]


def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    return next_token_logits(model, {"input_ids": ids})


def _tensors(rows: list[list[int]]) -> list[Tensor]:
    return [torch.tensor(row) for row in rows]
