"""What to conclude from a measurement, in words: how much of each MLP matters, and how much could be skipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from actratio.counting.co_activation import WINDOWS
from actratio.counting.counts import FEWEST_TOKENS, SiteCounts
from actratio.counting.criteria import comparison
from actratio.counting.measurement import Measurement, Row
from actratio.counting.useful import BOUND
from actratio.errors import plural
from actratio.report.rows import pooled_ratio, pooled_useful_ratio, rows_by_layer, select_rows, shown_kinds
from actratio.sites import Site

_TOGETHER = (1, 8, 64)  # successive tokens in the sentence on what could be skipped
_NEARLY_ALL = 0.005  # share of outputs at or below zero that may be something else than exact zeros


def measurement_sentences(measurement: Measurement) -> list[str]:
    """Return what the measurement shows, one sentence or two per conclusion, the most important first."""
    kinds = shown_kinds(measurement)
    rows = select_rows(measurement, *kinds[0])
    sentences = _useful_sentences(rows)
    for kind in kinds:
        sentences += _ratio_sentences(measurement, *kind)
    sentences += _skip_sentences(measurement, *kinds[0]) + _silent_sentences(rows) + _expert_sentences(rows)
    left_out = measurement.settings.get("left_out")
    if left_out:
        roles = ", ".join(f"{number} with the role {role}" for role, number in left_out.items())
        sentences.append(f"Sites that were not measured: {roles}; run `actratio sites MODEL --sites '*'` to list them.")
    return sentences


def function_names(sites: Iterable[Site]) -> str:
    """Return the names of the sites' activation functions as they are written in text, such as ``SiLU`` or ``ReLU and GELU``."""
    return " and ".join(dict.fromkeys(_function_name(site.function) for site in sites))


def _function_name(name: str) -> str:
    usual = {"relu": "ReLU", "relu6": "ReLU6", "relusquared": "ReLU²", "relu·square": "ReLU²", "swish": "SiLU"}
    for part, written in (("gelu", "GELU"), ("silu", "SiLU")):
        if part in name:
            return written
    return usual.get(name, name)


def zero_share(measurement: Measurement, rows: Iterable[Row]) -> float | None:
    """Return the share of the rows' values that are exactly zero; ``None`` if magnitudes weren't counted."""
    known = [measurement.magnitudes.get((row.site.name, row.tensor)) for row in rows if row.counts.tokens]
    counted = [magnitudes for magnitudes in known if magnitudes is not None]
    total = sum(magnitudes.total for magnitudes in counted)
    if not total or len(counted) < len(known):
        return None
    return sum(int(magnitudes.counts[0]) for magnitudes in counted) / total


def _useful_sentences(rows: Sequence[Row]) -> list[str]:
    ratio = pooled_useful_ratio(row.counts for row in rows)
    if math.isnan(ratio):
        experts = any(row.site.role == "expert" for row in rows)
        return ["Useful ratio: unknown, because it isn't counted for experts."] if experts else []
    tokens = max(row.counts.useful_tokens or 0 for row in rows)
    unknown = sum(row.counts.useful_ratio is None for row in rows)
    missing = f" It is unknown for {plural(unknown, 'site')} of {len(rows):,}, such as experts." if unknown else ""
    return [
        f"Useful ratio: {ratio:.1%} of the neuron outputs are enough to give each MLP's output with a mean error of at most {BOUND:.0%} "
        f"({plural(tokens, 'token')}){_range(rows, pooled_useful_ratio)}. You can compare this share between ReLU, GELU and SiLU."
        + missing
    ]


def _ratio_sentences(measurement: Measurement, tensor: str, criterion: str) -> list[str]:
    rows = select_rows(measurement, tensor, criterion)
    ratio = pooled_ratio(row.counts for row in rows)
    if math.isnan(ratio):
        return []
    layers = _range(rows, pooled_ratio)
    if (tensor, criterion) != ("activation", "positive"):
        return [f"{ratio:.1%} of the neurons are active ({tensor} {comparison(criterion)}){layers}."]
    zeros = zero_share(measurement, rows)
    functions = function_names(row.site for row in rows)
    gated = ", gated" if any(row.site.gated for row in rows) else ""
    sentence = f"Sign ratio: {ratio:.1%} of the activations are above zero ({functions}{gated}){layers}."
    if _has_zeros(measurement, rows):
        return [f"{sentence} The others are exactly zero, so their neurons add nothing to the output."]
    if zeros is None:
        return [f"{sentence} Outputs of {functions} below zero are small, not zero."]
    if zeros > _NEARLY_ALL:
        return [f"{sentence} {zeros:.1%} are exact zeros; the others below zero are small, not zero."]
    return [
        f"{sentence} Outputs below zero are small, not zero; {zeros:.1%} are exact zeros. So the sign doesn't tell you how much work is wasted."
    ]


