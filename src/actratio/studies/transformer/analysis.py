"""The findings of the study of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actratio.report.chart import Chart, Series
from actratio.report.findings import Findings, Table
from actratio.statistics.estimate import mean_interval
from actratio.studies.transformer.description import description_verdict, late_layers_verdict
from actratio.studies.transformer.profiles import Profile, article_table, depth_profiles

if TYPE_CHECKING:
    import pandas as pd


def profile_findings(frame: pd.DataFrame, settings: Mapping[str, Any], published: pd.DataFrame | None) -> Findings:
    """Return the profile of each model, compared with the article's description.

    Args:
        frame: the tidy table of the study.
        settings: the settings of the study.
        published: the article's measurements (``profiles.read_gpt``), judged too, and drawn for the models of both.
    """
    table = article_table(frame)
    profiles = depth_profiles(table)
    prompts = len(settings["prompts"])
    verdicts = [description_verdict(profiles, "measured")]
    if published is not None and not published.empty:
        verdicts += [
            description_verdict(depth_profiles(published), "published"),
            late_layers_verdict(published, "published"),
        ]
    return Findings(
        title="Activation ratios of transformers",
        lead=(
            "Share of the activation function's outputs that are above zero, over the tokens of "
            f"{prompts} prompt{'' if prompts == 1 else 's'}."
        ),
        sentences=[profile.verdict for profile in profiles],
        verdicts=verdicts,
        tables=[profile_table(profiles, table.groupby("model")["layer"].nunique().to_dict())],
        charts=[profile_chart(table, published)],
        details={name: str(value) for name, value in settings.items() if isinstance(value, dict)},
        exports={"gpt.csv": table},
    )


def profile_chart(table: pd.DataFrame, published: pd.DataFrame | None) -> Chart:
    """Return a chart of the activation ratio by relative depth, one line per model.

    Args:
        table: a table with ``GPT_COLUMNS``.
        published: the article's measurements with the same columns, shown for the models that they contain.
    """
    series = []
    for colour, (model, rows) in enumerate(table.groupby("model", sort=False)):
        series.append(_line(str(model), rows, colour, "line"))
        name = Path(str(model)).name
        published_rows = None if published is None else published[published["model"] == name]
        if published_rows is not None and not published_rows.empty:
            series.append(_line(f"{name}, published", published_rows, colour, "published"))
    return Chart(
        key="profile",
        title="Activation ratio by layer",
        reading="Each point is one layer: the share of activation outputs above zero, as the mean over prompts with equal weights. "
        "Bands are 95% intervals over prompts."
        + ("" if published is None else " Hollow points are the article's measurements."),
        x_label="relative depth (0: first layer, 1: last layer)",
        y_label="activation ratio",
        series=series,
        percent=True,
    )


def _line(name: str, rows: pd.DataFrame, colour: int, style: str) -> Series:
    last = max(int(rows["layer"].max()), 1)
    points = [
        (int(layer), mean_interval(layer_rows["activation_ratio"].tolist()))
        for layer, layer_rows in rows.groupby("layer")
    ]
    depths, labels = [layer / last for layer, _ in points], [f"layer {layer}" for layer, _ in points]
    return Series(name, depths, [ratio for _, ratio in points], colour, style, labels)


def profile_table(profiles: list[Profile], layers: dict[str, int]) -> Table:
    """Return a table with one row per model, of the three numbers that are compared with the article's description.

    Args:
        profiles: the profiles of the models.
        layers: number of layers by model.
    """
    rows = [
        [
            profile.model,
            str(layers[profile.model]),
            f"{profile.first:.1%}",
            f"{profile.plateau:.1%}",
            f"{profile.drift:+.0%}",
        ]
        for profile in profiles
    ]
    return Table(
        "Activation ratio by depth",
        ["model", "layers", "first layer", "after first third", "change after"],
        rows,
        "Means over prompts. After first third: mean ratio of the layers after the first third. Change after: change of a straight line "
        "fitted to these layers, from the first to the last of them, relative to their mean.",
    )
