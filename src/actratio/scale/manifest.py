"""A corpus as a list of shards that is fixed before anything is measured.

A shard is a range of rows of one file: lines of a text or of JSON lines, rows of a Parquet table. It is measured by itself, with batches that
depend on nothing else, so the counts don't depend on who measures which shard, or in which order.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from actratio.checksums import with_checksum, without_checksum
from actratio.errors import DataError, RunError, short
from actratio.files import write_json
from actratio.scale.hub_datasets import hub_files, hub_place

_FORMAT = 1
_PARQUET = ".parquet"
_JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")
_TEXT = (".txt", ".text", ".md")
_NO_LINES = re.compile(
    r".*\.(csv|tsv|json|arrow|feather|orc|avro|gz|bz2|xz|zst|zip|tar|tgz|7z|safetensors|gguf|bin|pt|pth|npy|npz|pkl|h5|pdf|docx|html|xml|db|xlsx)",
    re.IGNORECASE | re.DOTALL,
)
"""Names of files that would be read as lines of text, and are something else."""


@dataclass(frozen=True)
class Shard:
    """A range of rows of one file.

    Attributes:
        name: unique in the manifest, and in the order of the corpus.
        file: path or URL.
        first, last: the rows, from 0; ``last`` is not among them.
        start, end: the same range in bytes of a text file; 0 and 0 for Parquet.
        fingerprint: SHA-256 of these bytes, or of the whole Parquet file.
    """

    name: str
    file: str
    first: int
    last: int
    start: int
    end: int
    fingerprint: str

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.last - self.first


@dataclass(frozen=True)
class Manifest:
    """The shards of a corpus, in order."""

    shards: tuple[Shard, ...]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change if any row of the corpus changes, or where it is cut."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(f"{shard.first}\0{shard.last}\0{shard.fingerprint}\0".encode())
        return digest.hexdigest()[:16]

    def part(self, index: int, count: int) -> tuple[Shard, ...]:
        """Return every ``count``-th shard, from number ``index``: what one of ``count`` processes measures."""
        return self.shards[index::count]

    def save(self, path: Path) -> None:
        """Write the manifest as JSON."""
        write_json(path, with_checksum({"format": _FORMAT, "shards": [asdict(shard) for shard in self.shards]}))

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest that ``save`` wrote.

        Raises:
            RunError: the file is missing or damaged.
        """
        try:
            content = without_checksum(json.loads(path.read_text(encoding="utf-8")))
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is {short(content['format'])}, and this version reads {_FORMAT}")
            return cls(tuple(_checked(item) for item in content["shards"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunError(
                f"{path} can't be read as a manifest ({short(error, 160)}); remove the folder and measure again"
            ) from None


def _checked(item: Mapping[str, Any]) -> Shard:
    shard = Shard(**item)
    texts, numbers = (shard.name, shard.file, shard.fingerprint), (shard.first, shard.last, shard.start, shard.end)
    if not (
        all(isinstance(text, str) for text in texts) and all(type(number) is int and number >= 0 for number in numbers)
    ):
        raise ValueError(f"a shard is {item}")
    if not re.fullmatch("[0-9]+", shard.name):  # results are written under this name
        raise ValueError(f"a shard has the name {short(shard.name)!r}")
    return shard


def make_manifest(sources: Sequence[str], *, rows: int) -> Manifest:
    """Cut a corpus into shards; every file is read once.

    Args:
        sources: files, folders (all files in them with a known suffix, by name), patterns with ``*``, URLs that ``fsspec`` opens,
            or datasets of the Hugging Face hub (``owner/name``, ``owner/name@REVISION``).
        rows: most rows of a shard. Row groups of Parquet files are kept together.

    Raises:
        DataError: a source doesn't exist, can't be read or has no rows.
    """
    files = _all_files(sources)
    cuts = [(file, cut) for file in files for cut in _cuts(file, rows)]
    if not cuts:
        raise DataError(f"{', '.join(sources)} has no rows; give files that are not empty")
    digits = len(str(len(cuts) - 1))
    return Manifest(tuple(Shard(f"{number:0{digits}}", file, *cut) for number, (file, cut) in enumerate(cuts)))


def check_files(manifest: Manifest, sources: Sequence[str]) -> None:
    """Check that a manifest names only files that the sources name: one from elsewhere could name any file or address.

    Raises:
        RunError: it names another.
    """
    import fsspec

    places = [place for source in sources if (place := hub_place(source)) is not None]
    for source in sources:  # a folder that was moved away may look like a dataset of the hub
        system, path = fsspec.core.url_to_fs(source)
        places.append((system.unstrip_protocol(path) if _is_remote(source) else os.path.normpath(path)).rstrip("/"))
    for file in {shard.file: None for shard in manifest.shards}:
        inside = ".." not in PurePosixPath(file).parts and "\0" not in file
        if not any(
            file == place
            or (inside and file.startswith(f"{place}/"))
            or (inside and "*" in place and file.startswith(place.partition("*")[0]))
            for place in places
        ):
            raise RunError(
                f"the shards name the file {short(file, 200)}, which {', '.join(sources)} does not; choose another folder with --out, "
                "or run the command in the folder where it was started"
            )


def _is_remote(source: str) -> bool:
    return "://" in source and not source.startswith("file://")


def later_files(sources: Sequence[str], manifest: Manifest) -> list[str]:
    """Return the files that have rows after those of the manifest: new files, and text files on this machine that grew."""
    ends = {shard.file: shard.end for shard in manifest.shards}
    files: dict[str, None] = {}
    for source in sources:
        with contextlib.suppress(DataError):  # its files are gone, which each shard reports
            files.update(dict.fromkeys(_files(source)))

    def is_later(file: str) -> bool:
        if file in ends:
            return not is_parquet(file) and os.path.isfile(file) and os.path.getsize(file) > ends[file]
        try:
            return next(_cuts(file, rows=1), None) is not None
        except DataError:  # it can't be read, but it's there
            return True

    return [file for file in files if is_later(file)]


def _all_files(sources: Sequence[str]) -> list[str]:
    files: dict[str, None] = {}
    for source in sources:
        for file in _files(source):
            if file in files:
                raise DataError(f"{file} is given twice; name each file once")
            if not file.isprintable():
                raise DataError(f"the name of {file} has characters that can't be printed; rename the file")
            files[file] = None
    return list(files)


Cut = tuple[int, int, int, int, str]
"""First row and last, first byte and last, and the fingerprint of a shard."""


def _files(source: str) -> list[str]:
    """Return the files that a source names, sorted."""
    import fsspec
    import fsspec.implementations.local

    known = (*_TEXT, *_JSON_LINES, _PARQUET)
    place = hub_place(source)
    if place is not None:
        return hub_files(source, place)
    if "::" in source:
        raise DataError(f"{source} is a file inside another; extract it, and give the file")
    try:
        system, path = fsspec.core.url_to_fs(source)
        if "*" in source:
            found = sorted(system.glob(path))
        elif system.isdir(path):
            found = [file for file in sorted(system.find(path)) if _name(file).endswith(known)]
        else:
            found = [path] if system.exists(path) else []
        if isinstance(system, fsspec.implementations.local.LocalFileSystem):
            # A pipe would be waited for, and a device may have no end.
            found = [os.path.normpath(file) for file in found if os.path.isfile(file)]
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{source} can't be opened ({short(error, 160)}); check the address") from None
    if not found:
        raise DataError(
            f"{source} names no file; give a file, a folder with {', '.join(known)} files, a pattern, a URL or a Hugging Face dataset (owner/name)"
        )
    other = next((file for file in found if _NO_LINES.fullmatch(_name(file))), None)
    if other is not None:
        raise DataError(
            f"{other} has no lines of text; give {', '.join(known)} files, and convert others to JSON lines or Parquet"
        )
    return [system.unstrip_protocol(file) if _is_remote(source) else file for file in found]


def _cuts(file: str, rows: int) -> Iterator[Cut]:
    try:
        with open_file(file) as opened:
            yield from _parquet_cuts(opened, rows) if is_parquet(file) else _line_cuts(opened, rows)
    except (OSError, ValueError) as error:  # ValueError: a server that sends whole files only
        raise DataError(f"{file} can't be read ({short(error, 160)}); check the file") from None


def _line_cuts(opened: Iterable[bytes], rows: int) -> Iterator[Cut]:
    first = start = row = place = 0
    digest = hashlib.sha256()
    for line in opened:
        digest.update(line)
        row, place = row + 1, place + len(line)
        if row - first == rows:
            yield first, row, start, place, digest.hexdigest()
            first, start, digest = row, place, hashlib.sha256()
    if row > first:
        yield first, row, start, place, digest.hexdigest()


def _parquet_cuts(opened: Any, rows: int) -> Iterator[Cut]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fingerprint = hashlib.file_digest(opened, "sha256").hexdigest()
    opened.seek(0)
    try:
        groups = pq.ParquetFile(opened).metadata
        sizes = [groups.row_group(number).num_rows for number in range(groups.num_row_groups)]
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise OSError(str(error)) from None
    first = row = 0
    for number, size in enumerate(sizes):
        row += size
        is_last = number == len(sizes) - 1
        if row > first and (is_last or row + sizes[number + 1] - first > rows):
            yield first, row, 0, 0, fingerprint
            first = row


def is_parquet(file: str) -> bool:
    """Return whether a file is a Parquet table, by its name."""
    return _name(file).endswith(_PARQUET)


def is_json_lines(file: str) -> bool:
    """Return whether each line of a file is a JSON object, by its name."""
    return _name(file).endswith(_JSON_LINES)


def _name(file: str) -> str:
    """Return the last part of a path or of a URL, in lower case."""
    return PurePosixPath(re.sub(r"[?#].*", "", file) if _is_remote(file) else file).name.lower()


def open_file(file: str) -> Any:
    """Open a path or a URL for reading bytes."""
    import fsspec

    return fsspec.open(file, "rb").open()
