"""The findings of the study of architectures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from actratio.report.chart import Chart, Series
from actratio.report.findings import Findings, Table
from actratio.statistics.estimate import Estimate
from actratio.statistics.verdict import NO, YES, Verdict
from actratio.studies.architectures.judging import (
    ProfileEstimate,
    judge_generalises,
    judge_shift,
    judge_twin,
    judge_universal,
    layer_estimates,
    mean_estimate,
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

if TYPE_CHECKING:
    import pandas as pd

_FAMILIES = {"smollm2": "Llama (smollm2)", "minilm": "BERT (minilm)", "iglm": "GPT-2 of antibodies (iglm)"}
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
            "Share of the outputs of the activation function that are above zero, by layer, in pretrained models of other families. "
            f"Each variant of a model read about {settings['tokens']:,} tokens in {settings['blocks']} blocks; intervals are over blocks of text."
        ),
        sentences=_sentences(profiles, costs, len(models), widened=sizes is not None and bool(settings["weights"])),
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
            "The article's profile generalises to the other families",
            generalises,
            number,
            GENERALISES,
            figure=f"models of {models} that have it",
        ),
        Verdict(
            "The article's profile is universal", universal, miss, UNIVERSAL, figure=f"largest miss, points ({where})"
        ),
    ]


def _twin_verdicts(frame: pd.DataFrame, models: Sequence[str]) -> list[Verdict]:
    verdicts = []
    for model in models:
        ratios = twin_ratios(frame, model)
        if ratios:
            verdict, mean = judge_twin(ratios, len(models))
            claim = f"{model} with newly initialised weights has 49 to 51%"
            verdicts.append(Verdict(claim, verdict, mean, TWINS, figure="ratio"))
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
        claim = f"Rounding the weights of {model} to Q4_1 shifts no layer by 1 point"
        verdicts.append(Verdict(claim, verdict, points, SHIFT, model == CONTROL, f"shift of layer {layer}, points"))
    return verdicts


def _sentences(
    profiles: Sequence[ProfileEstimate], costs: Mapping[str, Costs], models: int, *, widened: bool
) -> list[str]:
    sentences = [_answer(profiles, models)] if profiles else []
    for profile in profiles:
        first, plateau, drift = (part.value for part in profile.parts)
        sentences.append(
            f"{profile.model}: {first:.1%} in the first layer, {plateau:.1%} after the first third, {drift:+.0%} from there to the last layer."
        )
    for model, found in costs.items():
        cost = "its loss may rise by 1%" if found.relative else "the cosine of its embeddings may fall by 0.01"
        limit = "at most " if found.smallest.value <= min(found.kept) else ""
        sentences.append(
            f"{model} needs {limit}{found.smallest.value:.0%} of its neurons, those with each token's largest contributions, if {cost}."
        )
    if widened:
        sentences.append(
            "The intervals of models with quantised weights are widened by the shift that rounding causes in MiniLM."
        )
    return sentences


def _answer(profiles: Sequence[ProfileEstimate], models: int) -> str:
    """Return whether the profile carries over, with the figures that decide."""
    outcome, number = judge_generalises(profiles, models)
    begin = {
        YES: "Yes, the profile of the GPT models carries over to other architectures",
        NO: "No, the profile of the GPT models does not carry over to other architectures",
    }.get(
        outcome, "Whether the profile of the GPT models carries over to other architectures cannot be decided from this"
    )
    figures = "; ".join(
        f"{_FAMILIES.get(profile.model, profile.model)} {profile.parts[0].value:.0%}, {profile.parts[1].value:.0%} and {profile.parts[2].value:+.0%}"
        for profile in profiles
    )
    return (
        f"{begin}: {number.value:.0f} of {models} models have 3 to 5% in the first layer, 12 to 16% after the first third, and a change of at most 20% "
        f"from there ({figures})."
    )


def _profile_table(profiles: Sequence[ProfileEstimate]) -> Table:
    rows = [
        [
            profile.model,
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
        cells = [model]
        for variant, tensor in (
            ("pretrained", "activation"),
            ("pretrained", "hidden"),
            ("shuffled", "activation"),
            ("twin", "activation"),
            ("published", "activation"),
        ):
            counts = block_counts(frame, model, variant, tensor)
            cells.append("" if counts is None or not len(counts.active) else mean_estimate(counts).format("{:.1%}"))
        cells.append(costs[model].smallest.format("{:.0%}") if model in costs else "")
        if any(cells[1:]):
            rows.append(cells)
    return Table(
        "Other readings",
        ["model", "activation", "hidden", "shuffled text", "new weights", "published sequences", "smallest share"],
        rows,
        "Mean over layers of the share of outputs above zero, with 95% intervals over blocks of text. Hidden: gated MLPs only. The smallest share of neurons "
        "that is needed, kept by contribution, costs 1% of the loss, or 0.01 of the cosine of embeddings for models that don't predict tokens.",
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
            series.append(Series(model, list(depths), estimates, colour, labels=labels))
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
        series.append(Series(model, [share for share, _ in drawn], [cost for _, cost in drawn], colour))
    needed = sorted(found.smallest.value for found in costs.values())
    share = f"{needed[0]:.0%}" if len(needed) == 1 else f"{needed[0]:.0%} to {needed[-1]:.0%}"
    return Chart(
        key="smallest-share",
        title=f"At a cost of 1%, {share} of the neurons are needed",
        reading="Cost of keeping, for each token, only the neurons with the largest contributions in every MLP. For language models it is the increase of the "
        "loss, relative to the dense loss; for other models 1 − cosine of the embeddings. Bands are 95% intervals over blocks. "
        "Costs above 20% aren't drawn.",
        x_label="neurons kept, %",
        y_label="cost",
        series=series,
        percent=True,
    )


def _layers(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the activation ratio of each model, variant, tensor and layer over all blocks."""
    rows = frame[frame["layer"] >= 0]
    keys = ["model", "variant", "tensor", "criterion", "layer", "width"]
    sums = rows.groupby(keys, sort=False)[["tokens", "active", "outputs"]].sum().reset_index()
    return sums.assign(activation_ratio=sums["active"] / sums["outputs"])
