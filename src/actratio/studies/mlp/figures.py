"""The charts of the study of MLPs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from actratio.laws.observations import DatasetLaws, at_epoch
from actratio.laws.results import Laws
from actratio.report.chart import Chart, Series
from actratio.statistics.estimate import Estimate, mean_interval

if TYPE_CHECKING:
    import pandas as pd

_SHARES = ("activation_ratio", "val_accuracy")
_INTERVAL_NOTE = "Bands are 95% intervals over seeds."
_PUBLISHED_NOTE = " Hollow points are the article's measurements (one seed, with biases)."


def mlp_charts(
    frame: pd.DataFrame, laws: list[DatasetLaws], published: pd.DataFrame | None, split: str = "train"
) -> list[Chart]:
    """Return the charts of a study: one over all datasets, and four for each dataset.

    Args:
        frame: the tidy table of the study.
        laws: fitted laws; a dataset without laws is drawn without curves.
        published: the article's measurements with our column names (``observations.read_published``), shown for the datasets
            that they contain.
        split: which examples were counted, ``train`` or ``val``.
    """
    datasets = list(dict.fromkeys(frame["dataset"]))
    if published is not None:
        published = published[published["dataset"].isin(datasets)]
        published = None if published.empty else published
    charts = [_ratio_by_width(frame, published, datasets, split, conclude=bool(laws))]
    for index, dataset in enumerate(datasets):
        rows = frame[frame["dataset"] == dataset]
        reference = None if published is None else published[published["dataset"] == dataset]
        reference = None if reference is None or reference.empty else reference
        key = f"{index}-{re.sub(r'[^A-Za-z0-9]+', '-', dataset).strip('-')[:40]}"
        charts += [
            _active_by_layer(rows, reference, dataset, key, split),
            _scaling(rows, reference, laws_of(laws, dataset), dataset, key, split),
            _ratio_over_training(rows, reference, dataset, key, split, conclude=bool(laws)),
            _accuracy(rows, reference, dataset, key),
        ]
    return charts


def laws_of(laws: Sequence[DatasetLaws], dataset: str) -> Laws | None:
    """Return the laws of a data set, or ``None`` if none were fitted."""
    return next((fitted.laws for fitted in laws if fitted.dataset == dataset), None)


def over_layers(rows: pd.DataFrame, column: str) -> Estimate:
    """Return the mean over the layers of each seed, then the mean and interval over seeds; that of a share stays in [0, 1]."""
    estimate = mean_interval(rows.groupby("seed")[column].mean().tolist())
    return estimate.clip(0, 1) if column in _SHARES else estimate


def _curve(rows: pd.DataFrame, x: str, y: str) -> tuple[list[float], list[Estimate]]:
    """Return the values of x, and the estimate of y over seeds for each of them."""
    points = [(float(value), over_layers(cells, y)) for value, cells in rows.groupby(x)]
    return [value for value, _ in points], [estimate for _, estimate in points]


def _series(
    rows: pd.DataFrame, by: str, x: str, y: str, name: Callable[[object], str], style: str, order: Sequence[object]
) -> list[Series]:
    """Return one series per value of ``by``, in the order of ``order``, which also gives the colours."""
    groups = dict(iter(rows.groupby(by)))
    return [
        Series(name(value), *_curve(groups[value], x, y), colour=colour, style=style)
        for colour, value in enumerate(order)
        if value in groups
    ]


def _hidden(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of hidden layers."""
    return rows[~rows["logits"]] if "logits" in rows.columns else rows[rows["tensor"] != "logits"]


def _both(
    ours: pd.DataFrame,
    published: pd.DataFrame | None,
    by: str,
    x: str,
    y: str,
    name: Callable[[object], str],
    order: Sequence[object],
) -> list[Series]:
    """Return our series, followed by the published ones."""
    series = _series(ours, by, x, y, name, "line", order)
    if published is not None:
        series += _series(published, by, x, y, lambda value: f"{name(value)}, published", "published", order)
    return series


def _note(published: pd.DataFrame | None) -> str:
    return _INTERVAL_NOTE + (_PUBLISHED_NOTE if published is not None else "")


def _ratio_by_width(
    frame: pd.DataFrame, published: pd.DataFrame | None, datasets: list[str], split: str, *, conclude: bool
) -> Chart:
    ours = _hidden(at_epoch(frame, split, None))
    published = None if published is None else _hidden(at_epoch(published, split, None))
    title = "Activation ratio by layer width, after training"
    ends = ours[ours["width"].isin([ours["width"].min(), ours["width"].max()])]
    ratios = ends.groupby("width")["activation_ratio"].mean()
    if conclude and len(ratios) == 2:
        (narrow, first), (wide, last) = ratios.items()
        title = f"{first:.0%} of the neurons are active in layers of {narrow}, {last:.0%} in layers of {wide}"
    return Chart(
        key="ratio-by-width",
        title=title,
        reading="Each point is the share of neurons above zero in hidden layers of one width, as the mean over these layers. "
        "If a line falls, wider layers have a smaller share of active neurons. " + _note(published),
        x_label="layer width N (neurons)",
        y_label="activation ratio",
        series=_both(ours, published, "dataset", "width", "activation_ratio", str, datasets),
        x_log=True,
        percent=True,
        x_ticks=_widths(ours),
    )


