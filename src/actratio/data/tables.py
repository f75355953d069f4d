"""Load tables with a label column: numbers are standardised, and texts become TF-IDF vectors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import numpy as np

from actratio.data.dataset import HELD_OUT_SHARE, Dataset
from actratio.errors import DataError, short

if TYPE_CHECKING:
    import pandas as pd

LABEL_NAMES = ("label", "labels", "class", "target", "category", "intent", "y")
"""Usual names of a label column. The first match is used, so in a table with ``x``, ``y`` and ``label`` it is ``label``."""

MOST_UNPACKED = 4 * 2**30
"""Most bytes of a compressed table after unpacking; a small file can be made that unpacks to any size."""

_MAX_WORDS = 4096  # TF-IDF features; the most frequent words are kept
_MAX_NAME_SHOWN = 120  # characters of a path that an error message shows
_MAX_REASON_SHOWN = 160  # characters of another library's message that an error message shows


def load_letter(data_dir: Path | None) -> Dataset:
    """Load UCI Letter Recognition: 16 features and 26 classes.

    The first 16,000 rows are for training and the last 4,000 are held out, as is customary for this data set.

    Raises:
        DataError: the file is missing, damaged, or has a different number of rows.
    """
    path = _find_file("letter", data_dir, ("letter/letter-recognition.data", "letter-recognition.data"))
    frame = read_csv(path)
    if "Letter" not in frame.columns:  # the original file from UCI has no header
        frame = read_csv(path, header=None)
        frame.columns = ["Letter", *(str(column) for column in frame.columns[1:])]
    if len(frame) != 20_000:
        raise DataError(f"{path} has {len(frame)} rows, but Letter Recognition has 20,000; download the complete file")
    return encode("letter", frame[:16_000], frame[16_000:], "Letter", f"CSV {path}")


def load_banking77(data_dir: Path | None) -> Dataset:
    """Load BANKING77: short texts with 77 intents, as TF-IDF vectors.

    Raises:
        DataError: a file is missing or damaged.
    """
    train, test = read_banking77(data_dir)
    return encode("banking77", train, test, "category", f"CSV files in {data_dir and data_dir / 'banking77'}")


def read_banking77(data_dir: Path | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the training rows and the held-out rows of BANKING77, with the columns ``text`` and ``category``.

    Raises:
        DataError: a file is missing or damaged.
    """
    paths = [_find_file("banking77", data_dir, (f"banking77/{split}.csv",)) for split in ("train", "test")]
    train, test = (_join_broken_rows(read_csv(path)) for path in paths)
    return train, test


