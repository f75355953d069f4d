"""The sentences of the study: its answer, then one for each thing that was judged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from actratio.errors import plural
from actratio.report.findings import predictions_sentence
from actratio.statistics.estimate import Estimate
from actratio.statistics.seeds import over_seeds
from actratio.statistics.verdict import MET, NO, UNDECIDED, YES, Verdict
from actratio.studies.activation.claims import (
    CONFIRMATORY_MODELS,
    EQUAL_LOSS_CLAIM,
    IMPACT_CLAIM,
    INACTIVE_CLAIM,
    LEAST_CLAIM,
    MEAN_CLAIM,
)
from actratio.studies.activation.contrasts import Switched, impacts, impacts_at_equal_loss, switches, where
from actratio.studies.activation.extracts import ModelCosts
from actratio.studies.activation.intervening import ALL_LAYERS
from actratio.studies.activation.judging import FALSE, HARMLESS, Values
from actratio.studies.activation.summaries import recovered_share
from actratio.studies.names import shown_name

if TYPE_CHECKING:
    import pandas as pd

_LOSSES = {
    "BANKING77": "the cross entropy of a linear probe that reads its embeddings of BANKING77",
    "own samples": "that of the next token in sequences that it sampled itself",
    "text": "that of the next token in text",
}


def answer_sentences(costs: Sequence[ModelCosts], rows: pd.DataFrame, judged: Mapping[str, Verdict]) -> list[str]:
    """Return what dropping by sign costs in the GELU models, and how GELU changes the ratio of trained networks, as one text.

    Args:
        costs: of the pretrained models.
        rows: what ``trained_rows`` returned.
        judged: verdicts by claim.
    """
    known = [model for model in costs if model.model in CONFIRMATORY_MODELS and model.whole("sign") is not None]
    said = [*_inactive_answer(known, judged), *_impact_answer(rows)]
    return [" ".join(said)] if said else []


def _inactive_answer(costs: Sequence[ModelCosts], judged: Mapping[str, Verdict]) -> Iterator[str]:
    if not costs:
        return
    outcomes = {judged[f"{shown_name(model.model)}: {INACTIVE_CLAIM}"].verdict for model in costs}
    if outcomes == {YES}:
        yield "GELU's outputs at or below 0 are inactive in the models that were tested."
    elif NO in outcomes:
        yield "GELU's outputs at or below 0 are not inactive in general."
    else:
        yield "Whether GELU's outputs at or below 0 are inactive can't be decided from this."
    for model in costs:
        name, cost = shown_name(model.model), over_seeds(_known(model.whole("sign"))).value
        if model.reads == "BANKING77":
            yield (
                f"With all of them set to zero, a linear probe that reads the embeddings of the sentence encoder {name} is right {_accuracy(model, 'sign')} of the "
                f"time instead of {_accuracy(model, 'dense')}, and its loss rises from {model.loss:.2f} to {model.loss * (1 + cost):.2f} nats."
            )
        else:
            between = ""
            if _is_between(model, judged):
                between = (
                    f": more than is harmless ({HARMLESS:.0%}), and less than was predicted (more than {FALSE:.0%})"
                )
            own = ", on sequences that it sampled itself" if model.reads == "own samples" else ""
            kind = "the antibody model " if model.reads == "own samples" else ""
            yield f"In {kind}{name}{own}, zeroing them costs {cost:.1%} of the loss{between}."


def _is_between(model: ModelCosts, judged: Mapping[str, Verdict]) -> bool:
    """Return whether the rule decides nothing because the whole interval of the cost lies between its two bounds."""
    cost = over_seeds(_known(model.whole("sign")))
    undecided = judged[f"{shown_name(model.model)}: {INACTIVE_CLAIM}"].verdict == UNDECIDED
    return undecided and cost.low > HARMLESS and cost.high < FALSE


def _impact_answer(rows: pd.DataFrame) -> Iterator[str]:
    at_steps = {(part, dataset): values for part, dataset, values in impacts(rows)}
    at_loss = {(part, dataset): values for part, dataset, values, _ in impacts_at_equal_loss(rows)}
    if not at_steps:
        return
    found: list[str] = []
    for key, values in at_steps.items():
        many = "" if found else " as many outputs above 0"
        equal = f" ({np.exp(at_loss[key].mean()):.2f} times at equal training loss)" if key in at_loss else ""
        found.append(f"{np.exp(values.mean()):.2f} times{many} in the {where(*key)}{equal}")
    yield f"Networks that were trained with GELU instead of ReLU have {', '.join(found)}."


def judged_sentences(costs: Sequence[ModelCosts], rows: pd.DataFrame, judged: Mapping[str, Verdict]) -> list[str]:
    """Return one sentence for each thing that was judged, after one that counts the verdicts.

    Args:
        costs: of the pretrained models.
        rows: what ``trained_rows`` returned.
        judged: verdicts by claim.
    """
    if not judged:
        return ["No claim can be judged yet: the parts that are finished have no two documents or seeds to compare."]
    said = [sentence for model in costs for sentence in _model_sentences(model, judged)]
    said += list(_impact_sentences(rows, judged))
    said += [_switch_sentence(found, judged[found.claim]) for found in switches(rows)]
    return [_count(list(judged.values())), *said]


def _model_sentences(model: ModelCosts, judged: Mapping[str, Verdict]) -> Iterator[str]:
    name, sign = shown_name(model.model), model.whole("sign")
    if sign is None:
        return
    rise, right = over_seeds(model.rises["sign"]), over_seeds(model.right["sign"])
    yield (
        f"{name}: the loss is {_LOSSES.get(model.reads, 'that of the next token')}, {model.loss:.3f} nats on average over "
        f"{plural(len(model.dense), 'document')} (median {np.median(model.dense):.3f}). Zeroing the outputs at or below 0 in all layers raises it by "
        f"{rise.format('{:.3f}')} nats, or {over_seeds(sign).format('{:.1%}')} of itself, and changes the accuracy by "
        f"{_points(right).format('{:+.1f}')} percentage points. {_said(judged[f'{name}: {INACTIVE_CLAIM}'], 'these outputs are inactive')}"
        + (
            f" The cost is neither harmless (less than {HARMLESS:.0%}) nor more than {FALSE:.0%}."
            if _is_between(model, judged)
            else ""
        )
    )
    least, share = model.whole("least"), recovered_share(model)
    if least is not None:
        yield (
            f"{name}: zeroing as many outputs with the least contribution instead costs {over_seeds(least).format('{:.1%}')} of the loss. "
            + _said(judged[f"{name}: {LEAST_CLAIM}"], "it costs less")
        )
    if not math.isnan(share):
        yield (
            f"{name}: replacing the outputs at or below 0 by their mean instead of zero recovers {share:.0%} of the cost. "
            + _said(judged[f"{name}: {MEAN_CLAIM}"], "it recovers at least half")
        )


def _impact_sentences(rows: pd.DataFrame, judged: Mapping[str, Verdict]) -> Iterator[str]:
    at_loss = {(part, dataset): values for part, dataset, values, _ in impacts_at_equal_loss(rows)}
    for part, dataset, values in impacts(rows):
        place = where(part, dataset)
        text = (
            f"{place[0].upper()}{place[1:]}: with GELU, the activation ratio is {over_seeds(values).exp().format('{:.2f}')} times that with ReLU after "
            f"equally many steps. {_said(judged[f'{place}: {IMPACT_CLAIM}'], 'it is the same within 10%')}"
        )
        if (part, dataset) in at_loss:
            text += (
                f" At equal training loss, it is {over_seeds(at_loss[part, dataset]).exp().format('{:.2f}')} times. "
                + _said(judged[f"{place}: {EQUAL_LOSS_CLAIM}"], "it is the same within 10%")
            )
        yield text


def _switch_sentence(found: Switched, verdict: Verdict) -> str:
    why = ""
    if verdict.verdict == UNDECIDED and found.arms_are_close:
        why = f" Without a switch the two differ by {found.difference:.0%}, so the rule's band of 10% can't tell staying from moving."
    return (
        f"{found.where}, switched from {found.before} to {found.after} in mid-training: the ratio is "
        f"{over_seeds(found.to_other).exp().format('{:.2f}')} times that of a network with {found.after} throughout. "
        f"{_said(verdict, f'it moves to the ratio of {found.after}')}{why}"
    )


def _count(judged: Sequence[Verdict]) -> str:
    """Return how many confirmatory claims hold, and how many predictions were met."""
    confirmatory = [verdict for verdict in judged if verdict.confirmatory]
    if not confirmatory:
        return "No claim is confirmatory."
    counts = {outcome: sum(verdict.verdict == outcome for verdict in confirmatory) for outcome in (YES, NO)}
    return (
        f"Of {plural(len(confirmatory), 'confirmatory claim')}, {counts[YES]} hold, {counts[NO]} don't hold, and "
        f"{len(confirmatory) - counts[YES] - counts[NO]} can't be decided from this. {predictions_sentence(confirmatory)}"
    )


def _said(verdict: Verdict, claim: str) -> str:
    """Return a verdict as a sentence, with what became of the prediction."""
    became = (
        ""
        if verdict.prediction in ("", UNDECIDED)
        else f"; the prediction {'was met' if verdict.prediction == MET else 'failed'}"
    )
    extra = "" if verdict.confirmatory else " (exploratory)"
    return f"Verdict on '{claim}'{extra}: {verdict.verdict}{became}."


def _accuracy(model: ModelCosts, way: str) -> str:
    return f"{model.scores[ALL_LAYERS, way, 0.0 if way == 'dense' else 1.0][0]:.0%}"


def _points(share: Estimate) -> Estimate:
    return Estimate(100 * share.value, 100 * share.low, 100 * share.high)


def _known(values: Values | None) -> Values:
    assert values is not None
    return values
