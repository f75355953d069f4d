"""The findings of a measurement: its sentences, its tables and its charts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from actratio.counting.co_activation import BLOCKS, WINDOWS
from actratio.counting.counts import FEWEST_TOKENS
from actratio.counting.criteria import comparison
from actratio.counting.measurement import Measurement, Row
from actratio.errors import plural
from actratio.report.findings import Findings, settings_shown
from actratio.report.measured_charts import measurement_charts
from actratio.report.measured_tables import measurement_tables
from actratio.report.rows import pooled_ratio, rows_by_layer, select_rows, tensor_criteria

_BLOCK = 0  # index into BLOCKS of the block size in the sentences
_WINDOW = WINDOWS.index(16)  # index into WINDOWS of the window in the sentences


def measurement_findings(measurement: Measurement) -> Findings:
    """Return the sentences, the tables and the charts of a measurement."""
    tokens = max((row.counts.tokens for row in measurement), default=0)
    return Findings(
        f"Activation ratios of {measurement.model}",
        f"Share of the neurons of each MLP that are active, counted over {tokens:,} tokens (or examples). Padding is not counted.",
        measurement_sentences(measurement),
        measurement_tables(measurement),
        measurement_charts(measurement),
        settings={"tokens": f"{tokens:,}", **settings_shown(measurement.settings)},
        details={name: str(value) for name, value in measurement.provenance.items()},
        frame=measurement.to_frame(),
    )


def measurement_sentences(measurement: Measurement) -> list[str]:
    """Return what the measurement shows, one sentence per reading."""
    sentences = []
    for tensor, criterion in tensor_criteria(measurement):
        rows = select_rows(measurement, tensor, criterion)
        ratios = {
            layer: ratio
            for layer, layer_rows in rows_by_layer(rows).items()
            if not math.isnan(ratio := pooled_ratio(row.counts for row in layer_rows))
        }
        if not ratios:
            continue
        lowest, highest = min(ratios, key=lambda layer: ratios[layer]), max(ratios, key=lambda layer: ratios[layer])
        sentences.append(
            f"{pooled_ratio(row.counts for row in rows):.1%} of the neurons are active ({tensor} {comparison(criterion)}), "
            f"from {ratios[lowest]:.1%} in layer {lowest} to {ratios[highest]:.1%} in layer {highest}."
        )
    rows = select_rows(measurement, *tensor_criteria(measurement)[0])
    sentences += _dead_sentences(rows) + _union_sentences(rows) + _expert_sentences(rows)
    left_out = measurement.settings.get("left_out")
    if left_out:
        roles = ", ".join(f"{number} with the role {role}" for role, number in left_out.items())
        sentences.append(f"Sites that were not measured: {roles}; run `actratio sites MODEL --sites '*'` to list them.")
    return sentences


def _dead_sentences(rows: Sequence[Row]) -> list[str]:
    counted = [row.counts for row in rows if row.counts.tokens]
    if not counted:
        return []
    dead, neurons = sum(int(counts.dead) for counts in counted), sum(counts.width for counts in counted)
    fewest = min(counted, key=lambda counts: counts.tokens)
    always_on = sum(int(counts.always_on) for counts in counted)
    few = []
    where = " at the site with the fewest" if any(counts.tokens > fewest.tokens for counts in counted) else ""
    if fewest.tokens < FEWEST_TOKENS:
        few.append(
            f"{plural(fewest.tokens, 'token')}{where} are too few to call a neuron dead or always on: it may still do otherwise on "
            f"{fewest.rule_of_three:.1%} of other tokens. Count at least {FEWEST_TOKENS} tokens, of a longer text."
        )
    return [
        f"{dead:,} of {neurons:,} neurons were never active; with 95% confidence, each of them is active on less than "
        f"{fewest.rule_of_three:.2%} of similar tokens ({fewest.tokens:,} tokens were counted). "
        f"{plural(always_on, 'neuron')} {'was' if always_on == 1 else 'were'} active on at least 99% of the tokens.",
        *few,
    ]


def _union_sentences(rows: Sequence[Row]) -> list[str]:
    union = independent = width = idle = blocks = 0.0
    for counts in (row.counts for row in rows):
        ratios = counts.union_ratio
        if ratios is not None and not math.isnan(float(ratios[_WINDOW])):
            width += counts.width
            union += float(ratios[_WINDOW]) * counts.width
            independent += float(counts.independent_union_ratio[_WINDOW]) * counts.width
        if counts.idle_blocks is not None:
            idle += int(counts.idle_blocks[_BLOCK])
            blocks += -(-counts.width // BLOCKS[_BLOCK]) * counts.tokens
    sentences = []
    if width:
        sentences.append(
            f"{WINDOWS[_WINDOW]} successive tokens together use {union / width:.1%} of the neurons; "
            f"they would use {independent / width:.1%} if a neuron's activity were independent between tokens."
        )
    if blocks:
        sentences.append(
            f"{idle / blocks:.1%} of the blocks of {BLOCKS[_BLOCK]} successive neurons have no active neuron."
        )
    return sentences


def _expert_sentences(rows: Sequence[Row]) -> list[str]:
    experts = [(row.counts, row.counts.passed) for row in rows if row.counts.passed]
    if not experts:
        return []
    neurons = sum((passed or 0) * counts.width for counts, passed in experts)
    density = sum(int(counts.active.sum()) for counts, _ in experts) / neurons
    unused = sum(not counts.tokens for counts, _ in experts)
    return [
        f"{density:.2%} of the neurons of all experts of a layer are active for a token, counting experts that the token is not "
        f"routed to; {unused:,} of {len(experts):,} experts received no token."
    ]
