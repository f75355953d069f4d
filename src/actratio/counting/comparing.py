"""Two measurements side by side: which sites belong together, and what changed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actratio.counting.counts import SiteCounts
from actratio.counting.measurement import Measurement, Row
from actratio.errors import RunError
from actratio.sites import Site

if TYPE_CHECKING:
    import pandas as pd

    from actratio.report.notebook import Figures

_SETTINGS = (
    "text", "text_fingerprint", "prompts", "column", "length", "packed", "limit_tokens", "tokenizer", "dtype", "weights"
)  # fmt: skip
"""Settings of a measurement that change what it counts, beside the model."""


@dataclass(frozen=True, repr=False)
class ComparedSite:
    """One site in two measurements, for one tensor and criterion.

    Attributes:
        site_a, site_b: the site in each.
        tensor, criterion: what was counted in both.
        a, b: the counts.
    """

    site_a: Site
    site_b: Site
    tensor: str
    criterion: str
    a: SiteCounts
    b: SiteCounts

    @property
    def same_neurons(self) -> bool:
        """Whether neurons can be compared one by one: the sites have the same name, function, gating and width, and tokens."""
        kinds = [(site.name, site.function, site.gated, site.width) for site in (self.site_a, self.site_b)]
        return kinds[0] == kinds[1] and self.a.tokens > 0 and self.b.tokens > 0

    def record(self) -> dict[str, Any]:
        """Return the columns of ``Comparison.to_frame``."""
        a, b = self.a, self.b
        died = revived = frequency_change = None
        if self.same_neurons:
            dead_a, dead_b = a.active == 0, b.active == 0
            died, revived = int((dead_b & ~dead_a).sum()), int((dead_a & ~dead_b).sum())
            change = b.active.double() / b.tokens - a.active.double() / a.tokens
            frequency_change = float(change.abs().mean())
        ratio_a, ratio_b = float(a.activation_ratio), float(b.activation_ratio)
        return {
            "site": self.site_a.name,
            "site_b": self.site_b.name,
            "role": self.site_a.role,
            "layer": self.site_a.layer,
            "tensor": self.tensor,
            "criterion": self.criterion,
            "width_a": a.width,
            "width_b": b.width,
            "tokens_a": a.tokens,
            "tokens_b": b.tokens,
            "useful_a": _known(a.useful_ratio),
            "useful_b": _known(b.useful_ratio),
            "ratio_a": ratio_a,
            "ratio_b": ratio_b,
            "change": ratio_b - ratio_a,
            "dead_a": a.dead,
            "dead_b": b.dead,
            "always_on_a": a.always_on,
            "always_on_b": b.always_on,
            "died": died,
            "revived": revived,
            "frequency_change": frequency_change,
        }


def _known(ratio: float | None) -> float:
    return math.nan if ratio is None else ratio


@dataclass(frozen=True, repr=False)
class Comparison:
    """What changed from one measurement to another.

    Attributes:
        a, b: the measurements.
        rows: one for each site, tensor and criterion that both have.
        only_a, only_b: names of the sites that the other doesn't have.

    Examples:
        >>> comparison = before.compare(after)                    # doctest: +SKIP
        >>> comparison.to_frame()[["site", "change"]]             # doctest: +SKIP
    """

    a: Measurement
    b: Measurement
    rows: list[ComparedSite]
    only_a: list[str]
    only_b: list[str]

    @property
    def names(self) -> tuple[str, str]:
        """Names of the two measurements: the models', or A and B if both are of one model."""
        return ("A", "B") if self.a.model == self.b.model else (self.a.model, self.b.model)

    @property
    def title(self) -> str:
        """What is compared."""
        if self.a.model == self.b.model:
            return f"{self.a.model}: A and B compared"
        return f"{self.a.model} (A) and {self.b.model} (B) compared"

    @property
    def different_settings(self) -> list[str]:
        """Settings with which the two were measured differently, such as ``text``, apart from the model."""
        return [name for name in _SETTINGS if self.a.settings.get(name) != self.b.settings.get(name)]

    @property
    def only_counted(self) -> tuple[str, str]:
        """What was counted in the first measurement alone, and in the second alone, such as ``hidden nonzero``."""
        kinds_a, kinds_b = _kinds(self.a), _kinds(self.b)
        return _listed(kinds_a - kinds_b), _listed(kinds_b - kinds_a)

    @property
    def same_weights(self) -> bool:
        """Whether both are measurements of the same weights."""
        return self.a.fingerprint is not None and self.a.fingerprint == self.b.fingerprint

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each site, tensor and criterion.

        ``change`` is ratio_b − ratio_a. ``died`` and ``revived`` are neurons that were active in a and dead in b, and the other
        way round; ``frequency_change`` is the mean over neurons of |change of the share of tokens on which a neuron is active|.
        These three compare neurons one by one, so they are missing unless ``same_neurons`` holds, and
        they mean something only for two checkpoints, or two texts, of one model.
        """
        import pandas as pd

        whole = {"died": "Int64", "revived": "Int64", "frequency_change": "float64"}
        return pd.DataFrame([row.record() for row in self.rows]).astype(whole)

    def summary(self) -> str:
        """Return what changed, one sentence a line."""
        from actratio.report.compared import comparison_sentences

        return "\n".join(comparison_sentences(self))

    def plot(self, *names: str) -> Figures:
        """Return figures for a notebook, or to save them: all, or of ``profile``, ``change`` and ``dead`` those that are named.

        Raises:
            RunError: there is no figure of this name.
        """
        from actratio.report.compared import comparison_charts
        from actratio.report.notebook import Figures

        return Figures.of(comparison_charts(self), names)

    def report(self, folder: str | Path) -> Path:
        """Write ``report.html``, ``figures/`` and ``comparison.csv`` into a folder, and return the path of the page."""
        from actratio.report.compared import comparison_findings
        from actratio.report.page import write_report

        return write_report(comparison_findings(self), Path(folder))

    def __repr__(self) -> str:
        from actratio.report.compared import comparison_table
        from actratio.report.notebook import table_text

        return f"<Comparison: {len(self.rows):,} rows>\n{table_text(comparison_table(self), 12)}"

    def _repr_html_(self) -> str:
        from actratio.report.compared import comparison_sentences, comparison_table
        from actratio.report.notebook import findings_html

        return findings_html([comparison_table(self)], comparison_sentences(self), 40)


def compare_measurements(a: Measurement, b: Measurement) -> Comparison:
    """Return what changed from ``a`` to ``b``; see ``Measurement.compare``."""
    kinds_a, kinds_b = _kinds(a), _kinds(b)
    if not kinds_a & kinds_b:
        raise RunError(
            f"{a.model} was measured by {_listed(kinds_a) or 'nothing'} and {b.model} by {_listed(kinds_b) or 'nothing'}; "
            "measure both alike to compare them"
        )
    left_b: dict[Hashable, list[Row]] = defaultdict(list)
    for row in b:
        left_b[row.site.name, row.tensor, row.criterion].append(row)
    partners: dict[int, Row] = {}
    for number, row in enumerate(a):
        same_name = left_b.pop((row.site.name, row.tensor, row.criterion), None)
        if same_name:
            partners[number] = same_name[0]
    by_place: dict[Hashable, list[Row]] = defaultdict(list)
    for rows in left_b.values():
        for row in rows:
            by_place[_place(row)].append(row)
    for number, row in enumerate(a):
        if number not in partners and by_place[_place(row)]:
            partners[number] = by_place[_place(row)].pop(0)
    compared = [
        ComparedSite(row.site, partner.site, row.tensor, row.criterion, row.counts, partner.counts)
        for number, row in enumerate(a)
        if (partner := partners.get(number)) is not None
    ]
    if not compared:
        raise RunError(f"no site of {a.model} has the layer and role of a site of {b.model}; compare similar models")
    only_a = _names(a, {row.site_a.name for row in compared})
    only_b = _names(b, {row.site_b.name for row in compared})
    return Comparison(a, b, compared, only_a, only_b)


def _place(row: Row) -> Hashable:
    return row.site.layer, row.site.role, row.site.expert, row.tensor, row.criterion


def _names(measurement: Measurement, without: set[str]) -> list[str]:
    return [name for name in dict.fromkeys(row.site.name for row in measurement) if name not in without]


def _kinds(measurement: Measurement) -> set[tuple[str, str]]:
    return {(row.tensor, row.criterion) for row in measurement}


def _listed(kinds: Iterable[tuple[str, str]]) -> str:
    return ", ".join(sorted(f"{tensor} {criterion}" for tensor, criterion in kinds))
