"""Tables of measurements, ours or others', as observations that laws are fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actratio.errors import FitError
from actratio.files import read_table
from actratio.laws.fitting import RESAMPLES, Laws, fit

if TYPE_CHECKING:
    import pandas as pd

ARTICLE_COLUMNS = {
    "Dataset": "dataset",
    "Model": "architecture",
    "Epoch": "epoch",
    "Train Accuracy": "train_accuracy",
    "Val Accuracy": "val_accuracy",
    "Train Loss": "train_loss",
    "Val Loss": "val_loss",
    "Layer": "layer",
    "Activation Ratio": "activation_ratio",
    "Neuron Count": "width",
    "Active Count": "active_mean",
}
"""The columns of the article's published CSV, in its order, and what they are called here."""

_ARTICLE_DATASETS = {"MNIST": "mnist", "FashionMNIST": "fashion_mnist"}


@dataclass(frozen=True)
class DatasetLaws:
    """The laws of one data set, over all layers and for each layer position apart.

    Attributes:
        by_layer: laws of the cells of one layer alone (0 the first), where there are three widths or more.
        left_out: what was not fitted, in words.
    """

    dataset: str
    laws: Laws
    by_layer: dict[int, Laws]
    left_out: str

    def to_dict(self) -> dict[str, Any]:
        """Return the laws as JSON values, over all layers and for each layer apart."""
        by_layer = {str(layer): laws.to_dict() for layer, laws in self.by_layer.items()}
        return {"dataset": self.dataset, "left_out": self.left_out, **self.laws.to_dict(), "by_layer": by_layer}


def read_observations(path: Path) -> pd.DataFrame:
    """Read a tidy table (Parquet or CSV), the article's CSV, or any CSV with ``width`` and ``active_mean``.

    Returns:
        The frame with our column names and ``logits``, whether a row is of the logits' layer.

    Raises:
        FitError: no such file, or columns that are none of these.
        RunError: a damaged Parquet file.
    """
    from actratio.data.tables import read_csv

    if path.is_dir() and (path / "results.parquet").is_file():
        path = path / "results.parquet"
    if (path / "settings.json").is_file():
        raise FitError(f"{path} has no finished training yet; run the study's command again to go on")
    if not path.is_file():
        raise FitError(f"{path} is not a file; give a Parquet or CSV table, or the folder of a study")
    frame = read_table(path)[0] if path.suffix == ".parquet" else read_csv(path)
    return prepare_observations(frame, path)


def prepare_observations(frame: pd.DataFrame, path: Path | str) -> pd.DataFrame:
    """Check a table and give it our column names, as ``read_observations`` does with a file.

    Args:
        path: where the table came from, for errors.

    Raises:
        FitError: the columns are none of those that ``read_observations`` reads.
    """
    frame = frame.copy()
    if set(ARTICLE_COLUMNS) <= set(frame.columns):
        frame = from_article(frame.assign(Layer=_numbers(path, frame["Layer"], "Layer", whole=True)))
    missing = [column for column in ("width", "active_mean") if column not in frame.columns]
    if missing:
        raise FitError(
            f"{path} has no column {' or '.join(missing)}; a table to fit has width and active_mean, or the article's columns Neuron Count and Active Count"
        )
    if frame.empty:
        raise FitError(f"{path} has a header but no rows; a table to fit needs at least two")
    for column in ("width", "active_mean", "layer", "epoch"):
        if column in frame.columns:
            frame[column] = _numbers(path, frame[column], column, whole=column in ("layer", "epoch"))
    for column in ("dataset", "architecture", "seed", "split"):
        if column in frame.columns and frame[column].isna().any():
            raise FitError(f"{path}: the column {column} has empty cells; every row needs a value")
    if "logits" in frame.columns:
        frame["logits"] = _numbers(path, frame["logits"], "logits", whole=True).astype(bool)
    else:
        frame["logits"] = frame["tensor"] == "logits" if "tensor" in frame.columns else False
    return frame


def _numbers(path: Path | str, column: pd.Series, name: str, *, whole: bool) -> pd.Series:
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    wrong = numbers.isna() | (numbers < 0)
    if whole:
        wrong |= numbers != numbers.round()
    if wrong.any():
        kind = "a whole number" if whole else "a number"
        first = column[wrong].iloc[0]
        shown = "an empty cell" if pd.isna(first) else repr(first) if isinstance(first, str) else f"{first:g}"
        raise FitError(f"{path}: the column {name} holds {shown}; it must be {kind}, and not negative")
    return numbers.astype("int64") if whole else numbers


def read_published(path: Path) -> pd.DataFrame:
    """Read the article's table, or one with its columns.

    Raises:
        FitError: no such file, or other columns.
    """
    frame = read_observations(path)
    if "dataset" not in frame.columns or "criterion" in frame.columns:
        wanted = ", ".join(ARTICLE_COLUMNS)
        raise FitError(f"{path} is not a table of published measurements; it must have the article's columns {wanted}")
    return frame


