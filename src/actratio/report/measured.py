"""The report of a measurement: what was found in words, its table and its page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from actratio.counting.co_activation import BLOCKS, WINDOWS
from actratio.counting.measurement import Measurement, Row
from actratio.report.findings import Findings, Table
from actratio.report.measured_charts import measurement_charts
from actratio.report.rows import by_layer, kinds, ratio_of, rows_of

_BLOCK = 0  # of BLOCKS, the one that is told in words
_WINDOW = WINDOWS.index(16)

_COLUMNS = {
    "site": "site", "tensor": "tensor", "criterion": "criterion", "tokens": "tokens", "activation_ratio": "ratio",
    "ratio_std": "± over tokens", "first_ratio": "first token", "rest_ratio": "rest", "dead": "dead",
    "always_on": "always on", "overlap": "overlap",
}  # fmt: skip


def measurement_findings(measurement: Measurement) -> Findings:
    """Return the sentences, the table and the charts of a measurement."""
    tokens = max((row.counts.tokens for row in measurement), default=0)
    return Findings(
        f"Activation ratios of {measurement.model}",
        "Share of the neurons of each MLP that are active, counted exactly over "
        f"{tokens:,} tokens (or examples). Padding is not counted.",
        measurement_sentences(measurement),
        [measurement_table(measurement)],
        measurement_charts(measurement),
        {name: str(value) for name, value in measurement.provenance.items()},
    )


def measurement_table(found: Measurement) -> Table:
    """A row a site, tensor and criterion; what is the same in all of them goes to the title."""
    frame, names, title = found.to_frame(), list(_COLUMNS), f"Activation ratios of {found.model}"
    for name in ("tensor", "criterion"):
        if frame[name].nunique() == 1:
            names.remove(name)
            title += f", {frame[name].iloc[0]}"
    rows = [[_cell(name, value) for name, value in zip(names, row, strict=True)] for row in frame[names].to_numpy()]
    reading = (
        "'± over tokens' is the standard deviation of a token's own ratio; 'first token' and 'rest' are the ratio of the first "
        "token of each sequence and of all others; 'overlap' is the Jaccard overlap of the active neurons of successive tokens."
    )
    return Table(title, [_COLUMNS[name] for name in names], rows, reading)


def _cell(name: str, value: object) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return f"{value:.2f}" if name == "overlap" else f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def measurement_sentences(found: Measurement) -> list[str]:
    """What was measured, in words."""
    said = []
    for tensor, criterion in kinds(found):
        rows = rows_of(found, tensor, criterion)
        ratios = {layer: ratio_of(row.counts for row in each) for layer, each in by_layer(rows).items()}
        known = {layer: ratio for layer, ratio in ratios.items() if not math.isnan(ratio)}
        if not known:
            continue
        least, most = min(known, key=lambda layer: known[layer]), max(known, key=lambda layer: known[layer])
        said.append(
            f"{ratio_of(row.counts for row in rows):.1%} of the neurons are active by {tensor} {_words(criterion)}, "
            f"from {known[least]:.1%} in layer {least} to {known[most]:.1%} in layer {most}."
        )
    rows = rows_of(found, *kinds(found)[0])
    said += _of_silence(rows) + _of_sets(rows) + _of_experts(rows)
    left_out = found.settings.get("left_out")
    if left_out:
        listed = ", ".join(f"{number} of the role {role}" for role, number in left_out.items())
        said.append(f"Found and not measured: {listed}; `actratio sites MODEL --sites '*'` lists them.")
    return said


def _of_silence(rows: Sequence[Row]) -> list[str]:
    seen = [row.counts for row in rows if row.counts.tokens]
    if not seen:
        return []
    dead, neurons = sum(int(counts.dead) for counts in seen), sum(counts.width for counts in seen)
    fewest = min(seen, key=lambda counts: counts.tokens)
    always = sum(int(counts.always_on) for counts in seen)
    return [
        f"{dead:,} of {neurons:,} neurons were never active; with 95 % confidence each of them fires on less than "
        f"{fewest.rule_of_three:.2%} of such tokens ({fewest.tokens:,} were counted). "
        f"{always:,} were active on at least 99 % of them."
    ]


def _of_sets(rows: Sequence[Row]) -> list[str]:
    union = alone = width = idle = blocks = 0.0
    for counts in (row.counts for row in rows):
        ratios = counts.union_ratio
        if ratios is not None and not math.isnan(float(ratios[_WINDOW])):
            width += counts.width
            union += float(ratios[_WINDOW]) * counts.width
            alone += float(counts.independent_union_ratio[_WINDOW]) * counts.width
        if counts.idle_blocks is not None:
            idle += int(counts.idle_blocks[_BLOCK])
            blocks += -(-counts.width // BLOCKS[_BLOCK]) * counts.tokens
    said = []
    if width:
        said.append(
            f"{WINDOWS[_WINDOW]} successive tokens together need {union / width:.1%} of the neurons; "
            f"if neurons fired independently of the token before, it would be {alone / width:.1%}."
        )
    if blocks:
        said.append(f"{idle / blocks:.1%} of the blocks of {BLOCKS[_BLOCK]} successive neurons hold no active one.")
    return said


def _of_experts(rows: Sequence[Row]) -> list[str]:
    experts = [(row.counts, row.counts.passed) for row in rows if row.counts.passed]
    if not experts:
        return []
    neurons = sum((passed or 0) * counts.width for counts, passed in experts)
    density = sum(int(counts.active.sum()) for counts, _ in experts) / neurons
    unused = sum(not counts.tokens for counts, _ in experts)
    return [
        f"Of the neurons of all experts of a layer, {density:.2%} are active for a token, those of experts that it is not "
        f"routed to included; {unused:,} of {len(experts):,} experts were reached by no token."
    ]


def _words(criterion: str) -> str:
    return {"positive": "> 0", "nonzero": "≠ 0"}.get(criterion, criterion)
