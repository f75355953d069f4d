"""Counts as a table with one row for each neuron, which becomes a measurement again."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from actratio.counting.counts import SiteCounts
from actratio.counting.measurement import Measurement, Row
from actratio.errors import RunError
from actratio.sites import Site

if TYPE_CHECKING:
    import pandas as pd

_OTHER_NAMES = {"name": "site", "function": "activation"}
"""Columns that have other names than the fields of ``Site``, as in the tidy table."""
_SITE = {field.name: _OTHER_NAMES.get(field.name, field.name) for field in fields(Site)}
_KEY = ["site", "tensor", "criterion"]
_NEURON_FIELDS = [name for name, item in SiteCounts.declared().items() if item.per_neuron]


def neuron_frame(measurement: Measurement) -> pd.DataFrame:
    """Return one row for each neuron of each row of a measurement; see ``Measurement.to_frame``."""
    import pandas as pd

    rows = measurement.rows
    described = [
        {
            "model": measurement.model,
            "fingerprint": measurement.fingerprint,
            **{_SITE[name]: value for name, value in asdict(row.site).items()},
            "tensor": row.tensor,
            "criterion": row.criterion,
            **{name: int(value) for name, value in row.counts.values().items() if _is_number(value)},
        }
        for row in rows
    ]
    counted = [name for name in SiteCounts.declared() if any(name in row for row in described)]
    columns = ["model", "fingerprint", *_SITE.values(), "tensor", "criterion", *counted]
    sites = pd.DataFrame(described, columns=columns, dtype=object)  # a column with None would become floats
    widths = [row.counts.width for row in rows]
    frame = sites.loc[np.repeat(sites.index, widths)].reset_index(drop=True)
    frame.insert(columns.index("criterion") + 1, "neuron", np.concatenate([np.arange(0), *map(np.arange, widths)]))
    for name in _NEURON_FIELDS:
        values = [getattr(row.counts, name) for row in rows]
        if any(value is not None for value in values):
            parts = [
                [pd.NA] * width if value is None else value.tolist()
                for value, width in zip(values, widths, strict=True)
            ]
            frame[name] = [number for part in parts for number in part]
            counted.append(name)
    return frame.astype(dict.fromkeys(("expert", *counted), "Int64")).infer_objects()


def _is_number(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, Tensor) and value.ndim == 0)


def read_neuron_frame(frame: pd.DataFrame) -> Measurement:
    """Return the measurement that ``neuron_frame`` was called on; see ``Measurement.from_frame``."""
    needed = ["model", *_SITE.values(), "tensor", "criterion", "neuron", "tokens", "active"]
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        hint = ", which has readings only," if "activation_ratio" in frame.columns else ""
        raise RunError(
            f"the frame{hint} has no column {missing[0]}; give the frame of to_frame(neurons=True), or use save and load"
        )
    if frame["model"].nunique() != 1:
        raise RunError(f"the frame has {frame['model'].nunique()} models; give the neurons of one measurement")
    rows = [_read_row(own) for _, own in frame.groupby(_KEY, sort=False)]
    fingerprint = _first(frame, "fingerprint") if "fingerprint" in frame.columns else None
    return Measurement(str(frame["model"].iloc[0]), rows, {}, {}, {}, fingerprint)


def _read_row(frame: pd.DataFrame) -> Row:
    """Return the counts of the neurons of one site, tensor and criterion."""
    ordered = frame.sort_values("neuron")
    name, tensor, criterion = (str(ordered[column].iloc[0]) for column in _KEY)
    width = int(ordered["width"].iloc[0])
    if ordered["neuron"].tolist() != list(range(width)):
        raise RunError(
            f"the frame has {len(frame):,} rows for {name}, {tensor}, {criterion}, which has {width:,} neurons; "
            "give every neuron once"
        )
    site = {field: _first(ordered, column) for field, column in _SITE.items()}
    values: dict[str, Any] = {}
    for field, declared in SiteCounts.declared().items():
        if field not in ordered.columns or ordered[field].isna().all():
            continue
        if declared.per_neuron:
            values[field] = torch.tensor([int(value) for value in ordered[field]], dtype=torch.int64)
        else:
            number = int(ordered[field].iloc[0])
            values[field] = number if declared.kind is int else torch.tensor(number)
    return Row(Site(**site), tensor, criterion, SiteCounts(**values))


def _first(frame: pd.DataFrame, column: str) -> Any:
    """Return the first value of a column as a Python value; ``None`` for a missing one."""
    import pandas as pd

    value = frame[column].iloc[0]
    if pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value
