"""The findings of the study of activation functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actratio.errors import plural
from actratio.report.findings import Findings
from actratio.statistics.seeds import over_seeds
from actratio.statistics.verdict import NO, YES, Verdict
from actratio.studies.activation.claims import (
    CONFIRMATORY_MODELS,
    impact_claims,
    impacts,
    pretrained_claims,
    switch_claims,
    verdicts,
    where,
)
from actratio.studies.activation.drawings import dose_chart, training_chart
from actratio.studies.activation.extracts import ModelCosts, model_costs, trained_rows
from actratio.studies.activation.summaries import (
    arms_table,
    character_table,
    layers_table,
    pretrained_table,
    recovered_share,
    switches_table,
)

if TYPE_CHECKING:
    import pandas as pd

_SAID = {YES: "holds", NO: "does not hold"}


def activation_findings(frame: pd.DataFrame, settings: Mapping[str, Any]) -> Findings:
    """Return the verdicts on pretrained models, on GELU's impact and on the switches.

    Args:
        frame: the tidy table of the study; parts may be missing.
        settings: the settings of the study.
    """
    costs, rows = model_costs(frame), trained_rows(frame)
    claims = [*pretrained_claims(costs), *impact_claims(rows), *switch_claims(rows)]
    judged = verdicts(claims, settings)
    tables = [
        pretrained_table(costs),
        arms_table(rows),
        switches_table(rows),
        layers_table(costs),
        character_table(frame),
    ]
    charts = [dose_chart(model) for model in costs]
    charts += [
        training_chart(group, str(part), str(dataset))
        for (part, dataset), group in rows.groupby(["part", "dataset"], sort=False)
    ]
    return Findings(
        title="What does GELU do?",
        lead=(
            "Outputs of pretrained models' MLPs are dropped by sign, by least contribution, at random, and by sign with their mean instead of "
            "zero; and models are trained with different activation functions."
        ),
        sentences=[*_answer(costs, rows), *_sentences(judged), *_cost_sentences(costs)],
        tables=[table for table in tables if table.rows],
        charts=charts,
        details={name: str(value) for name, value in settings.items() if isinstance(value, dict)},
        verdicts=judged,
    )


def _answer(costs: Sequence[ModelCosts], rows: pd.DataFrame) -> list[str]:
    """Return what dropping by sign costs in the GELU models, and how GELU changes the ratio of trained networks."""
    lost = [
        f"{over_seeds(sign).format('{:+.1%}')} in {model.model}"
        for model in costs
        if model.model in CONFIRMATORY_MODELS and (sign := model.whole("sign")) is not None
    ]
    changed = [
        f"{over_seeds(values).exp().format('{:.2f}')} times ({where(part, dataset)})"
        for part, dataset, values in impacts(rows)
    ]
    said = []
    if lost:
        said.append(f"zeroing the outputs at or below 0 of GELU models changes the loss by {' and '.join(lost)}")
    if changed:
        said.append(
            f"networks trained with GELU end at these multiples of ReLU's activation ratio: {', '.join(changed)}"
        )
    text = "; ".join(said)
    return [f"{text[0].upper()}{text[1:]}."] if text else []


def _sentences(judged: Sequence[Verdict]) -> list[str]:
    """Return one sentence for each verdict, after one that counts them."""
    if not judged:
        return ["No claim can be judged yet: the parts that are finished have no two documents or seeds to compare."]
    confirmatory = [verdict for verdict in judged if verdict.confirmatory]
    counts = {outcome: sum(verdict.verdict == outcome for verdict in confirmatory) for outcome in (YES, NO)}
    if not confirmatory:
        return ["No claim is confirmatory.", *(_sentence(verdict) for verdict in judged)]
    first = (
        f"Of {plural(len(confirmatory), 'confirmatory claim')}, {counts[YES]} hold, {counts[NO]} don't hold, and "
        f"{len(confirmatory) - counts[YES] - counts[NO]} can't be decided from this."
    )
    return [first, *(_sentence(verdict) for verdict in judged)]


def _sentence(verdict: Verdict) -> str:
    said = _SAID.get(verdict.verdict, "can't be decided from this")
    extra = "" if verdict.confirmatory else "Exploratory: "
    return f"{extra}'{verdict.claim}' {said}: {verdict.figure} {verdict.estimate.format('{:.3g}')}."


def _cost_sentences(costs: Sequence[ModelCosts]) -> list[str]:
    found = []
    for model in costs:
        share = recovered_share(model)
        if not math.isnan(share):
            found.append(
                f"{model.model}: replacing the outputs at or below 0 by their mean recovers {share:.0%} of the cost of zeroing them."
            )
    return found
