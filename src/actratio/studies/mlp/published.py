"""Our runs beside the article's single run: prediction intervals for one new run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actratio.laws.observations import at_epoch
from actratio.report.findings import Table
from actratio.statistics.seeds import log_slope, prediction_interval
from actratio.studies.mlp.cells import CellTable
from actratio.studies.mlp.sentences import PRINTED_F, published_scales, root_scale

if TYPE_CHECKING:
    import pandas as pd

_LOGITS = "ratio of the logits"


def run_figures(rows: pd.DataFrame) -> dict[str, float]:
    """Return the figures of one run: of all networks of one seed and data set, after training.

    Args:
        rows: one row for each layer, with ``logits`` marking the output layers.
    """
    hidden = rows[~rows["logits"] & (rows["active_mean"] > 0)]
    figures = {"F of F·√N": root_scale(hidden), "α over all layers": log_slope(hidden["width"], hidden["active_mean"])}
    cells = CellTable.of(hidden)
    if cells is not None:
        figures["α at equal depth"] = float(cells.design().alpha(cells.log_active)[0])
    figures |= {
        f"ratio at width {width}": float(same["activation_ratio"].mean()) for width, same in hidden.groupby("width")
    }
    if rows["logits"].any():
        figures[_LOGITS] = float(rows.loc[rows["logits"], "activation_ratio"].mean())
    return figures


def published_table(frame: pd.DataFrame, published: pd.DataFrame) -> Table | None:
    """Return each figure of the published run beside the prediction interval from ours, or ``None`` if no data set is shared.

    Args:
        frame: our table of the article's networks, with the column ``logits``.
        published: the article's measurements with our column names (``observations.read_published``).
    """
    rows = []
    for dataset, ours in at_epoch(frame, "train", None).groupby("dataset", sort=False):
        theirs = at_epoch(published, "train", None)
        theirs = theirs[theirs["dataset"] == dataset]
        # Only networks that both have, so that the figures are about the same layers.
        shared = set(ours["architecture"]) & set(theirs["architecture"])
        if not shared:
            continue
        figures = run_figures(theirs[theirs["architecture"].isin(shared)])
        ours = ours[ours["architecture"].isin(shared)]
        by_seed = [run_figures(rows) for _, rows in ours.groupby("seed")]
        for name, value in figures.items():
            values = [run[name] for run in by_seed if name in run]
            predicted, number = prediction_interval(values), "{:.3f}"
            if name.startswith("ratio"):
                predicted, number = predicted.clip(0, 1), "{:.1%}"
            inside = "" if len(values) < 2 else "yes" if predicted.contains(value) else "no"
            rows.append([str(dataset), name, number.format(value), predicted.format(number), inside])
    if not rows:
        return None
    return Table(
        "The published run beside ours",
        ["dataset", "figure", "published", "one new run", "inside"],
        rows,
        "Training counts after the last epoch. One new run: our mean with the 95% prediction interval for a single new seed, which a "
        "single published figure is compared with.",
    )


def printed_sentence(published: pd.DataFrame) -> str:
    """Return at which epochs the published file has the F of the printed table."""
    scales = published_scales(published)
    if not scales:
        return ""
    low, high = PRINTED_F
    epochs = [str(epoch) for epoch, scale in scales.items() if low <= scale <= high]
    last = max(scales)
    found = f"only at epoch {', '.join(epochs)}" if epochs else "at no epoch"
    return (
        f"The printed table allows F from {low} to {high}. The published file of Fashion-MNIST has F = {scales[last]:.3f} at its last "
        f"epoch, {last}, and such an F {found}."
    )
