"""Read texts (prompts, text files, JSON lines, columns of tables and of Hugging Face data sets) and batch their tokens."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actratio.errors import DataError, is_panic, short

ARTICLE_PROMPTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Artificial intelligence is transforming the world.",
    "Once upon a time in a faraway land, there was a king.",
    "The stock market crashed yesterday, leading to a significant loss.",
)
"""The four prompts on which the article measured transformers."""


def open_texts(sources: Iterable[str], *, column: str | None = None) -> Iterator[str]:
    """Return the texts of several sources, one source after the other.

    Every source is opened and its first text is read before this returns, so that a wrong path, column or hub id is reported
    before a model is loaded.

    Args:
        sources, column: as for ``read_texts``.

    Raises:
        DataError: as for ``read_texts``; or a column is named, and no source has columns.
    """
    named = list(sources)
    if column is not None and named and all(_is_plain_file(source) for source in named):
        raise DataError(
            f"--column {column} names a column, but {named[0]} is read as one text; omit --column, or give a .csv, .tsv, .parquet or "
            ".jsonl file"
        )
    opened = []
    for source in named:
        texts = read_texts(source, column=column or "text")
        opened.append(itertools.chain(list(itertools.islice(texts, 1)), texts))
    return itertools.chain.from_iterable(opened)


def text_fingerprint(sources: Iterable[str]) -> str:
    """Return 16 hexadecimal digits that change if the content of a file among the sources changes.

    Of a hub data set, they cover the name only.
    """
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{source}\0".encode())
        if Path(source).is_file():
            with Path(source).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def read_texts(source: str, *, column: str = "text") -> Iterator[str]:
    """Yield the texts of a file or a Hugging Face data set.

    Args:
        source: the path of a ``.jsonl`` or ``.ndjson`` file (each line is an object with one text), of a ``.csv``, ``.tsv`` or
            ``.parquet`` table (each row has one text), of any other file (the whole file is one text), or a Hugging Face id,
            ``owner/name`` or ``owner/name@REVISION`` (its split ``train``).
        column: the field or the column that holds the texts. Empty cells are left out.

    Raises:
        DataError: the file does not exist, can't be read, is not UTF-8 or has lines that are not JSON, there is no such
            column, or the hub can't be reached.
    """
    path = Path(source)
    if path.is_file():
        reader = _READERS.get(path.suffix.lower())
        yield from [_read(path)] if reader is None else reader(path, column)
    elif (
        source.partition("@")[0].count("/") == 1
        and not source.startswith((".", "/", "~"))
        and path.suffix.lower() not in _SUFFIXES
    ):
        from actratio.data.hub import stream_column

        yield from stream_column(source, column)
    else:
        raise DataError(
            f"{source or repr(source)} is not a file; pass a text file, a .jsonl, .csv, .tsv or .parquet file, or a Hugging Face id such as owner/name"
        )


def _is_plain_file(source: str) -> bool:
    path = Path(source)
    return path.is_file() and path.suffix.lower() not in _READERS


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
    yield from json_line_texts(_read(path).splitlines(), path, column)


def json_line_texts(lines: Iterable[str | bytes], path: Path | str, column: str, first: int = 1) -> Iterator[str]:
    """Yield the text of each line of JSON that isn't blank.

    Args:
        path: where the lines come from, for errors.
        column: the field with the text.
        first: number of the first line, for errors.

    Raises:
        DataError: a line is not a JSON object, or has no text in the field.
    """
    for number, line in enumerate(lines, start=first):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"line {number} of {path} is not JSON; each line must be one JSON object") from None
        if not isinstance(record, dict) or not isinstance(record.get(column), str):
            raise DataError(f"line {number} of {path} has no text in the field {column!r}; name another with --column")
        yield record[column]


def _table_texts(path: Path, column: str) -> Iterator[str]:
    """Yield the texts of a .csv or .tsv file, a part of it at a time."""
    import pandas as pd

    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    options: dict[str, Any] = {"sep": separator, "dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
    try:
        with pd.read_csv(path, chunksize=_ROWS_AT_ONCE, **options) as parts:
            for part in parts:
                check_column(path, column, list(part.columns))
                yield from (text for text in part[column] if text)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); convert it to UTF-8"
        ) from None
    except (OSError, ValueError) as error:  # pandas' parser errors are value errors
        raise DataError(f"{path} cannot be read as a table ({short(error, 160)}); check the file") from None


def _parquet_texts(path: Path, column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            check_column(path, column, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[column]):
                texts = batch.column(0).to_pylist()
                check_texts(path, column, texts)
                yield from (text for text in texts if text)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as a Parquet table ({short(error, 160)}); check the file") from None


def check_texts(path: Path | str, column: str, values: Iterable[Any]) -> None:
    """Check that the values of a column are texts, or missing.

    Raises:
        DataError: some are something else.
    """
    if not all(value is None or isinstance(value, str) for value in values):
        raise DataError(f"the column {column!r} of {path} does not hold texts; name another with --column")


def check_column(path: Path | str, column: str, columns: Sequence[str]) -> None:
    """Check that a table has a column.

    Raises:
        DataError: it has none of this name.
    """
    if column not in columns:
        raise DataError(
            f"{path} has no column {column!r}; its columns are {', '.join(map(str, columns))}; name another with --column"
        )


_READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".jsonl": _json_texts, ".ndjson": _json_texts, ".csv": _table_texts, ".tsv": _table_texts, ".parquet": _parquet_texts,
}  # fmt: skip
"""Readers of files that hold many texts, by suffix; any other file is one text."""
_SUFFIXES = {*_READERS, ".txt", ".text", ".md", ".json"}
"""Suffixes that a path has and the name of a data set of the hub doesn't, as in data/corpus.txt."""
_ROWS_AT_ONCE = 10_000


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
    try:
        return list(tokenizer(text, truncation=False, verbose=False)["input_ids"])
    except BaseException as error:  # damaged tokenizers fail in many ways, some of them only on some texts
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise DataError(
            f"the tokenizer failed on a text ({type(error).__name__}: {short(error, 160)}); name another with --tokenizer"
        ) from error


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
