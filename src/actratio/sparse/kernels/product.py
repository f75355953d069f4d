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
        self._layouts = tuple(None if each is None else (each.shape, each.stride()) for each in (bias, up, up_bias))

    def is_of(self, rows: Tensor, bias: Tensor | None, up: Tensor | None = None, up_bias: Tensor | None = None) -> bool:
        """Whether these are the weights, where and as they lay when this was made."""
        return (
            self.is_at(rows, bias, up, up_bias)
            and rows.shape == (self.width, self.features)
            and rows.is_contiguous()
            and all(_lies(each, like) for each, like in zip((bias, up, up_bias), self._layouts, strict=True))
        )

    def is_at(self, rows: Tensor, bias: Tensor | None, up: Tensor | None = None, up_bias: Tensor | None = None) -> bool:
        """Whether these are where the weights were when this was made, however they lie."""
        return self._addresses == (rows.data_ptr(), address(bias), address(up), address(up_bias))

    def __reduce__(self) -> Any:
        return type(None), ()  # addresses are of no use to a copy

    def __call__(self, hidden: Tensor, most: int, x: Tensor | None = None) -> Tensor | None:
        """Multiply.

        Args:
            hidden: (…, width), contiguous, of the weights' type; with an up projection, the gate after its activation function.
            most: how many active neurons, of all examples together (of a part of them, its share), are worth it.
            x: (…, inputs), contiguous: what the up projection reads.

        Returns:
            (…, features), or ``None`` where dense products suit better: more neurons are active.
        """
        raise NotImplementedError


def _lies(weight: Tensor | None, layout: tuple[Any, Any] | None) -> bool:
    return layout is None if weight is None else layout == (weight.shape, weight.stride())


def address(x: Tensor | None) -> int:
    """Where a tensor's numbers are; 0 for none."""
    return 0 if x is None else x.data_ptr()
