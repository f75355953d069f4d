"""Linear layers of torch and transformers, whose weights are stored in different orders."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def is_linear(module: object) -> bool:
    """Return whether a module is torch's ``Linear`` or transformers' ``Conv1D``, and not a subclass of either."""
    kind = type(module)
    return kind is nn.Linear or (kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils")


def rows_of(module: Any) -> Tensor:
    """Return a view of a linear layer's weight with one row per input, (inputs, outputs)."""
    weight: Tensor = module.weight
    return weight.t() if isinstance(module, nn.Linear) else weight
