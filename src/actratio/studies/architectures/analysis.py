"""The findings of the study of architectures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from actratio.report.chart import Chart, Series
from actratio.report.findings import Findings, Table
from actratio.statistics.estimate import Estimate
from actratio.statistics.verdict import YES, Verdict, interval_name
from actratio.studies.architectures.answers import answer_sentences, later_sentences
from actratio.studies.architectures.judging import (
    ProfileEstimate,
    family_level,
    judge_generalises,
    judge_shift,
    judge_twin,
    judge_universal,
    layer_estimates,
    layer_level,
    mean_estimate,
    twin_level,
)
from actratio.studies.architectures.measured import (
    CONTROL,
    Costs,
    block_counts,
    costs_of,
    curves_by_model,
    mean_and_range,
    profiles_of,
    shift_sizes,
    twin_ratios,
)
from actratio.studies.architectures.rules import GENERALISES, SHIFT, TWINS, UNIVERSAL
from actratio.studies.names import shown_name

if TYPE_CHECKING:
    import pandas as pd

_PLACES = 13  # relative depths at which the mean of several models is drawn
_HIGHEST_COST = 0.2  # that is drawn


def architecture_findings(frame: pd.DataFrame, settings: Mapping[str, Any], published: pd.DataFrame | None) -> Findings:
    """Return the verdicts on the article's profile, and what else was measured.

    Args:
        frame: the tidy table of the study.
        settings: the settings of the study.
        published: the article's measurements, drawn beside ours.
    """
    models: list[str] = settings["models"]
    shift = _shift_verdicts(frame, models)
    control = next((verdict for verdict in shift if verdict.confirmatory), None)
    sizes = None if control is not None and control.verdict == YES else shift_sizes(frame)
    profiles = profiles_of(frame, settings, sizes or (0.0, 0.0, 0.0))
    costs = {model: found for model in models if (found := costs_of(frame, model)) is not None}
    verdicts = [
        *_profile_verdicts(profiles, len(models)),
        *_twin_verdicts(frame, models),
        *shift,
    ]
    charts = [_profile_chart(frame, models, profiles, published)] if profiles else []
    return Findings(
        title="Does the profile of the GPT models carry over?",
        lead=(
            "Share of the outputs of the activation function that are above zero, by layer, in pretrained models other than the article's. "
            f"Each variant of a model read about {settings['tokens']:,} tokens in {settings['blocks']} blocks; intervals are over blocks of text."
        ),
        sentences=answer_sentences(
            profiles, costs, len(models), published, widened=sizes is not None and bool(settings["weights"])
        ),
        afterwards=later_sentences(profiles, published),
        verdicts=verdicts,
        tables=[table for table in (_profile_table(profiles), _readings_table(frame, models, costs)) if table.rows],
        charts=charts + ([_cost_chart(costs)] if costs else []),
        details={name: str(value) for name, value in settings.items() if isinstance(value, dict)},
        exports={"layers.csv": _layers(frame)},
    )


def _profile_verdicts(profiles: Sequence[ProfileEstimate], models: int) -> list[Verdict]:
    if not profiles:
        return []
    generalises, number = judge_generalises(profiles, models)
    universal, miss, where = judge_universal(profiles, models)
    return [
        Verdict(
            "The article's profile generalises to the other models",
            generalises,
            number,
            GENERALISES,
            figure=f"models of {models} that have it",
            bounds="models that have it … that may have it",
            predicted=YES,
        ),
        Verdict(
            "The article's profile is universal",
            universal,
            miss,
            UNIVERSAL,
            figure=f"largest miss, points ({where})",
            bounds=interval_name(family_level(models)),
        ),
    ]


def _twin_verdicts(frame: pd.DataFrame, models: Sequence[str]) -> list[Verdict]:
    verdicts = []
    for model in models:
        ratios = twin_ratios(frame, model)
        if ratios:
            verdict, mean = judge_twin(ratios, len(models))
            points = Estimate(100 * mean.value, 100 * mean.low, 100 * mean.high)
            claim = f"{shown_name(model)} with newly initialised weights has 49 to 51%"
            bounds = interval_name(twin_level(len(models)))
            verdicts.append(Verdict(claim, verdict, points, TWINS, figure="ratio, %", bounds=bounds, predicted=YES))
    return verdicts


def _shift_verdicts(frame: pd.DataFrame, models: Sequence[str]) -> list[Verdict]:
    """Return a verdict for each model whose weights were rounded; only that of ``CONTROL`` is confirmatory."""
    verdicts = []
    for model in models:
        original, rounded = block_counts(frame, model, "pretrained"), block_counts(frame, model, "quantised")
        if original is None or rounded is None or len(original.active) != len(rounded.active):
            continue
        verdict, shift, layer = judge_shift(original, rounded)
        points = Estimate(100 * shift.value, 100 * shift.low, 100 * shift.high)
        claim = f"Rounding the weights of {shown_name(model)} to Q4_1 shifts no layer by 1 point"
        bounds, known = interval_name(layer_level(original.active.shape[1])), model == CONTROL
        figure = f"shift of layer {layer}, points"
        verdicts.append(Verdict(claim, verdict, points, SHIFT, known, figure, bounds, YES if known else ""))
    return verdicts


def _profile_table(profiles: Sequence[ProfileEstimate]) -> Table:
    rows = [
        [
            shown_name(profile.model),
            *(part.format("{:.1%}") for part in profile.parts[:2]),
            profile.parts[2].format("{:+.0%}"),
            "yes" if profile.holds else "no",
        ]
        for profile in profiles
    ]
    return Table(
        "Profiles",
        ["model", "first layer", "after first third", "change after", "all in the bands"],
        rows,
        "Activation ratios, with 95% intervals over blocks of text. Change after: of a straight line through the layers after the first third, relative "
        "to their mean. The bands are 3 to 5%, 12 to 16%, and −20 to +20%.",
    )


def _readings_table(frame: pd.DataFrame, models: Sequence[str], costs: Mapping[str, Costs]) -> Table:
    rows = []
    for model in models:
        cells = [shown_name(model)]
        for variant, tensor in (
            ("pretrained", "activation"),
            ("pretrained", "hidden"),
            ("shuffled", "activation"),
            ("published", "activation"),
        ):
            counts = block_counts(frame, model, variant, tensor)
            cells.append("" if counts is None or not len(counts.active) else mean_estimate(counts).format("{:.1%}"))
        twins = twin_ratios(frame, model)  # an initialisation is the unit, as in the verdict
        cells.append(judge_twin(twins, len(models))[1].format("{:.1%}") if twins else "")
        cells.append(costs[model].smallest.format("{:.0%}") if model in costs else "")
        if any(cells[1:]):
            rows.append(cells)
    return Table(
        "Other readings",
        ["model", "activation", "hidden", "shuffled text", "published sequences", "new weights", "smallest share"],
        rows,
        "Mean over layers of the share of outputs above zero, with 95% intervals over blocks of text. Hidden: gated MLPs only. New weights: "
        f"{interval_name(twin_level(len(models)))}s over initialisations, as in the verdicts. The smallest share of neurons that is needed, kept by "
        "contribution, costs 1% of the loss, or 0.01 of the cosine of embeddings for models that don't predict tokens; its interval is over one block "
        "in four.",
    )


def _profile_chart(
    frame: pd.DataFrame,
    models: Sequence[str],
    profiles: Sequence[ProfileEstimate],
    published: pd.DataFrame | None,
) -> Chart:
    series, twins = [], []
    for colour, model in enumerate(models):
        counts, twin = block_counts(frame, model, "pretrained"), block_counts(frame, model, "twin")
        if counts is not None and len(counts.active):
            estimates = layer_estimates(counts)
            last = max(len(estimates) - 1, 1)
            depths, labels = zip(*((layer / last, f"layer {layer}") for layer in range(len(estimates))), strict=True)
            series.append(Series(shown_name(model), list(depths), estimates, colour, labels=labels))
        if twin is not None and len(twin.active):
            twins.append(twin.ratios)
    places = np.linspace(0, 1, _PLACES)
    if twins:
        series.append(Series("new weights", places.tolist(), mean_and_range(twins, places), len(models), "dashed"))
    if published is not None:
        curves = curves_by_model(published)
        series.append(
            Series("GPT, published", places.tolist(), mean_and_range(curves, places), len(models) + 1, "published")
        )
    have = sum(profile.holds for profile in profiles)
    return Chart(
        key="profile",
        title=f"{have} of {len(profiles)} models have the profile of the article's GPT models",
        reading="Each point is one layer: the share of activation outputs above zero, with a 95% interval over blocks of text. Dashed: mean, "
        "lowest and highest of the same models with newly initialised weights."
        + ("" if published is None else " Hollow points: mean, lowest and highest of the article's models."),
        x_label="relative depth (0: first layer, 1: last layer)",
        y_label="activation ratio",
        series=series,
        percent=True,
    )


def _cost_chart(costs: Mapping[str, Costs]) -> Chart:
    series = []
    for colour, (model, found) in enumerate(costs.items()):
        drawn = [
            (100 * share, cost)
            for share, cost in zip(found.kept, found.costs, strict=True)
            if cost.value <= _HIGHEST_COST
        ]
        kind = "loss" if found.relative else "1 − cosine"
        series.append(
            Series(f"{shown_name(model)}, {kind}", [share for share, _ in drawn], [cost for _, cost in drawn], colour)
        )
    blocks = sorted({found.blocks for found in costs.values()})
    return Chart(
        key="smallest-share",
        title=_needed_title(costs),
        reading="Cost of keeping, for each token, only the neurons with the largest contributions in every MLP. For language models it is the increase of the "
        "loss, relative to the dense loss; for other models 1 − cosine of the embeddings. The two differ in kind. Bands are 95% intervals over "
        f"{' or '.join(map(str, blocks))} blocks of text. "
        "Costs above 20% aren't drawn.",
        x_label="neurons kept, %",
        y_label="cost",
        series=series,
        percent=True,
    )


def _needed_title(costs: Mapping[str, Costs]) -> str:
    """Return which share is needed, apart for the two kinds of cost."""

    def share(relative: bool) -> str:
        found = sorted(cost.smallest.value for cost in costs.values() if cost.relative == relative)
        return f"{found[0]:.0%}" if len(found) == 1 else f"{found[0]:.0%} to {found[-1]:.0%}" if found else ""

    parts = [
        f"{share(True)} for 1% more loss" if share(True) else "",
        f"{share(False)} for a cosine of 0.99" if share(False) else "",
    ]
    return f"Neurons needed: {', '.join(part for part in parts if part)}"


def _layers(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the activation ratio of each model, variant, tensor and layer over all blocks."""
    rows = frame[frame["layer"] >= 0]
    keys = ["model", "variant", "tensor", "criterion", "layer", "width"]
    sums = rows.groupby(keys, sort=False)[["tokens", "active", "outputs"]].sum().reset_index()
    return sums.assign(activation_ratio=sums["active"] / sums["outputs"])
