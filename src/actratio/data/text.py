"""Read texts (prompts, text files, JSON lines, columns of Hugging Face data sets) and batch their tokens."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actratio.errors import DataError

ARTICLE_PROMPTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Artificial intelligence is transforming the world.",
    "Once upon a time in a faraway land, there was a king.",
    "The stock market crashed yesterday, leading to a significant loss.",
)
"""The four prompts on which the article measured transformers."""


def read_texts(source: str, *, column: str = "text") -> Iterator[str]:
    """Yield the texts of a file or a Hugging Face data set.

    Args:
        source: the path of a ``.jsonl`` or ``.ndjson`` file (each line is an object with one text), the path of any
            other file (the whole file is one text), or a Hugging Face id, ``owner/name`` (its split ``train``).
        column: the field or the column that holds the texts.

    Raises:
        DataError: the file does not exist, is not UTF-8 or has lines that are not JSON, there is no such column, or
            the hub can't be reached.
    """
    path = Path(source)
    if path.is_file():
        yield from _json_texts(path, column) if path.suffix in (".jsonl", ".ndjson") else [_read(path)]
    elif source.count("/") == 1 and not source.startswith((".", "/")):
        from actratio.data.hub import stream_column

        yield from stream_column(source, column)
    else:
        raise DataError(
            f"{source} is not a file; pass a text file, a .jsonl file, or a Hugging Face id such as owner/name"
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); convert it to UTF-8"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the file") from None


def _json_texts(path: Path, column: str) -> Iterator[str]:
    for number, line in enumerate(_read(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            raise DataError(f"line {number} of {path} is not JSON; each line must be one JSON object") from None
        if not isinstance(record, dict) or not isinstance(record.get(column), str):
            raise DataError(f"line {number} of {path} has no text in the field {column!r}; name another with --column")
        yield record[column]


def token_batches(
    tokenizer: Any,
    texts: Iterable[str],
    *,
    length: int,
    batch_size: int,
    packed: bool = True,
    limit: int | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Yield batches of ``input_ids`` and ``attention_mask``, int64, shape (batch, longest sequence), padded on the right.

    Args:
        tokenizer: a tokenizer of transformers, or any callable that returns ``{"input_ids": [...]}`` for a text.
        texts: the texts.
        length: maximum number of tokens in a sequence; longer texts are split into several sequences.
        batch_size: number of sequences in a batch; the last batch may be smaller.
        packed: if true, join the texts with the tokenizer's end-of-sequence token and split them every ``length``
            tokens, so that only the last sequence is padded; if false, start a new sequence for each text.
        limit: maximum number of tokens in total; the last sequence is cut to it.

    Raises:
        DataError: the texts have no tokens.
    """
    sequences = _pack(tokenizer, texts, length) if packed else _split(tokenizer, texts, length)
    sequences = _limit_tokens(sequences, limit)
    empty = True
    while batch := list(itertools.islice(sequences, batch_size)):
        empty = False
        yield _pad(batch)
    if empty:
        raise DataError("the texts have no tokens; pass texts that are not empty")


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, truncation=False, verbose=False)["input_ids"])


def _split(tokenizer: Any, texts: Iterable[str], length: int) -> Iterator[list[int]]:
    """Yield sequences of at most ``length`` tokens; each text starts a new sequence."""
    for text in texts:
        ids = _ids(tokenizer, text)
        for start in range(0, len(ids), length):
            yield ids[start : start + length]


def _pack(tokenizer: Any, texts: Iterable[str], length: int) -> Iterator[list[int]]:
    """Yield sequences of ``length`` tokens from the joined texts; the last one may be shorter."""
    end: int | None = getattr(tokenizer, "eos_token_id", None)
    pending: list[int] = []
    last = end
    for text in texts:
        ids = _ids(tokenizer, text)
        if not ids:
            continue
        if end is not None and last != end:  # some tokenizers add the end-of-sequence token themselves
            pending.append(end)
        pending += ids
        last = ids[-1]
        complete = len(pending) // length * length
        for start in range(0, complete, length):
            yield pending[start : start + length]
        pending = pending[complete:]
    if pending:
        yield pending


def _limit_tokens(sequences: Iterable[list[int]], limit: int | None) -> Iterator[list[int]]:
    """Yield sequences until there are ``limit`` tokens, and cut the last one to fit."""
    remaining = limit
    for sequence in sequences:
        if remaining is None:
            yield sequence
            continue
        if remaining <= 0:
            return
        yield sequence[:remaining]
        remaining -= len(sequence)


def _pad(sequences: Sequence[list[int]]) -> dict[str, Tensor]:
    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return {"input_ids": ids, "attention_mask": mask}
