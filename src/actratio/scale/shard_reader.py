"""The texts of one shard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from actratio.data.text import check_column, check_texts, json_line_texts
from actratio.errors import DataError, short
from actratio.scale.manifest import Shard, is_json_lines, is_parquet, open_file


def shard_texts(shard: Shard, column: str) -> list[str]:
    """Return the texts of a shard: its lines together, or the column of its rows.

    Args:
        column: the field or column with the texts; a text file has none.

    Raises:
        DataError: the file can't be read, has changed since the manifest was made, or has no such column.
    """
    try:
        texts = list(_parquet_texts(shard, column) if is_parquet(shard.file) else _line_texts(shard, column))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{_where(shard)} is not UTF-8 text ({error.reason} at byte {shard.start + error.start}); convert it to UTF-8"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a server that sends whole files only
        raise DataError(
            f"{_where(shard)} can't be read ({short(error, 160)}); check the file, or download it"
        ) from None
    return [text for text in texts if text.strip()]


def _where(shard: Shard) -> str:
    return f"{shard.file}, rows {shard.first:,} to {shard.last - 1:,},"


def _check(shard: Shard, fingerprint: str) -> None:
    if fingerprint != shard.fingerprint:
        raise DataError(
            f"{_where(shard)} has changed since the manifest was made; restore the file, or measure in another folder"
        )


def _line_texts(shard: Shard, column: str) -> Iterator[str]:
    with open_file(shard.file) as opened:
        opened.seek(shard.start)
        content: bytes = opened.read(shard.end - shard.start)
    _check(shard, hashlib.sha256(content).hexdigest())
    if not is_json_lines(shard.file):
        yield content.decode("utf-8")
        return
    yield from json_line_texts(content.split(b"\n"), shard.file, column, shard.first + 1)


def _parquet_texts(shard: Shard, column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_file(shard.file) as opened:
        _check(shard, hashlib.file_digest(opened, "sha256").hexdigest())
        opened.seek(0)
        try:
            table = pq.ParquetFile(opened)
            check_column(shard.file, column, table.schema_arrow.names)
            row = 0
            for number in range(table.metadata.num_row_groups):
                size = table.metadata.row_group(number).num_rows
                if shard.first <= row < shard.last:
                    texts = table.read_row_group(number, columns=[column]).column(0).to_pylist()
                    check_texts(shard.file, column, texts)
                    yield from (text for text in texts if text)
                row += size
        except (ValueError, pa.ArrowException) as error:
            raise OSError(str(error)) from None
