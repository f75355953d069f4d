"""What the study of transformers concludes from its tidy table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actratio.laws.estimate import mean_interval
from actratio.report.chart import Chart, Series
from actratio.report.findings import Findings, Table
from actratio.studies.transformer.profiles import Profile, article_table, profiles

if TYPE_CHECKING:
    import pandas as pd


def profile_findings(frame: pd.DataFrame, settings: Mapping[str, Any], published: pd.DataFrame | None) -> Findings:
    """Compare the profile of every model with the article's description.

    Args:
        published: the article's measurements (``profiles.read_gpt``), drawn for the models that it has.
    """
    table = article_table(frame)
    models = profiles(table)
    prompts = len(settings["prompts"])
    return Findings(
        title="Activation ratios of transformers",
        lead=(
            "Share of the activation functions' outputs above zero, over the tokens of "
            f"{prompts} prompt{'' if prompts == 1 else 's'}."
        ),
        sentences=[model.verdict for model in models],
        tables=[profile_table(models, table.groupby("model")["layer"].nunique().to_dict())],
        charts=[profile_chart(table, published)],
        details={name: str(value) for name, value in settings.items()},
        exports={"gpt.csv": table},
    )


def profile_chart(table: pd.DataFrame, published: pd.DataFrame | None) -> Chart:
    """Ratio over the relative position of the layer, one line a model.

    Args:
        table: with ``GPT_COLUMNS``.
        published: the same of the article's, drawn for the models that it has.
    """
    series = []
    for colour, (model, rows) in enumerate(table.groupby("model", sort=False)):
        series.append(_line(str(model), rows, colour, "line"))
        name = Path(str(model)).name
        theirs = None if published is None else published[published["model"] == name]
        if theirs is not None and not theirs.empty:
            series.append(_line(f"{name}, published", theirs, colour, "published"))
    return Chart(
        key="profile",
        title="Activation ratio over depth",
        reading="Each point is one layer's share of activation outputs above zero, the mean over the prompts, each of which weighs "
        "the same; bands are 95 % intervals over prompts. 0 is the first layer and 1 the last."
        + ("" if published is None else " Hollow points are the article's published measurements."),
        x_label="relative position of the layer",
        y_label="activation ratio",
        series=series,
        percent=True,
    )


def _line(name: str, rows: pd.DataFrame, colour: int, style: str) -> Series:
    last = max(int(rows["layer"].max()), 1)
    groups = [
        (int(layer) / last, mean_interval(cells["activation_ratio"].tolist())) for layer, cells in rows.groupby("layer")
    ]
    return Series(name, [place for place, _ in groups], [estimate for _, estimate in groups], colour, style)


def profile_table(profiles: list[Profile], layers: dict[str, int]) -> Table:
    """A row a model: the three figures that the article's description is held against."""
    rows = [
        [each.model, str(layers[each.model]), f"{each.first:.1%}", f"{each.settled:.1%}", f"{each.drift:+.0%}"]
        for each in profiles
    ]
    return Table(
        "Activation ratio over depth",
        ["model", "layers", "first layer", "after a third", "change from there"],
        rows,
        "Means over prompts. 'After a third' is the mean of the layers after the first third; 'change from there' is that of a straight "
        "line through them, from the first to the last, as a share of their mean.",
    )