def _has_zeros(measurement: Measurement, rows: Sequence[Row]) -> bool:
    """Return whether activations that aren't positive are exactly zero, as those of ReLU."""
    zeros = zero_share(measurement, rows)
    if zeros is None:
        return all(_function_name(row.site.function).startswith("ReLU") for row in rows)
    return 1 - pooled_ratio(row.counts for row in rows) - zeros < _NEARLY_ALL


def _skip_sentences(measurement: Measurement, tensor: str, criterion: str) -> list[str]:
    rows = select_rows(measurement, tensor, criterion)
    if (tensor, criterion) == ("activation", "positive") and not _has_zeros(measurement, rows):
        zeros = zero_share(measurement, rows) or 0.0
        if zeros > _NEARLY_ALL:
            return [
                f"Skipping: {zeros:.1%} of the activations are exact zeros, which a kernel could skip; the others need thresholds."
            ]
        useful = pooled_useful_ratio(row.counts for row in rows)
        at_most = "" if math.isnan(useful) else f", which could drop {1 - useful:.1%} of the outputs at that error"
        return [
            f"Skipping: no neuron can be skipped exactly. Skipping needs thresholds{at_most}; `actratio sparsify` finds them for language models and checks the quality."
        ]
    skipped: list[str] = []
    for tokens in _TOGETHER:
        place, union, width = WINDOWS.index(tokens), 0.0, 0
        for counts in (row.counts for row in rows):
            ratios = counts.union_ratio
            if ratios is not None and not math.isnan(float(ratios[place])):
                union, width = union + float(ratios[place]) * counts.width, width + counts.width
        if width:
            together = "one token" if tokens == 1 else f"{tokens} successive tokens together"
            skipped.append(f"{1 - union / width:.1%}{'' if skipped else ' of the neurons'} for {together}")
    return [f"Skipping: a kernel could skip {', '.join(skipped)}."] if skipped else []


def _silent_sentences(rows: Sequence[Row]) -> list[str]:
    counted = [row.counts for row in rows if row.counts.tokens]
    if not counted:
        return []
    dead, neurons = sum(int(counts.dead) for counts in counted), sum(counts.width for counts in counted)
    fewest = min(counted, key=lambda counts: counts.tokens)
    always_on = sum(int(counts.always_on) for counts in counted)
    sentence = (
        f"Dead: {dead:,} of {neurons:,} neurons were never active ({rows[0].tensor} {comparison(rows[0].criterion)}) on "
        f"{plural(fewest.tokens, 'token')}. Always on (active on at least 99% of the tokens): {always_on:,}."
    )
    if fewest.tokens < FEWEST_TOKENS:
        where = " at the site with the fewest" if any(counts.tokens > fewest.tokens for counts in counted) else ""
        return [
            f"{sentence} {plural(fewest.tokens, 'token')}{where} are too few to tell: such a neuron may behave differently on up to "
            f"{fewest.rule_of_three:.1%} of other tokens. Measure a longer text, with at least {FEWEST_TOKENS} tokens."
        ]
    if not dead:
        return [sentence]
    return [
        f"{sentence} With 95% confidence, a dead neuron is active on less than {fewest.rule_of_three:.2%} of similar tokens."
    ]


def _expert_sentences(rows: Sequence[Row]) -> list[str]:
    experts = [(row.counts, row.counts.passed) for row in rows if row.counts.passed]
    if not experts:
        return []
    neurons = sum((passed or 0) * counts.width for counts, passed in experts)
    density = sum(int(counts.active.sum()) for counts, _ in experts) / neurons
    unused = sum(not counts.tokens for counts, _ in experts)
    return [
        f"Experts: {density:.2%} of the neurons of all experts of a layer are active for a token, counting experts that the token is not "
        f"routed to; {unused:,} of {len(experts):,} experts received no token."
    ]


def _range(rows: Iterable[Row], pooled: Callable[[Iterable[SiteCounts]], float]) -> str:
    """Return the layers with the lowest and the highest ratio, as the end of a sentence; empty for a single layer."""
    ratios = {layer: pooled(row.counts for row in own) for layer, own in rows_by_layer(rows).items()}
    ratios = {layer: ratio for layer, ratio in ratios.items() if not math.isnan(ratio)}
    if len(ratios) < 2:
        return ""
    lowest, highest = min(ratios, key=lambda layer: ratios[layer]), max(ratios, key=lambda layer: ratios[layer])
    return f", from {ratios[lowest]:.1%} in layer {lowest} to {ratios[highest]:.1%} in layer {highest}"
