"""The result of a measurement: counts of every site, which can be saved, loaded, merged and read as a table."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from actratio.counting.counts import SiteCounts
from actratio.counting.kernels import reference
from actratio.counting.magnitudes import Magnitudes
from actratio.counting.tidy import READINGS, TidyRows, tidy_frame
from actratio.errors import RunError
from actratio.files import replacing, write_json, write_table
from actratio.sites import Site

if TYPE_CHECKING:
    import pandas as pd

    from actratio.counting.probe import Probe

_DESCRIPTION = "measurement.json"
_NEURONS = "neurons.safetensors"
_TABLE = "sites.parquet"
_FORMAT = 3

COLUMNS = (
    "model", "site", "role", "layer", "position", "width", "activation", "tensor", "criterion", "tokens", *READINGS
)  # fmt: skip
"""Columns of ``Measurement.to_frame()``, in order."""


@dataclass(frozen=True)
class Row:
    """What was counted at one site, for one tensor and one criterion."""

    site: Site
    tensor: str
    criterion: str
    counts: SiteCounts


@dataclass(frozen=True)
class Measurement:
    """Counts of a model's sites.

    Attributes:
        model: the model's name.
        rows: one for each site, tensor and criterion, in the order of execution.
        magnitudes: histograms of |a|, by the site's name and the tensor.
        settings: how the model was measured.
        provenance: versions, machine and date.
    """

    model: str
    rows: list[Row]
    magnitudes: dict[tuple[str, str], Magnitudes]
    settings: dict[str, Any]
    provenance: dict[str, Any]

    @classmethod
    def of(cls, probe: Probe, model: str, settings: dict[str, Any] | None = None) -> Measurement:
        """Return what a probe counted."""
        from actratio.provenance import current_provenance

        by_name = {site.name: site for site in probe.sites}
        rows = []
        labels = {criterion: str(criterion) for criterion in probe.criteria}
        for (name, tensor), counted in probe.counted.items():
            for criterion, label in labels.items():
                # An expert that no token reached was counted over no tokens.
                counts = counted.counts.get(criterion) or _nothing(by_name[name].width)
                counts = replace(counts.cpu(), passed=counted.passed)
                rows.append(Row(by_name[name], tensor, label, counts))
        magnitudes = {
            key: Magnitudes(counted.magnitudes.counts.cpu())
            for key, counted in probe.counted.items()
            if counted.magnitudes is not None
        }
        return cls(model, rows, magnitudes, settings or {}, dict(current_provenance()))

    def counts(self, site: str, tensor: str = "activation", criterion: str | None = None) -> SiteCounts:
        """Return the counts of one site, by its name; by default of the activation and the first criterion.

        Raises:
            RunError: the site, tensor or criterion was not measured.
        """
        for row in self.rows:
            if row.site.name == site and row.tensor == tensor and criterion in (None, row.criterion):
                return row.counts
        raise RunError(f"there is no measurement of {site}, {tensor}, {criterion or 'any criterion'}")

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __or__(self, other: Measurement) -> Measurement:
        return self.merge(other)

    def merge(self, other: Measurement) -> Measurement:
        """Return both together, as if measured at once, with the settings and provenance of the first.

        Raises:
            RunError: the models, sites, tensors or criteria differ.
        """
        if self.model != other.model:
            raise RunError(f"measurements of {self.model} and of {other.model} do not merge; they must be of one model")
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
        return Measurement(self.model, rows, magnitudes, self.settings, self.provenance)

    def to_frame(self) -> pd.DataFrame:
        """Return the tidy table: one row for each site, tensor and criterion, with the columns of ``COLUMNS``."""
        last = max((row.site.layer for row in self.rows), default=0)
        return tidy_frame((self._tidy_rows(row, last) for row in self.rows), COLUMNS)

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

    def save(self, path: str | Path) -> None:
        """Write a folder with a description, all integers, and the tidy table.

        ``measurement.json`` is the description, ``neurons.safetensors`` has the integers, and ``sites.parquet`` is the
        table, for other programs. A measurement of the same model in the folder is replaced.

        Raises:
            RunError: the folder contains something else, or a measurement of another model.
        """
        from safetensors.torch import save_file

        folder = Path(path)
        check_place(folder, self.model)
        for old in folder.glob("*.csv"):  # of the measurement that was here
            old.unlink()
        arrays: dict[str, Tensor] = {}
        described = []
        for number, row in enumerate(self.rows):
            described.append({"site": asdict(row.site), "tensor": row.tensor, "criterion": row.criterion})
            arrays |= {f"{number}.{name}": value for name, value in row.counts.to_arrays().items()}
        kept = []
        for number, (key, magnitudes) in enumerate(self.magnitudes.items()):
            kept.append(list(key))
            arrays[f"magnitudes.{number}"] = magnitudes.counts
        belongs = secrets.token_hex(8)  # shows after a kill whether both files belong together
        with replacing(folder / _NEURONS) as temporary:
            save_file(arrays, temporary, {"belongs": belongs})
        write_json(
            folder / _DESCRIPTION,
            {
                "format": _FORMAT,
                "belongs": belongs,
                "model": self.model,
                "rows": described,
                "magnitudes": kept,
                "settings": self.settings,
                "provenance": self.provenance,
            },
        )
        write_table(folder / _TABLE, self.to_frame(), {"settings": self.settings, "provenance": self.provenance})

    def __repr__(self) -> str:
        sites = len({row.site.name for row in self.rows})
        tokens = max((row.counts.tokens for row in self.rows), default=0)
        return (
            f"<Measurement of {self.model}: {sites} sites, {tokens:,} tokens>\n{self.to_frame().to_string(max_rows=12)}"
        )

    def _repr_html_(self) -> str:
        html: str = self.to_frame().to_html(max_rows=40, escape=True)
        return html


def check_place(folder: Path, model: str) -> None:
    """Check that a measurement of the model can be saved in a folder.

    Raises:
        RunError: the folder contains something else, or a measurement of another model.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not is_measurement(folder):
        raise RunError(f"{folder} holds something else; choose another place for the measurement")
    try:
        there = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError):  # damaged, so it can be replaced
        return
    if there != model:
        raise RunError(f"{folder} holds a measurement of {there}; choose another place for that of {model}")


