"""Activation ratios by layer width after training, as numbers and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from actratio.laws.observations import DatasetLaws, at_epoch
from actratio.report.findings import Table
from actratio.statistics.estimate import Estimate
from actratio.studies.mlp.figures import laws_of, over_layers

if TYPE_CHECKING:
    import pandas as pd

_RATIO = "{:.1%}"


def width_table(
    frame: pd.DataFrame, laws: Sequence[DatasetLaws], published: pd.DataFrame | None, split: str = "train"
) -> pd.DataFrame:
    """Return the activation ratio and the active neurons by dataset and width, after training.

    Args:
        frame: the tidy table of the study.
        laws: fitted laws.
        published: the article's measurements with our column names (``observations.read_published``).
        split: which examples were counted, ``train`` or ``val``.

    Returns:
        One row per dataset and width, with separate rows for the output layer. ``activation_ratio``, ``active_mean`` and
        ``dead`` are estimates with intervals over seeds; ``sqrt_law`` is F·√N; ``published_ratio`` is ``None`` if the
        article has no such layer.
    """
    import pandas as pd

    rows = []
    for dataset, dataset_rows in at_epoch(frame, split, None).groupby("dataset", sort=False):
        reference = None
        if published is not None:
            reference = at_epoch(published, split, None)
            reference = reference[reference["dataset"] == dataset]
        fitted = laws_of(laws, str(dataset))
        by_width = dataset_rows.assign(logits=dataset_rows["tensor"] == "logits").groupby(["logits", "width"])
        for (logits, width), cells in by_width:
            same = None
            if reference is not None:
                same = reference[(reference["width"] == width) & (reference["logits"] == logits)]
            rows.append(
                {
                    "dataset": dataset,
                    "width": int(width),
                    "tensor": "logits" if logits else "activation",
                    "layers": cells.groupby(["architecture", "layer"]).ngroups,
                    "activation_ratio": over_layers(cells, "activation_ratio"),
                    "active_mean": over_layers(cells, "active_mean"),
                    "dead": over_layers(cells, "dead"),
                    "sqrt_law": None if logits or fitted is None else float(fitted.fits["sqrt"].predict([width])[0]),
                    "published_ratio": None if same is None or same.empty else float(same["activation_ratio"].mean()),
                }
            )
    return pd.DataFrame(rows)


def _share(ratio: Estimate) -> str:
    """Return the ratio ± half of its interval, or the interval itself if it ends at 0 or 1."""
    return ratio.format(_RATIO) if ratio.low <= 0 or ratio.high >= 1 else ratio.plus_minus(_RATIO)


def width_findings(frame: pd.DataFrame, laws: Mapping[str, DatasetLaws], published: pd.DataFrame | None) -> Table:
    """Return the numbers of ``width_table`` as text: training counts, with the held-out ratio beside them.

    Args:
        frame: the table of the article's networks.
        laws: laws fitted to the training counts by data set.
        published: the article's measurements with our column names (``observations.read_published``).
    """
    import pandas as pd

    fitted = list(laws.values())
    table = width_table(frame, fitted, published)
    held_out = width_table(frame, fitted, None, "val")["activation_ratio"]
    header = ["dataset", "width", "layers", "training ratio", "held-out ratio", "active", "F·√N", "dead"]
    header += ["published ratio"] * (published is not None)
    rows = []
    for row, val_ratio in zip(table.itertuples(), held_out, strict=True):
        ratio, active, dead = row.activation_ratio, row.active_mean, row.dead
        for estimate in (ratio, active, dead, val_ratio):
            assert isinstance(estimate, Estimate)
        cells = [
            row.dataset,
            f"{row.width}" + (" (logits)" if row.tensor == "logits" else ""),
            str(row.layers),
            _share(ratio),
            _share(val_ratio),
            active.plus_minus("{:.1f}"),
            "" if row.sqrt_law != row.sqrt_law or row.sqrt_law is None else f"{row.sqrt_law:.1f}",
            f"{dead.value:.1f}",
        ]
        if published is not None:
            cells.append("" if pd.isna(row.published_ratio) else _RATIO.format(row.published_ratio))
        rows.append([str(cell) for cell in cells])
    return Table(
        "Active neurons by layer width, after training",
        header,
        rows,
        "Means over the layers of a width, ± half of the 95% interval over seeds; intervals of ratios are cut off at 0 and 1. Training: counted over the batches of the last epoch, as the "
        "article did; the columns from 'active' on too. F·√N: active neurons by the law fitted to all layers. Dead: neurons that were active on "
        "no training example in the last epoch.",
    )
