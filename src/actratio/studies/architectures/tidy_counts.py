"""The arrays of the study's units as tidy rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from actratio.counting.probe import TENSORS
from actratio.studies.architectures.kept_neurons import KEPT
from actratio.studies.base import Arrays

if TYPE_CHECKING:
    import pandas as pd

COUNT_COLUMNS = (
    "model", "variant", "tensor", "criterion", "layer", "width", "block", "seed", "tokens", "active", "outputs", "activation_ratio",
    "kept", "cost", "loss", "weight",
)  # fmt: skip
"""Columns of the table. The last four hold the costs of keeping a share of the neurons, in rows without a layer."""


def counts_frame(model: str, variant: str, arrays: Arrays, seeds: Sequence[int]) -> pd.DataFrame:
    """Return one row for each tensor, layer and block."""
    import pandas as pd

    active, outputs, tokens = (arrays[name].tolist() for name in ("active", "outputs", "tokens"))
    layers, widths, order = (arrays[name].tolist() for name in ("layers", "widths", "order"))
    rows = [
        (
            model, variant, tensor, "positive", layer, widths[place], block, seeds[number], tokens[number],
            active[row][place][number], outputs[row][place][number],
            active[row][place][number] / outputs[row][place][number],
        )
        for row, tensor in enumerate(TENSORS)
        for place, layer in enumerate(layers)
        for number, block in enumerate(order)
        if outputs[row][place][number]
    ]  # fmt: skip
    return _with_all_columns(pd.DataFrame(rows, columns=list(COUNT_COLUMNS[:12])))


def losses_frame(model: str, arrays: Arrays, seeds: Sequence[int]) -> pd.DataFrame:
    """Return one row for each share that was kept and block."""
    import pandas as pd

    loss, weight, tokens, order = (arrays[name].tolist() for name in ("loss", "weight", "tokens", "order"))
    cost = "loss" if bool(arrays["relative"]) else "embedding"
    rows = [
        {
            "model": model, "variant": "reduced", "tensor": "hidden", "criterion": "contribution", "layer": -1, "width": 0,
            "block": block, "seed": seeds[number], "tokens": tokens[number], "active": 0, "outputs": 0, "kept": share,
            "cost": cost, "loss": loss[row][number], "weight": weight[number],
        }
        for row, share in enumerate(KEPT)
        for number, block in enumerate(order)
    ]  # fmt: skip
    return _with_all_columns(pd.DataFrame(rows))


def _with_all_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the columns that the rows don't have: empty text, 0 for counts, NaN for other numbers."""
    empty = {"cost": "", "weight": 0}
    missing = {name: empty.get(name, float("nan")) for name in COUNT_COLUMNS if name not in frame.columns}
    return frame.assign(**missing)[list(COUNT_COLUMNS)]
