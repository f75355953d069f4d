"""Read tables of measurements as observations, and fit the laws to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actratio.errors import FitError, short
from actratio.files import read_table
from actratio.laws.fitting import fit
from actratio.laws.results import Laws
from actratio.spreadsheets import from_csv
from actratio.statistics.verdict import Verdict

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
"""Columns of the article's CSV, in its order, and our names for them."""

ARTICLE_BLOCK = "article"
"""What the column ``block`` of a study's table says of the article's networks, which the laws are fitted to."""

_ARTICLE_DATASETS = {"MNIST": "mnist", "FashionMNIST": "fashion_mnist"}


@dataclass(frozen=True)
class DatasetLaws:
    """The laws of one dataset, over all layers and for each layer separately.

    Attributes:
        dataset: name of the dataset.
        laws: laws over all layers.
        by_layer: laws of a single layer by its index, for layers with at least three widths.
        left_out: observations that were not fitted, in words; empty if all were.
    """

    dataset: str
    laws: Laws
    by_layer: dict[int, Laws]
    left_out: str

    @property
    def verdict(self) -> Verdict:
        """Whether A grows as √N, with the dataset's name in the claim."""
        verdict = self.laws.verdict
        return replace(verdict, claim=f"{self.dataset}: {verdict.claim}")

    def to_dict(self) -> dict[str, Any]:
        """Return the laws for JSON, over all layers and by layer."""
        by_layer = {str(layer): laws.to_dict() for layer, laws in self.by_layer.items()}
        return {"dataset": self.dataset, "left_out": self.left_out, **self.laws.to_dict(), "by_layer": by_layer}


def read_observations(path: Path) -> pd.DataFrame:
    """Read a table of observations.

    Args:
        path: a tidy table (Parquet or CSV), the article's CSV, any CSV with the columns ``width`` and ``active_mean``, or the
            folder of a study.

    Returns:
        The table with our column names, and the column ``logits``: whether a row belongs to the output layer.

    Raises:
        FitError: if there is no such file, or it lacks the columns.
        RunError: if the Parquet file is damaged.
    """
    from actratio.data.tables import read_csv

    if path.is_dir() and (path / "results.parquet").is_file():
        path = path / "results.parquet"
    if (path / "settings.json").is_file():
        raise FitError(f"the study in {path} has no finished training yet; run its command again to resume it")
    if not path.is_file():
        raise FitError(f"{path} is not a file; give a Parquet or CSV table, or the folder of a study")
    if path.suffix == ".parquet":
        frame, metadata = read_table(path)
        if metadata.get("settings", {}).get("quick"):
            raise FitError(f"{path} is of a quick run, which supports no law; run the study without --quick")
    else:
        frame = from_csv(read_csv(path))
    return prepare_observations(frame, path)


def prepare_observations(frame: pd.DataFrame, path: Path | str) -> pd.DataFrame:
    """Check a table and return it with our column names, as ``read_observations`` does for a file.

    Args:
        frame: the table, which is not changed.
        path: source of the table, for error messages.

    Raises:
        FitError: if a column is missing or contains an invalid value.
    """
    frame = frame.copy()
    if set(ARTICLE_COLUMNS) <= set(frame.columns):
        frame = from_article(frame.assign(Layer=_numbers(path, frame["Layer"], "Layer", whole=True)))
    missing = [column for column in ("width", "active_mean") if column not in frame.columns]
    if missing:
        raise FitError(
            f"{path} has no column {' or '.join(missing)}; give a table with width and active_mean, or with the article's columns Neuron Count and Active Count"
        )
    if frame.empty:
        raise FitError(f"{path} has a header but no rows; give at least two observations")
    for column in ("width", "active_mean", "layer", "epoch"):
        if column in frame.columns:
            frame[column] = _numbers(path, frame[column], column, whole=column in ("layer", "epoch"))
    for column in ("dataset", "architecture", "seed", "split"):
        if column in frame.columns and frame[column].isna().any():
            raise FitError(f"{path}: the column {column} has empty cells; fill in a value in every row")
    if "logits" in frame.columns:
        frame["logits"] = _numbers(path, frame["logits"], "logits", whole=True).astype(bool)
    else:
        frame["logits"] = frame["tensor"] == "logits" if "tensor" in frame.columns else False
    return frame


_LARGEST = 2**53
"""Larger whole numbers aren't exact as floats, and no layer has so many neurons."""


def _numbers(path: Path | str, column: pd.Series, name: str, *, whole: bool, largest: int = _LARGEST) -> pd.Series:
    """Return a column as numbers from 0 to ``largest``, whole numbers as int64."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    invalid = numbers.isna() | (numbers < 0) | (numbers > largest)
    if whole:
        invalid |= numbers != numbers.round()
    if invalid.any():
        row = int(invalid.to_numpy().argmax()) + 1
        expected = "whole numbers" if whole else "numbers"
        first = column[invalid].iloc[0]
        shown = f"{first:g}" if isinstance(first, Real) else repr(short(first))
        shown = "an empty cell" if pd.isna(first) else shown
        raise FitError(
            f"{path}: the column {name} contains {shown} in row {row}; give {expected} "
            + (f"up to {largest:,}" if numbers.iloc[row - 1] > largest else "that are not negative")
        )
    return numbers.astype("int64") if whole else numbers


def read_published(path: Path) -> pd.DataFrame:
    """Read the article's measurements of MLPs, or a table with the same columns.

    Raises:
        FitError: if there is no such file, or it has other columns.
    """
    frame = read_observations(path)
    if "dataset" not in frame.columns or "criterion" in frame.columns:
        columns = ", ".join(ARTICLE_COLUMNS)
        raise FitError(
            f"{path} is not a table of published measurements; give a table with the article's columns {columns}"
        )
    for column in ("activation_ratio", "val_accuracy"):
        if column in frame.columns:
            frame[column] = _numbers(path, frame[column], column, whole=False, largest=1)
    return frame


def from_article(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the article's table with our names: layers from 0, and ``784=>512=>10`` as ``784-512-10``."""
    frame = frame.rename(columns=ARTICLE_COLUMNS)
    frame["dataset"] = frame["dataset"].replace(_ARTICLE_DATASETS)
    frame["architecture"] = frame["architecture"].astype(str).str.replace("=>", "-", regex=False)
    frame["layer"] = frame["layer"] - 1
    frame["logits"] = frame["layer"] == frame["architecture"].str.count("-") - 1
    frame["split"] = "train"
    # The article's file has one seed and no column for it; `to_article` writes one.
    return frame.rename(columns={"Seed": "seed"}) if "Seed" in frame.columns else frame.assign(seed=0)


