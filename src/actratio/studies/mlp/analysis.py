"""The findings of the study of MLPs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from actratio.errors import FitError
from actratio.laws.observations import fit_observations, prepare_observations, to_article
from actratio.report.findings import Findings, Table
from actratio.report.laws import law_sentences, laws_table
from actratio.statistics.estimate import Estimate
from actratio.studies.mlp.figures import mlp_charts, width_table

if TYPE_CHECKING:
    import pandas as pd

_RATIO = "{:.1%}"


def study_findings(frame: pd.DataFrame, settings: Mapping[str, Any], published: pd.DataFrame | None) -> Findings:
    """Fit the laws to every dataset, and return the sentences, tables and charts.

    Args:
        frame: the tidy table of the study.
        settings: the settings of the study.
        published: the article's measurements with our column names (``observations.read_published``).
    """
    laws, unfitted = [], []
    if not settings.get("quick"):  # a quick run supports no law
        for dataset, rows in prepare_observations(frame, "the study's table").groupby("dataset", sort=False):
            try:
                laws += fit_observations(rows)
            except FitError as error:  # for example for a single width; the rest can still be shown
                unfitted.append(f"{dataset}: no law was fitted: {error}.")
    tables = [_width_table(width_table(frame, laws, published), published is not None)]
    if laws:
        tables.append(laws_table(laws))
    return Findings(
        title=f"Activation ratios of MLPs on {', '.join(settings['datasets'])}",
        lead=(
            f"{settings['seeds']} seeds, {settings['epochs']} epochs, batch {settings['batch_size']}, Adam, "
            f"{'with' if settings['bias'] else 'without'} biases. The activation ratio is the share of neurons whose "
            "activation is above zero, counted over the training batches of the last epoch unless a chart says otherwise."
        ),
        sentences=[*(sentence for fitted in laws for sentence in law_sentences(fitted)), *unfitted],
        tables=tables,
        charts=mlp_charts(frame, laws, published),
        details={
            f"data: {name}": f"{entry['train']} + {entry['val']} examples, {entry['features']} features, "
            f"{entry['classes']} classes, SHA-256 {entry['fingerprint'][:16]}…"
            for name, entry in settings["data"].items()
        },
        data={"laws": [fitted.to_dict() for fitted in laws]},
        exports={"article.csv": to_article(frame)},
    )


def _width_table(table: pd.DataFrame, with_published: bool) -> Table:
    """Return the numbers of ``figures.width_table`` as text."""
    import pandas as pd

    header = ["dataset", "width", "layers", "activation ratio", "active", "F·√N", "dead"] + [
        "published ratio"
    ] * with_published
    rows = []
    for row in table.itertuples():
        ratio, active, dead = row.activation_ratio, row.active_mean, row.dead
        assert isinstance(ratio, Estimate)
        assert isinstance(active, Estimate)
        assert isinstance(dead, Estimate)
        cells = [
            row.dataset,
            f"{row.width}" + (" (logits)" if row.tensor == "logits" else ""),
            str(row.layers),
            ratio.plus_minus(_RATIO),
            active.plus_minus("{:.1f}"),
            "" if row.sqrt_law != row.sqrt_law or row.sqrt_law is None else f"{row.sqrt_law:.1f}",
            f"{dead.value:.1f}",
        ]
        published = row.published_ratio
        rows.append(
            [str(cell) for cell in cells]
            + (["" if pd.isna(published) else _RATIO.format(published)] if with_published else [])
        )
    return Table(
        "Active neurons by layer width, after training",
        header,
        rows,
        "Means over the layers of a width, ± half of the 95% interval over seeds. F·√N: active neurons by the fitted law. Dead: neurons that "
        "were active on no training example in the last epoch.",
    )
