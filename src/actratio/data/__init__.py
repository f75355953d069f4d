"""Data sets by name, by file or by hub id, as arrays.

To add one: a function that returns a ``Dataset``, and its line in ``BUILTIN``.
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
from actratio.data.tables import load_banking77, load_csv, load_letter
from actratio.errors import DataError, short

__all__ = ["BUILTIN", "Builtin", "Dataset", "data_folder", "load_dataset"]

_LONGEST = 120  # characters of a name that an error repeats


@dataclass(frozen=True)
class Builtin:
    """A data set that has a name here: what it is, where it is read from, how, and whether it looks for a folder."""

    description: str
    where: str
    load: Callable[[Path | None], Dataset]
    in_folder: bool = True


def _idx(name: str) -> Builtin:
    source = IDX_SOURCES[name]
    where = f"{source.folders[0]}/ or {source.folders[1]}/ (IDX)" + (
        f", else the hub: {source.hub}" if source.hub else ""
    )
    return Builtin(source.description, where, lambda data_dir: load_images(name, data_dir))


BUILTIN: dict[str, Builtin] = {
    "digits": Builtin(
        "handwritten digits, 8×8, scikit-learn's", "comes with scikit-learn", lambda _: load_digits(), False
    ),
    **{name: _idx(name) for name in IDX_SOURCES},
    "letter": Builtin("UCI Letter Recognition, 16 numbers, 26 classes", "letter/letter-recognition.data", load_letter),
    "banking77": Builtin(
        "BANKING77, short texts as TF-IDF, 77 classes", "banking77/train.csv and test.csv", load_banking77
    ),
}


def data_folder(given: Path | None) -> Path | None:
    """The folder of data sets: the one given, else ``$ACTRATIO_DATA``, else none.

    Raises:
        DataError: it is named but does not exist.
    """
    folder = given or (Path(os.environ["ACTRATIO_DATA"]) if os.environ.get("ACTRATIO_DATA") else None)
    if folder is not None and not _exists(folder.is_dir):
        raise DataError(
            f"the data folder {short(folder, _LONGEST)} does not exist; give one that does with --data-dir or $ACTRATIO_DATA"
        )
    return folder


def _exists(test: Callable[[], bool]) -> bool:
    """``Path.is_file`` or ``is_dir``, where a name too long for the file system does not exist."""
    try:
        return test()
    except OSError:
        return False


def load_dataset(name: str, data_dir: Path | None = None, *, label: str | None = None) -> Dataset:
    """Load ``name``: one of ``BUILTIN``, the path of a CSV file, or a Hugging Face id (``owner/name``).

    Args:
        data_dir: the folder of data sets; default ``$ACTRATIO_DATA``.
        label: the label's column, for a CSV or a hub data set whose column has no usual name; the others have theirs.

    Raises:
        DataError: unknown name, missing or damaged files, no network.
    """
    if name in BUILTIN:
        known = BUILTIN[name]
        # A folder of the environment is for those that look for one; one that was given must always exist.
        return known.load(data_folder(data_dir) if known.in_folder or data_dir is not None else None)
    if name.lower().endswith(".csv") or _exists(Path(name).is_file):
        return load_csv(Path(name), label)
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return load_hub(name, label=label)
    raise DataError(
        f"there is no data set {short(name, _LONGEST)!r}; write one of {', '.join(BUILTIN)}, the path of a .csv file, or a Hugging Face id such as owner/name"
    )
