"""Tables with a label column: numbers are standardised, texts become TF-IDF vectors."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actratio.data.dataset import HELD_OUT_SHARE, Dataset
from actratio.errors import DataError, short

if TYPE_CHECKING:
    import pandas as pd

# The usual ones first: a table with the columns x, y and label has its label there.
LABEL_NAMES = ("label", "labels", "class", "target", "category", "intent", "y")
_MOST_WORDS = 4096  # TF-IDF features kept, the most frequent first


def load_letter(data_dir: Path | None) -> Dataset:
    """UCI Letter Recognition: 16 features; the customary first 16,000 rows train, the last 4,000 are held out."""
    path = _in_folder("letter", data_dir, ("letter/letter-recognition.data", "letter-recognition.data"))
    frame = read_csv(path)
    if "Letter" not in frame.columns:  # the file of the UCI site has no header
        frame = read_csv(path, header=None)
        frame.columns = ["Letter", *(str(column) for column in frame.columns[1:])]
    if len(frame) != 20_000:
        raise DataError(f"{path} has {len(frame)} rows; Letter Recognition has 20,000, of which the first 16,000 train")
    return encode("letter", frame[:16_000], frame[16_000:], "Letter", f"CSV {path}")


def load_banking77(data_dir: Path | None) -> Dataset:
    """BANKING77: short texts and 77 intents, as TF-IDF vectors."""
    train = _in_folder("banking77", data_dir, ("banking77/train.csv",))
    test = _in_folder("banking77", data_dir, ("banking77/test.csv",))
    train_frame, test_frame = (_whole_texts(read_csv(path)) for path in (train, test))
    return encode("banking77", train_frame, test_frame, "category", f"CSV files in {train.parent}")


def _whole_texts(frame: pd.DataFrame) -> pd.DataFrame:
    """Three training texts end in a line break.  A copy without the quotes around them has two rows for each: the
    text without a label, then the label with a full stop or nothing; these are made one again.  All else stays."""
    if not {"text", "category"} <= set(frame.columns) or frame["category"].notna().all():
        return frame
    rest = frame["category"].notna() & ~frame["text"].astype("str").where(frame["text"].notna(), "").str.contains(r"\w")
    broken = frame["category"].isna() & frame["text"].notna() & rest.shift(-1, fill_value=False)
    whole = frame.assign(category=frame["category"].where(~broken, frame["category"].shift(-1)))
    return whole[~broken.shift(1, fill_value=False)]


def load_csv(path: Path, label: str | None) -> Dataset:
    """Any CSV with a label column; a fifth of its rows, stratified by label, is held out."""
    if not os.path.isfile(path):  # false, too, for a name that is too long for the file system
        raise DataError(f"{short(path, 120)} is not a file; give the path of a CSV with a header and a label column")
    frame = read_csv(path)
    by_name = {str(name).lower(): name for name in reversed(frame.columns)}
    column = label or next((by_name[name] for name in LABEL_NAMES if name in by_name), None)
    if column is None or column not in frame.columns:
        wanted = f"no column {label!r}" if label else f"no column named {', '.join(LABEL_NAMES)}"
        raise DataError(f"{path} has {wanted}; its columns are {_some(frame.columns)}: name the label's with --label")
    train, val = hold_out(str(path), frame, column)
    return encode(str(path), train, val, column, f"CSV {path}")


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """Read a CSV, or raise ``DataError`` with the reason."""
    import pandas as pd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            # No column is taken for the rows' names; all in one piece, so that a column has one type.
            return pd.read_csv(path, index_col=False, low_memory=False, **options)
    except pd.errors.ParserWarning:
        raise DataError(
            f"{path} has rows with more values than its header; each row needs one value a column"
        ) from None
    except Exception as error:  # pandas and its decompressors raise many kinds
        raise DataError(
            f"{path} cannot be read as CSV ({short(error, 160)}); it must be comma-separated UTF-8 text"
        ) from None


def hold_out(name: str, frame: pd.DataFrame, label: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split off a fifth of the rows, the same ones every time; stratified where every class has two rows."""
    from sklearn.model_selection import train_test_split

    if len(frame) < 2:
        raise DataError(f"{name} has {len(frame)} rows; at least two are needed to hold one out")
    _require_labels(name, frame, label)
    counts = frame[label].value_counts()
    stratify = frame[label] if counts.min() >= 2 and len(counts) <= HELD_OUT_SHARE * len(frame) else None
    train, val = train_test_split(frame, test_size=HELD_OUT_SHARE, random_state=0, stratify=stratify)
    return train, val


