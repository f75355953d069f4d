"""The Parquet files of a dataset on the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath

from actratio.errors import DataError, short

_PARQUET_BRANCH = "~parquet"
"""The hub's own conversion of every dataset: ``CONFIGURATION/SPLIT/0000.parquet``."""


def hub_place(source: str) -> str | None:
    """Return the address of a dataset's files, if this is a hub id (``owner/name`` or ``owner/name@REVISION``) and no path.

    >>> hub_place("owner/name"), hub_place("owner/name@v1.0"), hub_place("corpus/*.txt")
    ('hf://datasets/owner/name@~parquet', 'hf://datasets/owner/name@v1.0', None)
    """
    match = re.fullmatch(r"([\w-][\w.-]*)(/[\w-][\w.-]*?)(?:@([\w.-]+))?", source)
    if match is None or os.path.lexists(match[1]):
        return None
    if match[3] is None and PurePosixPath(source).suffix:  # rather a file that is missing
        return None
    return f"hf://datasets/{match[1]}{match[2]}@{match[3] or _PARQUET_BRANCH}"


def hub_files(place: str) -> list[str]:
    """Return the Parquet files of the split ``train``, sorted.

    Args:
        place: as ``hub_place`` returns it.

    Raises:
        DataError: the hub can't be reached, or the dataset has no such files, or several configurations.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(place)
        found = sorted(str(file) for file in system.find(path) if str(file).endswith(".parquet"))
    except Exception as error:  # the hub's client raises many types
        raise DataError(
            f"{place} can't be read from the Hugging Face hub ({type(error).__name__}: {short(error, 160)}); check the name and the network, "
            "or give files"
        ) from None
    inside = [PurePosixPath(file).relative_to(path).parts for file in found]
    train = [number for number, parts in enumerate(inside) if any("train" in part for part in parts[-2:])]
    configurations = list(dict.fromkeys(inside[number][0] for number in train if len(inside[number]) > 2))
    if len(configurations) > 1:
        if "default" not in configurations:
            raise DataError(
                f"{place} has the configurations {', '.join(configurations[:5])}{', …' if len(configurations) > 5 else ''}; give the files of "
                f"one, as in --data '{place}/{configurations[0]}/train/*.parquet'"
            )
        train = [number for number in train if inside[number][0] == "default"]
    if not train:
        raise DataError(
            f"{place} has no Parquet files of a split train; give its files with --data '{place}/….parquet'"
        )
    return [system.unstrip_protocol(found[number]) for number in train]