def from_article(frame: pd.DataFrame) -> pd.DataFrame:
    """The article's table with our names: layers from 0, ``784=>512=>10`` as ``784-512-10``."""
    frame = frame.rename(columns=ARTICLE_COLUMNS)
    frame["dataset"] = frame["dataset"].replace(_ARTICLE_DATASETS)
    frame["architecture"] = frame["architecture"].astype(str).str.replace("=>", "-", regex=False)
    frame["layer"] = frame["layer"] - 1
    frame["logits"] = frame["layer"] == frame["architecture"].str.count("-") - 1
    frame["split"] = "train"
    # The published file is of one seed; ours with its columns says which.
    return frame.rename(columns={"Seed": "seed"}) if "Seed" in frame.columns else frame.assign(seed=0)


def to_article(frame: pd.DataFrame, split: str = "train") -> pd.DataFrame:
    """Our table with the article's columns, one row a seed, so that its notebook could read it."""
    names = {ours: name for name, ours in _ARTICLE_DATASETS.items()}
    frame = frame[(frame["split"] == split) & (frame["epoch"] > 0)].copy()
    frame["dataset"] = frame["dataset"].replace(names)
    frame["architecture"] = frame["architecture"].str.replace("-", "=>", regex=False)
    frame["layer"] = frame["layer"] + 1
    columns = {ours: name for name, ours in ARTICLE_COLUMNS.items()}
    return frame.rename(columns=columns)[[*ARTICLE_COLUMNS, "seed"]].rename(columns={"seed": "Seed"})


def at_epoch(frame: pd.DataFrame, split: str, epoch: int | None) -> pd.DataFrame:
    """Rows of one split and one epoch, by default the last of each architecture; a table without such columns stays whole.

    Raises:
        FitError: no rows of that split or epoch, or a column that was asked for is not there.
    """
    for column, value, usual in (("split", split, "train"), ("epoch", epoch, None)):
        if column not in frame.columns:
            if value != usual:
                raise FitError(f"{column} {value} was asked for, but the table has no column {column}")
            continue
        wanted: object = value
        if value is None:
            by = [each for each in ("dataset", "architecture") if each in frame.columns]
            wanted = frame.groupby(by)[column].transform("max") if by else frame[column].max()
        chosen = frame[frame[column] == wanted]
        if chosen.empty:
            raise FitError(
                f"the table has no rows with {column} {value}; there are {', '.join(map(str, sorted(frame[column].unique())))}"
            )
        frame = chosen
    return frame


def fit_observations(
    frame: pd.DataFrame,
    *,
    split: str = "train",
    epoch: int | None = None,
    logits: bool = False,
    resamples: int = RESAMPLES,
) -> list[DatasetLaws]:
    """Fit the laws for each data set of ``frame`` (as ``read_observations`` returns it).

    Args:
        split: ``train`` as the article counted, or ``val``.
        epoch: by default the last.
        logits: whether the logits' layer is fitted too; it has no ReLU and its width is the number of classes.

    Raises:
        FitError: nothing left to fit, or too few widths.
    """
    frame = at_epoch(frame, split, epoch)
    if "dataset" not in frame.columns:
        frame = frame.assign(dataset="table")
    found = []
    for dataset, rows in frame.groupby("dataset", sort=False):
        notes = []
        if not logits and rows["logits"].any():
            rows = rows[~rows["logits"]]
            notes.append("the logits' layer")
        silent = int((rows["active_mean"] == 0).sum())
        if silent:
            rows = rows[rows["active_mean"] > 0]
            notes.append(f"{silent} rows without any active neuron")
        if rows.empty:
            raise FitError(f"{dataset}: nothing is left to fit beside {' and '.join(notes)}")
        layers = sorted(int(layer) for layer in rows["layer"].unique()) if "layer" in rows.columns else []
        by_layer = {}
        for layer in layers:
            alone = rows[rows["layer"] == layer]
            if alone["width"].nunique() >= 3:
                by_layer[layer] = _fit(alone, resamples)
        found.append(DatasetLaws(str(dataset), _fit(rows, resamples), by_layer, " and ".join(notes)))
    return found


def _fit(rows: pd.DataFrame, resamples: int) -> Laws:
    def column(name: str) -> list[object] | None:
        return rows[name].tolist() if name in rows.columns else None

    return fit(
        rows["width"].to_numpy(),
        rows["active_mean"].to_numpy(),
        architectures=column("architecture"),
        layers=column("layer"),  # type: ignore[arg-type]
        seeds=column("seed"),  # type: ignore[arg-type]
        resamples=resamples,
    )