def _join_broken_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Join the rows of BANKING77 that were broken by a line break inside a text.

    Three training texts end in a line break. In copies of the file without quotes around these texts, each of them
    takes two rows: the text without a label, then the label with a full stop or nothing. Other rows don't change.
    """
    if not {"text", "category"} <= set(frame.columns) or frame["category"].notna().all():
        return frame
    is_second_half = frame["category"].notna() & ~frame["text"].astype("str").where(
        frame["text"].notna(), ""
    ).str.contains(r"\w")
    is_first_half = frame["category"].isna() & frame["text"].notna() & is_second_half.shift(-1, fill_value=False)
    labelled = frame.assign(category=frame["category"].where(~is_first_half, frame["category"].shift(-1)))
    return labelled[~is_first_half.shift(1, fill_value=False)]


def load_csv(path: Path, label: str | None) -> Dataset:
    """Load a CSV with a header and a label column, and hold out a fifth of its rows, stratified by label.

    Args:
        path: the file, plain or compressed.
        label: the label column; by default the first of ``LABEL_NAMES`` that exists, in any case.

    Raises:
        DataError: the file is missing or damaged, or can't be used for classification.
    """
    if not os.path.isfile(path):  # also false if the path is too long for the file system
        raise DataError(
            f"{short(path, _MAX_NAME_SHOWN)} is not a file; pass the path of a CSV with a header and a label column"
        )
    frame = read_csv(path)
    by_name = {str(name).lower(): name for name in reversed(frame.columns)}
    column = label or next((by_name[name] for name in LABEL_NAMES if name in by_name), None)
    if column is None or column not in frame.columns:
        missing = f"no column {label!r}" if label else f"no column named {', '.join(LABEL_NAMES)}"
        raise DataError(
            f"{path} has {missing}; its columns are {_list_columns(frame.columns)}, so name the label column with --label"
        )
    train, val = hold_out(str(path), frame, column)
    return encode(str(path), train, val, column, f"CSV {path}")


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """Read a CSV with pandas; ``options`` are those of ``pandas.read_csv``.

    Raises:
        DataError: the file can't be read as CSV.
    """
    import pandas as pd

    try:
        _check_unpacked_size(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            # Don't use the first column as an index, and read the file in one piece so that each column has one dtype.
            return pd.read_csv(path, index_col=False, low_memory=False, **options)
    except DataError:
        raise
    except pd.errors.ParserWarning:
        raise DataError(
            f"{path} has rows with more values than its header; give each row one value per column"
        ) from None
    except Exception as error:  # pandas and its decompressors raise many types of exceptions
        raise DataError(
            f"{path} cannot be read as CSV ({short(error, _MAX_REASON_SHOWN)}); save it as comma-separated UTF-8 text"
        ) from None


def _check_unpacked_size(path: Path) -> None:
    """Check that a compressed file isn't far larger than it looks, by unpacking it without keeping anything.

    Raises:
        DataError: it has more than ``MOST_UNPACKED`` bytes.
    """
    from pandas.io.common import infer_compression

    kind = infer_compression(path, "infer")
    size = 0
    for part in () if kind is None else _unpacked(path, kind):
        size += len(part)
        if size > MOST_UNPACKED:
            raise DataError(
                f"{path} has more than {MOST_UNPACKED:,} bytes when it is unpacked; unpack it yourself if that is right"
            )


def _unpacked(path: Path, kind: str) -> Iterator[bytes]:
    """Yield the content of a compressed file, a mebibyte at a time."""
    from pandas.io.common import get_handle

    if kind == "zip":  # pandas would unpack all of it at once
        with ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    yield from iter(lambda member=member: member.read(1 << 20), b"")  # type: ignore[misc]
        return
    with get_handle(path, "rb", compression=kind, is_text=False) as opened:
        file: Any = opened.handle
        yield from iter(lambda: file.read(1 << 20), b"")


def hold_out(name: str, frame: pd.DataFrame, label: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split a table into training rows and held-out rows, which are a fifth and the same every time.

    The split is stratified if every class has at least two rows and the held-out part has room for every class.

    Raises:
        DataError: there are fewer than two rows, or labels are missing.
    """
    from sklearn.model_selection import train_test_split

    if len(frame) < 2:
        raise DataError(f"{name} has {len(frame)} rows; it needs at least two, because one is held out")
    _require_labels(name, frame, label)
    counts = frame[label].value_counts()
    stratify = frame[label] if counts.min() >= 2 and len(counts) <= HELD_OUT_SHARE * len(frame) else None
    train, val = train_test_split(frame, test_size=HELD_OUT_SHARE, random_state=0, stratify=stratify)
    return train, val


def encode(name: str, train: pd.DataFrame, val: pd.DataFrame, label: str, source: str) -> Dataset:
    """Convert a training table and a held-out table to arrays.

    Numeric columns are standardised with the mean and the standard deviation of the training split. Text columns
    become TF-IDF vectors, fitted on the training split.

    Args:
        name: the name of the data set.
        train, val: the two tables.
        label: the label column.
        source: where the data came from, for users to read.

    Raises:
        DataError: labels are missing, a held-out label does not occur in training, or a column mixes numbers and
            text or holds neither.
    """
    import pandas as pd
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import StandardScaler

    classes, y_train, y_val = encode_labels(name, train, val, label)
    columns = [column for column in train.columns if column != label]
    if not columns:
        raise DataError(f"{name} has no column except the label {label!r}; it needs at least one feature")
    missing = [column for column in columns if column not in val.columns]
    if missing:
        raise DataError(
            f"{name}: the held-out table has no column {_list_columns(missing)}; both tables need the same columns"
        )
    number_columns = [column for column in columns if pd.api.types.is_numeric_dtype(train[column])]  # and booleans
    text_columns = [column for column in columns if column not in number_columns]
    x_train: list[np.ndarray] = []
    x_val: list[np.ndarray] = []
    for column in text_columns:
        _require_text(name, train[column], column)
        _require_text(name, val[column], column)
        # By default, words have at least two characters. If the column has no such words, use single characters.
        has_words = train[column].str.contains(r"\w\w").any()
        pattern = r"(?u)\b\w\w+\b" if has_words else r"(?u)\b\w\b"
        vectorizer = TfidfVectorizer(max_features=_MAX_WORDS, dtype=np.float32, token_pattern=pattern)
        try:
            x_train.append(vectorizer.fit_transform(train[column]).toarray())
        except ValueError:
            raise DataError(f"{name}: column {column!r} holds texts without words; remove the column") from None
        x_val.append(vectorizer.transform(val[column]).toarray())
    if number_columns:
        scaler = StandardScaler()
        arrays = []
        for frame in (train, val):
            try:
                array = frame[number_columns].to_numpy(dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"{name} has features that are not numbers ({short(error, _MAX_REASON_SHOWN)}); "
                    "every value must be a number"
                ) from None
            if not np.isfinite(array).all():
                invalid = next(
                    column
                    for column in number_columns
                    if not np.isfinite(frame[column].to_numpy(dtype=np.float64)).all()
                )
                raise DataError(
                    f"{name}: column {invalid!r} has missing or infinite values; every feature must be a finite number"
                )
            arrays.append(array)
        with np.errstate(over="ignore", invalid="ignore"):  # Dataset checks that all values are finite
            x_train.append(scaler.fit_transform(arrays[0]).astype(np.float32))
            x_val.append(scaler.transform(arrays[1]).astype(np.float32))
    return Dataset(
        name,
        np.ascontiguousarray(np.hstack(x_train)),
        y_train,
        np.ascontiguousarray(np.hstack(x_val)),
        y_val,
        classes,
        source,
    )


