"""Charts and tables of the study of MLPs: the article's figures, and what it left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from actratio.laws.estimate import Estimate, mean_interval
from actratio.laws.observations import DatasetLaws, at_epoch
from actratio.laws.results import Laws
from actratio.report.chart import Chart, Series

if TYPE_CHECKING:
    import pandas as pd

_OURS_NOTE = "Bands are 95 % intervals over seeds."
_PUBLISHED_NOTE = " Hollow points are the article's published measurements (one seed, with biases)."


def mlp_charts(
    frame: pd.DataFrame, laws: list[DatasetLaws], published: pd.DataFrame | None, split: str = "train"
) -> list[Chart]:
    """All charts of a study's tidy table.

    Args:
        published: the article's table with our names (``observations.from_article``); drawn beside
            ours where it has the data set.
    """
    datasets = list(dict.fromkeys(frame["dataset"]))
    if published is not None:
        published = published[published["dataset"].isin(datasets)]
        published = None if published.empty else published
    found = [_ratio_by_width(frame, published, datasets, split)]
    for index, dataset in enumerate(datasets):
        ours = frame[frame["dataset"] == dataset]
        theirs = None if published is None else published[published["dataset"] == dataset]
        theirs = None if theirs is None or theirs.empty else theirs
        key = f"{index}-{re.sub(r'[^A-Za-z0-9]+', '-', dataset).strip('-')[:40]}"
        fitted = next((each.laws for each in laws if each.dataset == dataset), None)
        found += [
            _active_by_layer(ours, theirs, dataset, key, split),
            _scaling(ours, theirs, fitted, dataset, key, split),
            _ratio_over_training(ours, theirs, dataset, key, split),
            _accuracy(ours, theirs, dataset, key),
        ]
    return found


def width_table(
    frame: pd.DataFrame, laws: list[DatasetLaws], published: pd.DataFrame | None, split: str = "train"
) -> pd.DataFrame:
    """The article's table: per data set and width, ratio and active neurons with intervals over
    seeds, what F·√N gives, and the published ratio where there is one."""
    import pandas as pd

    rows = []
    for dataset, ours in at_epoch(frame, split, None).groupby("dataset", sort=False):
        theirs = None
        if published is not None:
            theirs = at_epoch(published, split, None)
            theirs = theirs[theirs["dataset"] == dataset]
        fitted = next((each.laws for each in laws if each.dataset == dataset), None)
        for (logits, width), cells in ours.assign(logits=ours["tensor"] == "logits").groupby(["logits", "width"]):
            same = None if theirs is None else theirs[(theirs["width"] == width) & (theirs["logits"] == logits)]
            rows.append(
                {
                    "dataset": dataset,
                    "width": int(width),
                    "tensor": "logits" if logits else "activation",
                    "layers": cells.groupby(["architecture", "layer"]).ngroups,
                    "activation_ratio": _over_seeds(cells, "activation_ratio"),
                    "active_mean": _over_seeds(cells, "active_mean"),
                    "dead": _over_seeds(cells, "dead"),
                    "sqrt_law": None if logits or fitted is None else float(fitted.fits["sqrt"].predict([width])[0]),
                    "published_ratio": None if same is None or same.empty else float(same["activation_ratio"].mean()),
                }
            )
    return pd.DataFrame(rows)


def _over_seeds(rows: pd.DataFrame, column: str) -> Estimate:
    """Mean over the layers of a seed, then mean and interval over seeds."""
    return mean_interval(rows.groupby("seed")[column].mean().tolist())


def _curve(rows: pd.DataFrame, x: str, y: str) -> tuple[list[float], list[Estimate]]:
    groups = [(float(place), _over_seeds(cells, y)) for place, cells in rows.groupby(x)]
    if y in ("activation_ratio", "val_accuracy"):
        groups = [(place, share.clip(0, 1)) for place, share in groups]
    return [place for place, _ in groups], [estimate for _, estimate in groups]


def _series(
    rows: pd.DataFrame, by: str, x: str, y: str, name: Callable[[object], str], style: str, order: Sequence[object]
) -> list[Series]:
    """A series for each value of ``by``, in the order and colour of its place in ``order``."""
    groups = dict(iter(rows.groupby(by)))
    return [
        Series(name(value), *_curve(groups[value], x, y), colour=place, style=style)
        for place, value in enumerate(order)
        if value in groups
    ]


def _hidden(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[~rows["logits"]] if "logits" in rows.columns else rows[rows["tensor"] != "logits"]


def _both(
    ours: pd.DataFrame,
    theirs: pd.DataFrame | None,
    by: str,
    x: str,
    y: str,
    name: Callable[[object], str],
    order: Sequence[object],
) -> list[Series]:
    series = _series(ours, by, x, y, name, "line", order)
    if theirs is not None:
        series += _series(theirs, by, x, y, lambda value: f"{name(value)}, published", "published", order)
    return series


def _note(theirs: pd.DataFrame | None) -> str:
    return _OURS_NOTE + (_PUBLISHED_NOTE if theirs is not None else "")


def _ratio_by_width(frame: pd.DataFrame, published: pd.DataFrame | None, datasets: list[str], split: str) -> Chart:
    ours = _hidden(at_epoch(frame, split, None))
    theirs = None if published is None else _hidden(at_epoch(published, split, None))
    return Chart(
        key="ratio-by-width",
        title="Activation ratio by width, after training",
        reading="Each point is the share of a hidden layer's neurons above zero, the mean over all layers of that width; "
        "a falling line means that wider layers fire a smaller share. " + _note(theirs),
        x_label="neurons in the layer (N)",
        y_label="activation ratio",
        series=_both(ours, theirs, "dataset", "width", "activation_ratio", str, datasets),
        x_log=True,
        percent=True,
        x_ticks=_widths(ours),
    )


def _active_by_layer(ours: pd.DataFrame, theirs: pd.DataFrame | None, dataset: str, key: str, split: str) -> Chart:
    rows = _hidden(at_epoch(ours, split, None))
    theirs = None if theirs is None else _hidden(at_epoch(theirs, split, None))
    return Chart(
        key=f"active-by-layer-{key}",
        title=f"Active neurons by layer position: {dataset}",
        reading="One line a width; layer 0 is the first hidden layer. A falling line means that a layer of the same width fires "
        "fewer neurons the deeper it lies. Few widths occur at more than one depth, so width and depth are partly confounded. "
        + _note(theirs),
        x_label="layer",
        y_label="active neurons",
        series=_both(rows, theirs, "width", "layer", "active_mean", lambda width: f"{width} neurons", _widths(rows)),
        x_ticks=sorted(rows["layer"].unique().tolist()),
    )


def _scaling(
    ours: pd.DataFrame, theirs: pd.DataFrame | None, fitted: Laws | None, dataset: str, key: str, split: str
) -> Chart:
    rows = _hidden(at_epoch(ours, split, None))
    series = []
    for number, (layer, cells) in enumerate(rows.groupby("layer")):
        points = [(float(w), _over_seeds(c, "active_mean")) for (w, _), c in cells.groupby(["width", "architecture"])]
        series.append(
            Series(f"layer {layer}", [p[0] for p in points], [p[1] for p in points], colour=number, style="points")
        )
    if theirs is not None:
        theirs = _hidden(at_epoch(theirs, split, None)).sort_values("width")
        series.append(
            Series(
                "published",
                theirs["width"].astype(float).tolist(),
                [Estimate(y) for y in theirs["active_mean"]],
                7,
                "hollow",
            )
        )
    widths = rows["width"].astype(float)
    line = np.union1d(np.geomspace(widths.min(), widths.max(), 40), widths)  # the widths are in the chart's table
    for number, fit in enumerate(fitted.fits.values() if fitted else ()):
        series.append(
            Series(
                fit.law.formula, line.tolist(), [Estimate(float(y)) for y in fit.predict(line)], 4 + number, "dashed"
            )
        )
    return Chart(
        key=f"scaling-{key}",
        title=f"Active neurons against width, with the laws: {dataset}",
        reading="On these axes a power of N is a straight line, and √N one of slope ½. Each point is one layer of one architecture, "
        "coloured by its depth; dashed lines are the fitted laws. " + _note(theirs).replace("Bands", "Bars"),
        x_label="neurons in the layer (N)",
        y_label="active neurons (A)",
        series=series,
        x_log=True,
        y_log=True,
        x_ticks=_widths(rows),
    )


def _ratio_over_training(ours: pd.DataFrame, theirs: pd.DataFrame | None, dataset: str, key: str, split: str) -> Chart:
    rows = _hidden(ours[ours["split"] == split])
    theirs = None if theirs is None else _hidden(theirs)
    return Chart(
        key=f"ratio-over-training-{key}",
        title=f"Activation ratio over training: {dataset}",
        reading="One line a width. Epoch 0 is before training. " + _note(theirs),
        x_label="epoch",
        y_label="activation ratio",
        series=_both(
            rows, theirs, "width", "epoch", "activation_ratio", lambda width: f"{width} neurons", _widths(rows)
        ),
        percent=True,
    )


def _accuracy(ours: pd.DataFrame, theirs: pd.DataFrame | None, dataset: str, key: str) -> Chart:
    trained = ours[ours["epoch"] > 0]
    return Chart(
        key=f"accuracy-{key}",
        title=f"Validation accuracy by epoch: {dataset}",
        reading="One line an architecture; the share of held-out examples classified rightly after each epoch. "
        + _note(theirs),
        x_label="epoch",
        y_label="validation accuracy",
        series=_both(
            trained, theirs, "architecture", "epoch", "val_accuracy", str, list(dict.fromkeys(ours["architecture"]))
        ),
        percent=True,
    )


def _widths(rows: pd.DataFrame) -> list[int]:
    return sorted(int(width) for width in rows["width"].unique())