def encode(name: str, train: pd.DataFrame, val: pd.DataFrame, label: str, source: str) -> Dataset:
    """Make arrays of two tables: numeric columns standardised by the training split's mean and
    standard deviation; text columns as TF-IDF vectors fitted on the training split.

    Raises:
        DataError: no label column, missing labels, a held-out label that training lacks, a column
            that is neither numbers nor text, or numbers with text among them.
    """
    import pandas as pd
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import StandardScaler

    classes, y_train, y_val = encode_labels(name, train, val, label)
    columns = [column for column in train.columns if column != label]
    if not columns:
        raise DataError(f"{name} has no column beside the label {label!r}; it needs at least one feature")
    missing = [column for column in columns if column not in val.columns]
    if missing:
        raise DataError(f"{name}: the held-out table lacks the columns {_some(missing)}; both need the same")
    numbers = [column for column in columns if pd.api.types.is_numeric_dtype(train[column])]  # true and false too
    texts = [column for column in columns if column not in numbers]
    x_train: list[np.ndarray] = []
    x_val: list[np.ndarray] = []
    for column in texts:
        _require_text(name, train[column], column)
        _require_text(name, val[column], column)
        # By default a word has two letters or more; a column without any may hold grades or blood groups.
        longer = train[column].str.contains(r"\w\w").any()
        pattern = r"(?u)\b\w\w+\b" if longer else r"(?u)\b\w\b"
        words = TfidfVectorizer(max_features=_MOST_WORDS, dtype=np.float32, token_pattern=pattern)
        try:
            x_train.append(words.fit_transform(train[column]).toarray())
        except ValueError:
            raise DataError(f"{name}: the texts in column {column!r} hold no words; a text column needs some") from None
        x_val.append(words.transform(val[column]).toarray())
    if numbers:
        scaler = StandardScaler()
        arrays = []
        for frame in (train, val):
            try:
                array = frame[numbers].to_numpy(dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"{name} has features that are not numbers ({short(error, 120)}); every value must be a number"
                ) from None
            if not np.isfinite(array).all():
                bad = next(
                    column for column in numbers if not np.isfinite(frame[column].to_numpy(dtype=np.float64)).all()
                )
                raise DataError(
                    f"{name}: column {bad!r} has missing or infinite values; every feature must be a finite number"
                )
            arrays.append(array)
        with np.errstate(over="ignore", invalid="ignore"):  # Dataset refuses what is not finite
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
    """The number of classes, and each row's class: labels that are numbers in their order, others in the alphabet's.

    Raises:
        DataError: no label column, missing labels, a held-out label that training lacks, or one class alone.
    """
    import pandas as pd

    for split, frame in (("training", train), ("held-out", val)):
        if len(frame) == 0:
            raise DataError(f"{name}: the {split} split has no examples; it needs at least one")
        _require_labels(name, frame, label)
    given, held_out = train[label], val[label]
    if not (pd.api.types.is_numeric_dtype(given) and pd.api.types.is_numeric_dtype(held_out)):
        given, held_out = given.astype(str), held_out.astype(str)
    classes, y_train = np.unique(given.to_numpy(), return_inverse=True)
    known = {value: index for index, value in enumerate(classes)}
    unknown = sorted(set(held_out) - set(known))
    if unknown:
        raise DataError(
            f"{name}: the held-out split has the label {short(unknown[0])!r}, which no training row has; every class must be in both"
        )
    if len(classes) < 2:
        raise DataError(
            f"{name}: column {label!r} has a single value, {short(classes[0])!r}; classification needs two classes or more"
        )
    y_val = np.array([known[value] for value in held_out])
    return len(classes), y_train.astype(np.int64), y_val.astype(np.int64)


def _require_labels(name: str, frame: pd.DataFrame, label: str) -> None:
    import pandas as pd

    if label not in frame.columns:
        raise DataError(f"{name} has no column {label!r}; its columns are {_some(frame.columns)}")
    if frame[label].isna().any():
        raise DataError(
            f"{name} has rows without a label in column {label!r} (empty, or a word for it such as NA or None); every row needs one"
        )
    if not frame[label].map(pd.api.types.is_scalar).all():
        raise DataError(f"{name}: column {label!r} holds lists or records; a label must be one number or word")


def _require_text(name: str, column: pd.Series, title: object) -> None:
    """A column of texts has letters; numbers with a few stray words are not texts but a mistake."""
    import pandas as pd

    if column.isna().any():
        raise DataError(f"{name}: column {title!r} has missing texts; every row needs one")
    if not column.map(lambda value: isinstance(value, str)).all():
        raise DataError(f"{name}: column {title!r} is neither numbers nor text; features must be one or the other")
    numeric = pd.to_numeric(column, errors="coerce").notna()
    if numeric.mean() > 0.5:
        wrong = column[~numeric].iloc[0] if (~numeric).any() else column.iloc[0]
        raise DataError(
            f"{name}: column {title!r} has features that are not numbers, such as {short(wrong)!r}; every value must be a number"
        )


def _in_folder(name: str, data_dir: Path | None, relative: tuple[str, ...]) -> Path:
    if data_dir is None:
        raise DataError(
            f"{name} is read from files: give the folder that holds {relative[0]} with --data-dir or $ACTRATIO_DATA"
        )
    for candidate in relative:
        if (data_dir / candidate).is_file():
            return data_dir / candidate
    raise DataError(f"{name} is not in {data_dir}: there is no file {relative[0]}")


def _some(columns: object) -> str:
    names = [short(column, 24) for column in columns]  # type: ignore[attr-defined]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