def encode_labels(name: str, train: pd.DataFrame, val: pd.DataFrame, label: str) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the number of classes, and the classes of the training rows and of the held-out rows.

    Classes are numbered from 0, in numerical order if all labels are numbers and in alphabetical order otherwise.

    Raises:
        DataError: labels are missing, a held-out label does not occur in training, or there is only one class.
    """
    import pandas as pd

    for split, frame in (("training", train), ("held-out", val)):
        if len(frame) == 0:
            raise DataError(f"{name}: the {split} split has no examples; it needs at least one")
        _require_labels(name, frame, label)
    train_labels, val_labels = train[label], val[label]
    if not (pd.api.types.is_numeric_dtype(train_labels) and pd.api.types.is_numeric_dtype(val_labels)):
        train_labels, val_labels = train_labels.astype(str), val_labels.astype(str)
    classes, y_train = np.unique(train_labels.to_numpy(), return_inverse=True)
    class_of = {value: index for index, value in enumerate(classes)}
    unknown = sorted(set(val_labels) - set(class_of))
    if unknown:
        raise DataError(
            f"{name}: the held-out split has the label {short(unknown[0])!r}, which no training row has; "
            "every class must be in both splits"
        )
    if len(classes) < 2:
        raise DataError(
            f"{name}: column {label!r} has a single value, {short(classes[0])!r}; classification needs at least two classes"
        )
    y_val = np.array([class_of[value] for value in val_labels])
    return len(classes), y_train.astype(np.int64), y_val.astype(np.int64)


def _require_labels(name: str, frame: pd.DataFrame, label: str) -> None:
    import pandas as pd

    if label not in frame.columns:
        raise DataError(
            f"{name} has no column {label!r}; its columns are {_list_columns(frame.columns)}, so check the file or name "
            "the label column with --label"
        )
    if frame[label].isna().any():
        raise DataError(
            f"{name} has rows without a label in column {label!r} (empty, or read as missing, such as NA or None); "
            "every row needs a label"
        )
    if not frame[label].map(pd.api.types.is_scalar).all():
        raise DataError(f"{name}: column {label!r} holds lists or records; each label must be one number or word")


def _require_text(name: str, column: pd.Series, title: object) -> None:
    """Raise an error unless all values are texts; more numbers than words means that the words are a mistake."""
    import pandas as pd

    if column.isna().any():
        raise DataError(f"{name}: column {title!r} has missing texts; every row needs a text")
    if not column.map(lambda value: isinstance(value, str)).all():
        raise DataError(f"{name}: column {title!r} is neither numbers nor text; convert it to one of them")
    numeric = pd.to_numeric(column, errors="coerce").notna()
    if numeric.mean() > 0.5:
        example = column[~numeric].iloc[0] if (~numeric).any() else column.iloc[0]
        raise DataError(
            f"{name}: column {title!r} has features that are not numbers, such as {short(example)!r}; "
            "every value must be a number"
        )


def _find_file(name: str, data_dir: Path | None, relative: tuple[str, ...]) -> Path:
    """Return the first of these files that exists below ``data_dir``."""
    if data_dir is None:
        raise DataError(
            f"{name} is read from files, but no data folder was given; "
            f"pass the folder that holds {relative[0]} with --data-dir or $ACTRATIO_DATA"
        )
    for candidate in relative:
        if (data_dir / candidate).is_file():
            return data_dir / candidate
    raise DataError(f"{name} is not in {data_dir}; put its file at {data_dir / relative[0]}")


def _list_columns(columns: object) -> str:
    names = [short(column, 24) for column in columns]  # type: ignore[attr-defined]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
