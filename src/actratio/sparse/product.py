"""A product with fixed weights, whatever device computes it."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Product:
    """Σᵢ hᵢ · rowsᵢ over the active neurons, plus the bias; where there is an up projection, hᵢ is gᵢ · (upᵢ · x + biasᵢ).

    Args:
        rows: (width, features), weights that the kernel's ``takes`` takes.
        bias: (features,), of the weights' type, as are the others but the thresholds.
        thresholds: (width,) float32: a neuron is active where |h| is larger, or h is NaN; without, where h ≠ 0.
        up: (width, inputs).
        up_bias: (width,).
    """

    def __init__(
        self,
        rows: Tensor,
        bias: Tensor | None = None,
        thresholds: Tensor | None = None,
        up: Tensor | None = None,
        up_bias: Tensor | None = None,
    ) -> None:
        self.width, self.features = rows.shape
        self.inputs = 0 if up is None else up.shape[1]
        self.thresholds = thresholds
        self.weights: tuple[Tensor | None, ...] = rows, bias, up, up_bias
        self._addresses = tuple(map(address, self.weights))

    def is_of(self, rows: Tensor, bias: Tensor | None, up: Tensor | None = None, up_bias: Tensor | None = None) -> bool:
        """Whether these are the weights, where they were when this was made."""
        return self._addresses == (rows.data_ptr(), address(bias), address(up), address(up_bias))

    def __reduce__(self) -> Any:
        return type(None), ()  # addresses are of no use to a copy

    def __call__(self, hidden: Tensor, most: int, x: Tensor | None = None) -> Tensor | None:
        """Multiply.

        Args:
            hidden: (…, width), contiguous, of the weights' type; with an up projection, the gate after its activation function.
            most: how many active neurons, of all examples together, are worth it.
            x: (…, inputs), contiguous: what the up projection reads.

        Returns:
            (…, features), or ``None`` where dense products suit better: more neurons are active.
        """
        raise NotImplementedError


def address(x: Tensor | None) -> int:
    """Where a tensor's numbers are; 0 for none."""
    return 0 if x is None else x.data_ptr()
