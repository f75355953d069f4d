"""The result of a measurement: counts of every site, which can be saved, merged, compared, drawn and read as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from actratio.counting.counts import SiteCounts
from actratio.counting.kernels import reference
from actratio.counting.magnitudes import Magnitudes
from actratio.counting.tidy import READINGS, TidyRows, tidy_frame
from actratio.errors import RunError, plural
from actratio.models.fingerprint import weights_fingerprint
from actratio.sites import Site
from actratio.unseen import visible

if TYPE_CHECKING:
    import pandas as pd

    from actratio.counting.comparing import Comparison
    from actratio.counting.probe import Probe
    from actratio.report.notebook import Figures

COLUMNS = (
    "model", "site", "role", "layer", "position", "width", "activation", "tensor", "criterion", "tokens", *READINGS
)  # fmt: skip
"""Columns of ``Measurement.to_frame()``, in order."""


@dataclass(frozen=True, repr=False)
class Row:
    """What was counted at one site, for one tensor and one criterion."""

    site: Site
    tensor: str
    criterion: str
    counts: SiteCounts

    def __repr__(self) -> str:
        return f"<Row {self.site.name}, {self.tensor}, {self.criterion}: {self.counts}>"


@dataclass(frozen=True, repr=False)
class Measurement:
    """Counts of a model's sites.

    Attributes:
        model: the model's name.
        rows: one for each site, tensor and criterion, in the order of execution.
        magnitudes: histograms of |a|, by the site's name and the tensor.
        settings: how the model was measured.
        provenance: versions, machine and date.
        fingerprint: of the model's weights; ``None`` if they can't be read.

    Examples:
        >>> m = actratio.load("runs/measure-gpt2")                       # doctest: +SKIP
        >>> m["transformer.h.0.mlp"].dead                                # doctest: +SKIP
    """

    model: str
    rows: list[Row]
    magnitudes: dict[tuple[str, str], Magnitudes]
    settings: dict[str, Any]
    provenance: dict[str, Any]
    fingerprint: str | None = None

    @classmethod
    def of(
        cls,
        probe: Probe,
        model: str,
        settings: dict[str, Any] | None = None,
        *,
        fingerprint: str | None = None,
    ) -> Measurement:
        """Return what a probe counted.

        Args:
            fingerprint: of the model's weights, if you have it; otherwise it is made here.
        """
        from actratio.provenance import current_provenance

        by_name = {site.name: site for site in probe.sites}
        rows = []
        labels = {criterion: str(criterion) for criterion in probe.criteria}
        for (name, tensor), counted in probe.counted.items():
            for criterion, label in labels.items():
                # An expert that no token reached was counted over no tokens.
                counts = counted.counts.get(criterion) or no_tokens(by_name[name].width)
                useful, useful_tokens = probe.sampled.get(name, (None, None))
                counts = replace(counts.cpu(), passed=counted.passed, useful=useful, useful_tokens=useful_tokens)
                rows.append(Row(by_name[name], tensor, label, counts))
        magnitudes = {
            key: Magnitudes(counted.magnitudes.counts.cpu())
            for key, counted in probe.counted.items()
            if counted.magnitudes is not None
        }
        fingerprint = fingerprint or weights_fingerprint(probe.model)
        return cls(model, rows, magnitudes, settings or {}, dict(current_provenance()), fingerprint)

    def counts(self, site: str, tensor: str = "activation", criterion: str | None = None) -> SiteCounts:
        """Return the counts of one site, by its name; by default of the activation and the first criterion.

        Raises:
            RunError: the site, tensor or criterion was not measured.
        """
        for row in self.rows:
            if row.site.name == site and row.tensor == tensor and criterion in (None, row.criterion):
                return row.counts
        names = list(dict.fromkeys(row.site.name for row in self.rows))
        if site in names:
            raise RunError(f"there is no measurement of {site}, {tensor}, {criterion or 'any criterion'}")
        near = get_close_matches(site, names, n=3, cutoff=0.3) or names[:3]
        raise RunError(f"no site {site!r} was measured; nearest: {', '.join(near)}")

    def __getitem__(self, site: str) -> SiteCounts:
        """Return ``counts(site)``."""
        return self.counts(site)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __or__(self, other: Measurement) -> Measurement:
        return self.merge(other)

    def merge(self, other: Measurement) -> Measurement:
        """Return both together, as if measured at once, with the provenance of the first.

        Settings that differ, such as the text, are listed for each part under ``merged``.

        Raises:
            RunError: the models, their weights, sites, tensors or criteria differ.
        """
        if self.model != other.model:
            raise RunError(f"measurements of {self.model} and of {other.model} do not merge; they must be of one model")
        fingerprints = {self.fingerprint, other.fingerprint} - {None}
        if len(fingerprints) > 1:
            raise RunError(
                f"measurements of {self.model} with different weights do not merge (fingerprints {self.fingerprint} and "
                f"{other.fingerprint}); measure one checkpoint, or compare the two"
            )
        mine = [(row.site, row.tensor, row.criterion) for row in self.rows]
        theirs = [(row.site, row.tensor, row.criterion) for row in other.rows]
        if mine != theirs:
            odd = next((a for a, b in zip(mine, theirs, strict=False) if a != b), None)
            what = f"{odd[0].name}, {odd[1]}, {odd[2]} is not in both" if odd else f"{len(mine)} rows and {len(theirs)}"
            raise RunError(f"measurements of different sites do not merge ({what}); measure both alike")
        rows = [
            Row(a.site, a.tensor, a.criterion, a.counts.merge(b.counts))
            for a, b in zip(self.rows, other.rows, strict=True)
        ]
        asleep = {row.site.name for row in (*self.rows, *other.rows) if not row.counts.tokens}
        magnitudes = {
            key: mine.merge(other.magnitudes[key]) for key, mine in self.magnitudes.items() if key in other.magnitudes
        }
        for key, histogram in (*self.magnitudes.items(), *other.magnitudes.items()):
            if key not in magnitudes and key[0] in asleep:  # an expert that one part did not reach
                magnitudes[key] = histogram
        settings = _merged_settings(self.settings, other.settings)
        return Measurement(
            self.model, rows, magnitudes, settings, self.provenance, self.fingerprint or other.fingerprint
        )

    def to_frame(self, *, neurons: bool = False) -> pd.DataFrame:
        """Return the tidy table: one row for each site, tensor and criterion, with the columns of ``COLUMNS``.

        Args:
            neurons: return one row for each neuron instead, with its counts; ``from_frame`` reads this table.
        """
        if neurons:
            from actratio.counting.neurons import neuron_frame

            return neuron_frame(self)
        last = max((row.site.layer for row in self.rows), default=0)
        return tidy_frame((self._tidy_rows(row, last) for row in self.rows), COLUMNS)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Measurement:
        """Return the measurement that a table of neurons, ``to_frame(neurons=True)``, was made from.

        The counts of neurons and sites come back exactly, and with them every reading of the tidy table. Unions, idle blocks,
        distributions over tokens, magnitudes, settings and provenance aren't in the table; ``save`` and ``load`` keep them.

        Raises:
            RunError: it isn't such a table, as the tidy table of readings, or rows are missing.
        """
        from actratio.counting.neurons import read_neuron_frame

        return read_neuron_frame(frame)

    def _tidy_rows(self, row: Row, last: int) -> TidyRows:
        site = row.site
        before = {
            "model": self.model,
            "site": site.name,
            "role": site.role,
            "layer": site.layer,
            "position": site.layer / last if last > 0 else 0.0,
            "width": site.width,
            "activation": site.function,
            "tensor": row.tensor,
            "criterion": row.criterion,
        }
        return TidyRows(before, row.counts, {})

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write a folder with a description, all integers, and the tidy table.

        ``measurement.json`` is the description, ``neurons.safetensors`` has the integers, and ``sites.parquet`` is the
        table, for other programs. A measurement of the same model in the folder is replaced.

        Args:
            force: also replace a measurement of another model.

        Raises:
            RunError: the folder contains something else, or a measurement of another model.
        """
        from actratio.counting.folder import save_measurement

        save_measurement(self, path, force=force)

    def compare(self, other: Measurement) -> Comparison:
        """Compare with another measurement: of another checkpoint, model or text. This one is the first, "before".

        Sites are matched by name; those that are left, by layer, role and expert.

        Raises:
            RunError: the two have no tensor and criterion, or no site, in common.
        """
        from actratio.counting.comparing import compare_measurements

        return compare_measurements(self, other)

    def plot(self, *names: str) -> Figures:
        """Return the report's figures for a notebook, or to save them: all, or those with these names.

        The names are ``profile``, ``ranks``, ``thresholds``, ``unions``, ``silent``, and for a mixture of experts ``experts``
        and ``routing``.

        Raises:
            RunError: there is no figure of this name.
        """
        from actratio.report.measured_charts import measurement_charts
        from actratio.report.notebook import Figures

        return Figures.of(measurement_charts(self), names)

    def summary(self) -> str:
        """Return what was found, one sentence a line."""
        from actratio.report.conclusions import measurement_sentences

        return "\n".join(measurement_sentences(self))

    def report(self, folder: str | Path) -> Path:
        """Write the report, ``report.html`` and ``figures/``, into a folder, and return the path of the page."""
        from actratio.report.measured import measurement_findings
        from actratio.report.page import write_report

        return write_report(measurement_findings(self), Path(folder))

    def __repr__(self) -> str:
        from actratio.report.measured_tables import measurement_tables
        from actratio.report.notebook import table_text

        sites = len({row.site.name for row in self.rows})
        size = f"{plural(sites, 'site')}, {plural(tokens_of(self), 'token')}"
        tables = (table_text(table, 12) for table in measurement_tables(self))
        return "\n".join([f"<Measurement of {visible(self.model)}: {size}>", *tables])

    def _repr_html_(self) -> str:
        from actratio.report.conclusions import measurement_sentences
        from actratio.report.measured_tables import measurement_tables
        from actratio.report.notebook import findings_html

        return findings_html(measurement_tables(self), measurement_sentences(self), 40)


def tokens_of(measurement: Measurement) -> int:
    """Return the most tokens (or examples) that were counted at any site."""
    return max((row.counts.tokens for row in measurement), default=0)


def _merged_settings(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that all parts share, and under ``merged`` those of each part that differ."""
    parts = [*settings_of_parts(mine), *settings_of_parts(theirs)]
    shared = {name: value for name, value in parts[0].items() if all(part.get(name) == value for part in parts)}
    own = [{name: value for name, value in part.items() if name not in shared} for part in parts]
    return {**shared, "merged": own} if any(own) else shared


def settings_of_parts(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the settings of each measurement that was merged into one; of one that wasn't merged, its own."""
    shared = {name: value for name, value in settings.items() if name != "merged"}
    return [{**shared, **part} for part in settings.get("merged", [{}])]


def no_tokens(width: int) -> SiteCounts:
    """Return the counts of a site that no token reached."""
    empty = torch.zeros(0, width, dtype=torch.bool)
    return reference.count(empty, [], torch.zeros(0, dtype=torch.bool))
