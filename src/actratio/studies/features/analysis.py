"""The findings of the study of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actratio.report.findings import Findings
from actratio.statistics.seeds import over_seeds
from actratio.statistics.verdict import NO, YES
from actratio.studies.features.exponents import exponent_of_seeds
from actratio.studies.features.figures import is_number, study_charts
from actratio.studies.features.grid import DECAYS, LABELS, MUP, PARAMETRISATION, SHUFFLED, STANDARD, TRUE
from actratio.studies.features.results import (
    PlantedResult,
    Results,
    arm_name,
    arm_rows,
    compare_parametrisations,
    scheme_rows,
    study_results,
)
from actratio.studies.features.rules import family_interval, refutation_counts
from actratio.studies.features.tables import shown, study_tables

if TYPE_CHECKING:
    import pandas as pd

_LEAD = (
    "ReLU networks, trained with Adam, without biases except for teachers. α is the exponent of A ∝ N^α, where A is the mean number of active neurons of a hidden "
    "layer over held-out examples and N its width. Parentheses: 95% intervals over seeds. The rules of T1, T2 and T3 use 98.3%. "
    "What is predicted is what the hypothesis predicts."
)
_NOT_ENOUGH = "too few networks finished to say"


def study_findings(frame: pd.DataFrame, settings: Mapping[str, Any]) -> Findings:
    """Judge the hypothesis, and return the sentences, tables and charts."""
    results = study_results(frame, settings)
    widths = settings["widths"]
    sentences = answer_sentence(results)
    sentences += [_planted(kind, found) for kind, found in _generators(results) if found is not None]
    if results.labels is not None:
        sentences += _labels(frame[frame["test"] == LABELS], widths[LABELS], results)
    if results.arms is not None:
        rows = frame[frame["test"] == PARAMETRISATION]
        sentences += [_arm(rows, widths[PARAMETRISATION], decay) for decay in DECAYS]
    if results.capacity is not None:
        sentences.append(_capacity(results))
    return Findings(
        title="Do wide layers run out of features to learn?",
        lead=f"{settings['seeds']} seeds. {_LEAD}",
        sentences=sentences,
        tables=study_tables(frame, settings, results),
        charts=study_charts(frame, settings, results),
        details={
            f"data: {name}": f"{entry['train']} + {entry['val']} examples, SHA-256 {entry['fingerprint'][:16]}…"
            for name, entry in settings["data"].items()
        },
        verdicts=[*([results.answer] if results.answer else []), *results.tests],
    )


def _generators(results: Results) -> list[tuple[str, PlantedResult | None]]:
    return [("T1, planted features", results.planted), ("Random teachers", results.teachers)]


def answer_sentence(results: Results) -> list[str]:
    """Return the answer, if there is one; if the tests conflict, it names what each of them says."""
    if results.answer is None:
        return []
    said = {verdict.claim[:2]: verdict.verdict for verdict in results.tests[:3]}
    figure = f"{results.answer.figure} is {results.answer.estimate.format('{:.2f}')}"
    if results.answer.verdict == YES:
        return [f"Yes: wide layers run out of features to learn. T1, T2 and T3 all support it; {figure}."]
    if results.answer.verdict == NO:
        against = [test for test in ("T1", "T3") if said[test] == NO]
        if "T3" in against and not refutation_counts(results.arms or []):
            return [_without_evidence(results, against)]
        refute = " and ".join(against) + (" refute" if len(against) > 1 else " refutes")
        others = ", ".join(f"{test}: {verdict}" for test, verdict in said.items() if test not in against)
        rest = f" (the other tests: {others})" if others else ""
        return [f"No: {refute} that wide layers run out of features to learn; {figure}{rest}."]
    verdicts = ", ".join(f"{test} says {verdict}" for test, verdict in said.items())
    return [
        f"Whether wide layers run out of features to learn is not decidable from this: {verdicts}; {figure}."
        if is_number(results.answer.estimate)
        else f"Whether wide layers run out of features to learn is not decidable from this: {verdicts}."
    ]


def _without_evidence(results: Results, against: Sequence[str]) -> str:
    """Return the answer if T3 says no although α is high under the standard parametrisation too."""
    standard = " and ".join(
        f"{family_interval(arm.standard).format('{:.2f}')} ({arm.name})" for arm in results.arms or []
    )
    doubt = (
        "T3, the comparison with muP, says no, but doesn't count as evidence: the hypothesis expects α below 0.6 in trained networks, and under "
        f"the standard parametrisation it's {standard}"
    )
    if "T1" in against and results.planted is not None:
        alpha, beta = (
            over_seeds(values).format("{:.2f}")
            for values in (results.planted.alpha, results.planted.elasticities["features"])
        )
        return (
            "No, wide layers don't run out of features to learn. Where the number of features is known (T1), active neurons grow with the "
            f"width as N^α, α = {alpha}, and with the number of features as K^β, β = {beta}. {doubt}."
        )
    return f"Not decidable in substance, although the rule says no: {doubt}. The other tests don't refute that wide layers run out of features to learn."


def _planted(kind: str, found: PlantedResult) -> str:
    alpha, beta = over_seeds(found.alpha), over_seeds(found.elasticities["features"])
    if not is_number(alpha, beta):
        return f"{kind}: {_NOT_ENOUGH}."
    present = ""
    if "present" in found.elasticities:
        present = (
            f", and with the number present at once as (pK)^γ, γ = {shown(over_seeds(found.elasticities['present']))}"
        )
    return (
        f"{kind}: at N = {found.width}, active neurons grow with the number of features as K^β, β = {shown(beta)}{present}. "
        f"With at least four neurons per feature, they grow with the width as N^α, α = {shown(alpha)}."
    )


def _labels(rows: pd.DataFrame, widths: Sequence[int], results: Results) -> list[str]:
    assert results.labels is not None
    compared, sentences = results.labels, []
    if compared.loss is None:
        sentences.append(
            "T2: runs with shuffled and with true labels reach no training loss of the grid in common, so they cannot be compared at equal loss."
        )
    else:
        sentences.append(
            f"T2: at a training loss of {compared.loss:g}, α is {shown(over_seeds(compared.first))} with shuffled labels and "
            f"{shown(over_seeds(compared.second))} with true ones. The difference is {shown(over_seeds(compared.difference))}."
        )
    shuffled, true = (exponent_of_seeds(scheme_rows(rows, scheme), widths) for scheme in (SHUFFLED, TRUE))
    if is_number(over_seeds(shuffled - true)):
        sentences.append(f"After equally many steps, the difference is {shown(over_seeds(shuffled - true))}.")
    return sentences


def _arm(rows: pd.DataFrame, widths: Sequence[int], decay: float) -> str:
    standard, mup = (exponent_of_seeds(arm_rows(rows, name, decay), widths) for name in (STANDARD, MUP))
    name = arm_name(decay)
    if not is_number(over_seeds(standard), over_seeds(mup)):
        return f"T3, {name}: {_NOT_ENOUGH}."
    compared = compare_parametrisations(rows, decay, widths)
    at_loss = ""
    if compared.loss is not None:
        at_loss = f" At a training loss of {compared.loss:g} they are {shown(over_seeds(compared.first))} and {shown(over_seeds(compared.second))}."
    return f"T3, {name}: α is {shown(over_seeds(mup))} under muP and {shown(over_seeds(standard))} under the standard parametrisation.{at_loss}"


def _capacity(results: Results) -> str:
    verdict = next(verdict for verdict in results.tests if verdict.claim.startswith("T4"))
    if not is_number(verdict.estimate):
        return f"T4: {_NOT_ENOUGH}."
    return (
        "T4: a wide network that is cut down to as many neurons as are active has a held-out accuracy that differs from that of a network "
        f"trained that small by {verdict.estimate.format('{:+.2f}')} percentage points."
    )
