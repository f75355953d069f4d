"""The layer widths of a fully connected classifier, and how they are written."""

from __future__ import annotations

import re
from dataclasses import dataclass

from actratio.errors import ArchitectureError, short

ARTICLE_HIDDEN: tuple[tuple[int, ...], ...] = (
    (512, 256, 128, 64),
    (256, 128, 64),
    (128, 64),
    (512, 128),
    (1024, 256, 64),
    (64, 32),
)
"""Hidden widths of the six networks in the article."""

_IMAGE_PIXELS = 28 * 28
_MAX_DIGITS = 9  # in a width
_MAX_SHOWN = 80  # characters of a specification that an error message shows


@dataclass(frozen=True)
class Architecture:
    """Layer widths of an MLP: input features, hidden neurons and logits.

    Attributes:
        inputs: the number of input features.
        hidden: the width of each hidden layer.
        outputs: the number of logits, one per class.

    >>> str(Architecture.parse("512-128-10", inputs=784, outputs=10))
    '784-512-128-10'
    """

    inputs: int
    hidden: tuple[int, ...]
    outputs: int

    @classmethod
    def parse(cls, spec: str, *, inputs: int, outputs: int) -> Architecture:
        """Parse widths joined by ``-``, such as ``"512-128-10"``.

        The input width is optional: a first number equal to ``inputs`` is the input width, and any other first number
        is the width of a hidden layer.

        Args:
            spec: the widths.
            inputs: the number of features of the data.
            outputs: the number of classes of the data.

        Raises:
            ArchitectureError: the widths are not integers ≥ 1, there is no hidden layer, the last width is not
                ``outputs``, or the first width is 784 (the pixels of a 28×28 image) but the data has a different
                number of features.
        """
        shown = short(spec, _MAX_SHOWN)
        if not re.fullmatch(r"[0-9]+(-[0-9]+)*", spec.strip()):
            raise ArchitectureError(
                f"architecture {shown!r} is not whole numbers joined by '-'; write it like 512-256-{outputs}"
            )
        numbers = spec.strip().split("-")
        if max(map(len, numbers)) > _MAX_DIGITS:
            raise ArchitectureError(
                f"architecture {shown!r} has a width with more than {_MAX_DIGITS} digits; use widths that fit in memory"
            )
        widths = [int(number) for number in numbers]
        if 0 in widths:
            raise ArchitectureError(f"architecture {shown!r} has a layer of width 0; every width must be at least 1")
        if widths[-1] != outputs:
            raise ArchitectureError(
                f"architecture {shown!r} ends with {widths[-1]} but the data has {outputs} classes; the last number must be {outputs}"
            )
        if len(widths) > 1 and widths[0] == inputs:
            widths = widths[1:]
        elif widths[0] == _IMAGE_PIXELS:
            # This is nearly always a specification for 28×28 images, not one with a hidden layer of width 784.
            raise ArchitectureError(
                f"architecture {shown!r} starts with 784, the pixels of a 28×28 image, but the data has {inputs} features; "
                f"remove the 784, or write {inputs} before it for a hidden layer of width 784"
            )
        if len(widths) < 2:
            raise ArchitectureError(
                f"architecture {shown!r} has no hidden layer; add one, such as {inputs}-64-{outputs}"
            )
        return cls(inputs, tuple(widths[:-1]), outputs)

    def __str__(self) -> str:
        return "-".join(str(width) for width in (self.inputs, *self.hidden, self.outputs))

    @property
    def widths(self) -> tuple[int, ...]:
        """Return the output width of each layer: the hidden layers, then the logits."""
        return (*self.hidden, self.outputs)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Return the shape (out, in) of each weight matrix."""
        fan_in = (self.inputs, *self.hidden)
        return tuple(zip(self.widths, fan_in, strict=True))

    def forward_flops(self, examples: int) -> int:
        """Count the FLOPs of the matrix products in a forward pass: 2 · examples · Σ out · in."""
        return 2 * examples * sum(out * into for out, into in self.shapes)

    def training_flops(self, examples: int) -> int:
        """Count the FLOPs of the matrix products in a training step.

        These are the forward pass, the gradients of the weights, and the gradients of each layer's inputs except the
        first's.
        """
        out, into = self.shapes[0]
        return 3 * self.forward_flops(examples) - 2 * examples * out * into
