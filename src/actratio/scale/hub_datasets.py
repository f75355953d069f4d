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


def hub_files(source: str, place: str) -> list[str]:
    """Return the Parquet files of the split ``train``, sorted.

    Args:
        source: the hub id.
        place: its address, as ``hub_place`` returns it.

    Raises:
        DataError: the hub can't be reached, or the dataset has no such files, or several configurations.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(place)
        found = sorted(str(file) for file in system.find(path) if str(file).endswith(".parquet"))
    except Exception as error:  # the hub's client raises many types
        raise DataError(
            f"{source} names no file, and can't be read as a dataset of the Hugging Face hub ({type(error).__name__}: {short(error, 160)}); "
            "check the name and the network"
        ) from None
    train: dict[str, list[str]] = {}
    for file in found:
        configuration = _configuration_of_train(PurePosixPath(file).relative_to(path).as_posix())
        if configuration is not None:
            train.setdefault(configuration, []).append(system.unstrip_protocol(file))
    if not train:
        raise DataError(
            f"{source} has no Parquet files of a split train; give its files with --data '{place}/….parquet'"
        )
    configuration = next((name for name in ("default", "data", "") if name in train), next(iter(train)))
    if len(train) > 1 and configuration not in ("default", "data", ""):
        raise DataError(
            f"{source} has the configurations {', '.join(list(train)[:5])}{', …' if len(train) > 5 else ''}; give the files of one, as in "
            f"--data '{place}/{configuration}/train*.parquet'"
        )
    return train[configuration]


def _configuration_of_train(file: str) -> str | None:
    """Return the folder around the split ``train`` that a file is of, or ``None`` if it is of another split.

    >>> _configuration_of_train("de/train/0000.parquet"), _configuration_of_train("data/train-00000-of-00002.parquet")
    ('de', 'data')
    >>> _configuration_of_train("data/train_sft-00000-of-00002.parquet")
    """
    match = re.fullmatch(r"(?:(.*)/)?train(?:/[^/]*|(?:-\d+)?(?:-of-\d+)?(?:-[0-9a-f]+)?\.parquet)", file)
    return None if match is None else match[1] or ""