def is_measurement(path: Path) -> bool:
    """Return whether a folder contains a saved measurement."""
    return (path / _DESCRIPTION).is_file()


def load(path: str | Path) -> Measurement:
    """Read a measurement that ``Measurement.save`` wrote.

    Raises:
        RunError: the folder contains no measurement, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    folder = Path(path)
    if not is_measurement(folder):
        raise RunError(f"{folder} holds no measurement: it has no {_DESCRIPTION}")
    try:
        described = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        arrays = load_file(folder / _NEURONS)
        with safe_open(folder / _NEURONS, "pt") as opened:
            belongs = (opened.metadata() or {}).get("belongs")
        if described["format"] != _FORMAT:
            raise ValueError(f"its format is {described['format']}, and this version reads {_FORMAT}")
        if described["belongs"] != belongs:
            raise ValueError("its files come from two measurements, and one of them is incomplete")
        rows = []
        for number, row in enumerate(described["rows"]):
            prefix = f"{number}."
            own = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
            rows.append(Row(Site(**row["site"]), row["tensor"], row["criterion"], SiteCounts.from_arrays(own)))
        magnitudes = {
            (name, tensor): Magnitudes(arrays[f"magnitudes.{number}"])
            for number, (name, tensor) in enumerate(described["magnitudes"])
        }
        return Measurement(described["model"], rows, magnitudes, described["settings"], described["provenance"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunError(f"{folder} is damaged ({error}); measure again") from None


def _nothing(width: int) -> SiteCounts:
    empty = torch.zeros(0, width, dtype=torch.bool)
    return reference.count(empty, [], torch.zeros(0, dtype=torch.bool))
