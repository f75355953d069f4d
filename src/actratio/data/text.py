"""Texts as batches of tokens: prompts, text files, JSON lines, columns of Hugging Face data sets."""

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
"""What the article measured transformers on."""


def read_texts(source: str, *, column: str = "text") -> Iterator[str]:
    """Texts of a ``.jsonl`` file (its field ``column``), of any other file (one text), or of a Hugging Face
    data set (``owner/name``, its split ``train``, its column ``column``).

    Raises:
        DataError: no such file, another encoding, lines that are not JSON, no such column.
    """
    path = Path(source)
    if path.is_file():
        yield from _lines(path, column) if path.suffix in (".jsonl", ".ndjson") else [_whole(path)]
    elif source.count("/") == 1 and not source.startswith((".", "/")):
        from actratio.data.hub import stream_column

        yield from stream_column(source, column)
    else:
        raise DataError(
            f"{source} is not a file; give a text file, a .jsonl file, or a Hugging Face id such as owner/name"
        )


def _whole(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None


def _lines(path: Path, column: str) -> Iterator[str]:
    for number, line in enumerate(_whole(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            raise DataError(f"line {number} of {path} is not JSON; each line must be one object") from None
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
    """Batches of ``input_ids`` and ``attention_mask``, (batch, ≤ length), padded on the right.

    Args:
        tokenizer: a transformers' one, or anything that is called with a text and gives ``input_ids``.
        length: most tokens of a sequence; longer texts are cut into several.
        packed: texts are joined, with the tokenizer's end between them, and cut every ``length`` tokens, so that there is
            padding in the last sequence alone; otherwise each text starts a sequence of its own.
        limit: most tokens over all; the last sequence is cut there.

    Raises:
        DataError: there is not a single token.
    """
    sequences = _limited(_packed(tokenizer, texts, length) if packed else _apart(tokenizer, texts, length), limit)
    empty = True
    while chunk := list(itertools.islice(sequences, batch_size)):
        empty = False
        yield _padded(chunk)
    if empty:
        raise DataError("the texts hold no tokens; give some text")


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, truncation=False, verbose=False)["input_ids"])


def _apart(tokenizer: Any, texts: Iterable[str], length: int) -> Iterator[list[int]]:
    for text in texts:
        ids = _ids(tokenizer, text)
        for start in range(0, len(ids), length):
            yield ids[start : start + length]


def _packed(tokenizer: Any, texts: Iterable[str], length: int) -> Iterator[list[int]]:
    end: int | None = getattr(tokenizer, "eos_token_id", None)
    waiting: list[int] = []
    last = end
    for text in texts:
        ids = _ids(tokenizer, text)
        if not ids:
            continue
        if end is not None and last != end:  # some tokenizers end a text themselves
            waiting.append(end)
        waiting += ids
        last = ids[-1]
        whole = len(waiting) // length * length
        for start in range(0, whole, length):
            yield waiting[start : start + length]
        waiting = waiting[whole:]
    if waiting:
        yield waiting


def _limited(sequences: Iterable[list[int]], limit: int | None) -> Iterator[list[int]]:
    left = limit
    for sequence in sequences:
        if left is None:
            yield sequence
            continue
        if left <= 0:
            return
        yield sequence[:left]
        left -= len(sequence)


def _padded(sequences: Sequence[list[int]]) -> dict[str, Tensor]:
    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return {"input_ids": ids, "attention_mask": mask}
