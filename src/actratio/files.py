"""Read and write files. A file is replaced only when it is complete, so an interrupted run leaves no partial file."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actratio.errors import RunError, short
from actratio.spreadsheets import to_csv

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

MOST_CELLS = 10**8
"""Most cells of a Parquet table that is read; repeated values take no space in the file, but they do in memory."""

_METADATA_KEY = b"actratio"
_SHORT_NAME = 100  # characters, which every file system allows
_TEMPORARY = re.compile(r"\.\d+\.")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name, and move it to ``path`` if the block succeeds.

    >>> with replacing(path) as temporary:      # doctest: +SKIP
    ...     temporary.write_text("content")

    Yields:
        The temporary path, in the same folder and with the same extension.

    Raises:
        RunError: the folder cannot be created.
    """
    make_folder(path.parent)
    # Keep the extension, because some writers choose the format by it.
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    mode = new_file_mode(temporary)
    try:
        yield temporary
        temporary.chmod(mode)  # some writers make files that only their owner can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def new_file_mode(path: Path) -> int:
    """Return the permissions that the process's umask gives to a new file, by making an empty one at ``path``.

    The umask itself can't be read without changing it for all threads.
    """
    path.unlink(missing_ok=True)
    path.touch()
    return stat.S_IMODE(path.stat().st_mode)


def make_folder(path: Path) -> None:
    """Create a folder and those above it, unless it exists.

    Raises:
        RunError: the folder cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_creatable(path, error) from None


def _not_creatable(folder: Path, error: OSError) -> RunError:
    return RunError(f"the folder {folder} cannot be created ({error.strerror}); choose another with --out")


def check_creatable(folder: Path) -> None:
    """Check that a folder exists or can be created.

    Where the first one that is missing would be, another one is created and removed. Its name differs, because another process may be
    creating the folder itself, and filling it.

    Raises:
        RunError: it can't be created.
    """
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    if not missing:
        make_folder(folder)  # refuses a file
        if not os.access(folder, os.W_OK):
            raise RunError(f"the folder {folder} is not writable; choose another with --out")
        return
    first = missing[-1]
    name = f".{os.getpid()}.{first.name}"[
        : max(len(first.name), _SHORT_NAME)
    ]  # not longer than a name that is too long
    tried = first.with_name(name)
    try:
        tried.mkdir(exist_ok=True)
    except OSError as error:
        raise _not_creatable(first, error) from None
    with suppress(OSError):  # an earlier process with this number was killed, and left something in it
        tried.rmdir()


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Create a folder and those above it, unless it exists; if the block fails, remove those that were created and are empty.

    Raises:
        RunError: the folder cannot be created.
    """
    created = [folder for folder in (path, *path.parents) if not folder.exists()]
    make_folder(path)
    try:
        yield
    except BaseException:
        for folder in created:
            with suppress(OSError):
                folder.rmdir()
        raise


def check_no_link(folder: Path) -> None:
    """Raise an error if a folder inside a result's folder is a link: its files would be written elsewhere.

    Raises:
        RunError: it is a link.
    """
    if folder.is_symlink():
        raise RunError(f"{folder} is a link, and results are not written through links; replace it by a folder")


def check_result_folder(folder: Path, marker: str, *, force: bool = False) -> None:
    """Refuse a folder for a result that holds anything, or with ``force`` anything but an earlier result.

    Args:
        marker: name of a file that every earlier result has.

    Raises:
        RunError: the folder holds something else, or an earlier result.
    """
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / marker).is_file())):
        raise RunError(f"{folder} holds something else; choose another folder with --out")
    if (folder / marker).is_file() and not force:
        raise RunError(
            f"{folder} holds an earlier result; choose another folder with --out, or replace it with --force"
        )
    check_creatable(folder)


def is_temporary(name: str) -> bool:
    """Return whether ``name`` is a temporary name of ``replacing``."""
    return _TEMPORARY.match(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a killed process from ``folder`` and its subfolders.

    No other process may write to the folder at the same time.
    """
    for path in [*folder.glob(".*"), *folder.glob("*/.*")]:
        if is_temporary(path.name) and path.is_file() and (path.parent == folder or not path.parent.is_symlink()):
            path.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as indented JSON in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_arrays(path: Path, arrays: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write named tensors as safetensors.

    Raises:
        OSError: the file can't be written, for example because the disk is full.
    """
    from safetensors.torch import save

    content = save(dict(arrays), metadata)  # written by Python, whose errors say why a file can't be written
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_table(path: Path, frame: pd.DataFrame, metadata: dict[str, Any]) -> None:
    """Write a Parquet table, with ``metadata`` as JSON in its schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata(
        {**(table.schema.metadata or {}), _METADATA_KEY: json.dumps(metadata).encode()}
    )
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a CSV with full precision, in which no cell is a formula; see ``spreadsheets``."""
    with replacing(path) as temporary:
        to_csv(frame, temporary)


def read_table(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a table that ``write_table`` wrote, and return the frame and the metadata (empty if there is none).

    Raises:
        RunError: the file cannot be read, or is not a Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            cells = file.metadata.num_rows * file.metadata.num_columns
        if cells > MOST_CELLS:
            raise ValueError(f"it has {cells:,} cells, and at most {MOST_CELLS:,} are read")
        table = pq.read_table(path)
        table.validate(full=True)  # strings that aren't UTF-8 would fail later
        frame = table.to_pandas()
        metadata = json.loads((table.schema.metadata or {}).get(_METADATA_KEY, b"{}"))
        if not isinstance(metadata, dict):
            raise ValueError("its metadata isn't a JSON object")
    except (OSError, pa.ArrowException, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"{path} cannot be read as a Parquet table ({short(error, 200)}); check the file") from None
    return frame, metadata


def frame_checksum(frame: pd.DataFrame) -> str:
    """Return the SHA-256 of a table as ``read_table`` returns it after ``write_table``: names, values, and missing values."""
    import pandas as pd

    digest = hashlib.sha256(json.dumps([len(frame), *map(str, frame.columns)]).encode())
    for name in frame.columns:
        column = frame[name]
        # A column of strings has another type after it was read, but the same strings.
        plain = column if pd.api.types.is_numeric_dtype(column) else column.astype(object).where(column.notna(), None)
        digest.update(pd.util.hash_pandas_object(plain, index=False).to_numpy().tobytes())
    return digest.hexdigest()