def to_article(frame: pd.DataFrame, split: str = "train") -> pd.DataFrame:
    """Return our table with the article's columns, plus ``Seed``, so that the article's notebook can read it.

    Only the article's networks are in it, not those of other blocks.
    """
    if "block" in frame.columns:
        frame = frame[frame["block"] == ARTICLE_BLOCK]
    names = {ours: name for name, ours in _ARTICLE_DATASETS.items()}
    frame = frame[(frame["split"] == split) & (frame["epoch"] > 0)].copy()
    frame["dataset"] = frame["dataset"].replace(names)
    frame["architecture"] = frame["architecture"].str.replace("-", "=>", regex=False)
    frame["layer"] = frame["layer"] + 1
    columns = {ours: name for name, ours in ARTICLE_COLUMNS.items()}
    return frame.rename(columns=columns)[[*ARTICLE_COLUMNS, "seed"]].rename(columns={"seed": "Seed"})


def at_epoch(frame: pd.DataFrame, split: str, epoch: int | None) -> pd.DataFrame:
    """Return the rows of one split and one epoch.

    Args:
        frame: a table of observations. If it has no column ``split`` or ``epoch``, the defaults keep all rows.
        split: ``train`` or ``val``.
        epoch: by default the last epoch of each architecture.

    Raises:
        FitError: if the table has no such rows, or lacks a column that is needed.
    """
    for column, value, default in (("split", split, "train"), ("epoch", epoch, None)):
        if column not in frame.columns:
            if value != default:
                raise FitError(f"the table has no column {column}; omit the {column} {value}, or give a table with it")
            continue
        target: object = value
        if value is None:
            keys = [key for key in ("dataset", "block", "architecture") if key in frame.columns]
            target = frame.groupby(keys)[column].transform("max") if keys else frame[column].max()
        selected = frame[frame[column] == target]
        if selected.empty:
            raise FitError(
                f"the table has no rows with {column} {value}; choose from {', '.join(map(str, sorted(frame[column].unique())))}"
            )
        frame = selected
    return frame


def fit_observations(
    frame: pd.DataFrame,
    *,
    split: str = "train",
    epoch: int | None = None,
    logits: bool = False,
) -> list[DatasetLaws]:
    """Fit the laws to each dataset of a table.

    Args:
        frame: a table as returned by ``read_observations``.
        split: ``train``, as in the article, or ``val``.
        epoch: by default the last epoch of each architecture.
        logits: whether to include the output layer, which has no ReLU and as many neurons as there are classes.

    Returns:
        One entry per dataset, in the order of the table.

    Raises:
        FitError: if no observations are left, or if they have too few widths.
    """
    frame = at_epoch(frame, split, epoch)
    if "dataset" not in frame.columns:
        frame = frame.assign(dataset="table")
    fitted = []
    for dataset, rows in frame.groupby("dataset", sort=False):
        left_out = []
        if "block" in rows.columns and (rows["block"] != ARTICLE_BLOCK).any():
            rows = rows[rows["block"] == ARTICLE_BLOCK]
            left_out.append("the crossed block")
        if not logits and rows["logits"].any():
            rows = rows[~rows["logits"]]
            left_out.append("the output layer (logits)")
        silent = rows["active_mean"] == 0
        if silent.any():
            rows = rows[~_same_cells(rows, silent)]
            left_out.append(f"{int(silent.sum())} rows without active neurons")
        if rows.empty:
            raise FitError(
                f"{dataset}: no observations are left to fit after leaving out {' and '.join(left_out)}; give observations of hidden layers with active neurons"
            )
        layers = sorted(int(layer) for layer in rows["layer"].unique()) if "layer" in rows.columns else []
        by_layer = {}
        for layer in layers:
            layer_rows = rows[rows["layer"] == layer]
            if layer_rows["width"].nunique() >= 3:
                by_layer[layer] = _fit(layer_rows)
        fitted.append(DatasetLaws(str(dataset), _fit(rows), by_layer, " and ".join(left_out)))
    return fitted


def _same_cells(rows: pd.DataFrame, marked: pd.Series) -> pd.Series:
    """Return which rows are of the same layer of the same architecture as a marked row, whatever their seed."""
    keys = [key for key in ("architecture", "layer", "width") if key in rows.columns]
    return marked.groupby([rows[key] for key in keys]).transform("any") if "architecture" in keys else marked


def _fit(rows: pd.DataFrame) -> Laws:
    def column(name: str) -> list[object] | None:
        return rows[name].tolist() if name in rows.columns else None

    return fit(
        rows["width"].to_numpy(),
        rows["active_mean"].to_numpy(),
        architectures=column("architecture"),
        layers=column("layer"),  # type: ignore[arg-type]
        seeds=column("seed"),  # type: ignore[arg-type]
    )