def _active_by_layer(ours: pd.DataFrame, published: pd.DataFrame | None, dataset: str, key: str, split: str) -> Chart:
    rows = _hidden(at_epoch(ours, split, None))
    published = None if published is None else _hidden(at_epoch(published, split, None))
    return Chart(
        key=f"active-by-layer-{key}",
        title=f"Active neurons by layer: {dataset}",
        reading="Each line is one width; layer 0 is the first hidden layer. If a line falls, deeper layers of the same width have fewer "
        "active neurons. Few widths occur at several depths, so width and depth are partly confounded. "
        + _note(published),
        x_label="layer",
        y_label="active neurons",
        series=_both(rows, published, "width", "layer", "active_mean", lambda width: f"{width} neurons", _widths(rows)),
        x_ticks=sorted(rows["layer"].unique().tolist()),
    )


def _scaling(
    ours: pd.DataFrame, published: pd.DataFrame | None, fitted: Laws | None, dataset: str, key: str, split: str
) -> Chart:
    rows = _hidden(at_epoch(ours, split, None))
    series = []
    for colour, (layer, cells) in enumerate(rows.groupby("layer")):
        by_width = cells.groupby(["width", "architecture"])
        points = [(float(width), over_layers(seeds, "active_mean")) for (width, _), seeds in by_width]
        x, y = [width for width, _ in points], [active for _, active in points]
        series.append(Series(f"layer {layer}", x, y, colour=colour, style="points"))
    if published is not None:
        published = _hidden(at_epoch(published, split, None)).sort_values("width")
        series.append(
            Series(
                "published",
                published["width"].astype(float).tolist(),
                [Estimate(active) for active in published["active_mean"]],
                7,
                "hollow",
            )
        )
    widths = rows["width"].astype(float)
    # The measured widths are included because the chart's table lists the laws there.
    line = np.union1d(np.geomspace(widths.min(), widths.max(), 40), widths)
    for colour, law_fit in enumerate(fitted.fits.values() if fitted else (), start=4):
        curve = [Estimate(float(active)) for active in law_fit.predict(line)]
        series.append(Series(law_fit.law.formula, line.tolist(), curve, colour, "dashed"))
    return Chart(
        key=f"scaling-{key}",
        title=f"Active neurons grow as N^{fitted.fits['power'].parameters['α'].value:.2f} over all layers: {dataset}"
        if fitted
        else f"Active neurons against layer width: {dataset}",
        reading="Each point is one layer of one architecture, coloured by depth; dashed lines are the fitted laws. With logarithmic axes, "
        "a power of N is a straight line, and √N has the slope ½. " + _note(published).replace("Bands", "Bars"),
        x_label="layer width N (neurons)",
        y_label="active neurons A",
        series=series,
        x_log=True,
        y_log=True,
        x_ticks=_widths(rows),
    )


def _ratio_over_training(
    ours: pd.DataFrame, published: pd.DataFrame | None, dataset: str, key: str, split: str, *, conclude: bool
) -> Chart:
    rows = _hidden(ours[ours["split"] == split])
    ratios = rows.groupby("epoch")["activation_ratio"].mean()
    title = f"Activation ratio over training: {dataset}"
    if conclude:
        start, top, end = ratios.iloc[0], ratios.max(), ratios.iloc[-1]
        rise = f"up to {top:.0%}, then " if top > max(start, end) else ""
        title = f"The activation ratio goes from {start:.0%} {rise}to {end:.0%}: {dataset}"
    published = None if published is None else _hidden(published)
    return Chart(
        key=f"ratio-over-training-{key}",
        title=title,
        reading="Each line is one width. Epoch 0 is before training. " + _note(published),
        x_label="epoch",
        y_label="activation ratio",
        series=_both(
            rows, published, "width", "epoch", "activation_ratio", lambda width: f"{width} neurons", _widths(rows)
        ),
        percent=True,
    )


def _accuracy(ours: pd.DataFrame, published: pd.DataFrame | None, dataset: str, key: str) -> Chart:
    trained = ours[ours["epoch"] > 0]
    return Chart(
        key=f"accuracy-{key}",
        title=f"Validation accuracy over training: {dataset}",
        reading="Each line is one architecture: the share of validation examples that are classified correctly after each epoch. "
        + _note(published),
        x_label="epoch",
        y_label="validation accuracy",
        series=_both(
            trained, published, "architecture", "epoch", "val_accuracy", str, list(dict.fromkeys(ours["architecture"]))
        ),
        percent=True,
    )


def _widths(rows: pd.DataFrame) -> list[int]:
    return sorted(int(width) for width in rows["width"].unique())
