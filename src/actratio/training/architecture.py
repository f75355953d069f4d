"""The widths of a fully connected classifier, and how they are written."""

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
"""The hidden widths of the article's six networks."""

_IMAGE_PIXELS = 28 * 28
_MOST_DIGITS = 9
_LONGEST_SHOWN = 80  # characters of a specification that an error repeats


@dataclass(frozen=True)
class Architecture:
    """``inputs`` features, hidden widths, ``outputs`` logits.

    >>> str(Architecture.parse("512-128-10", inputs=784, outputs=10))
    '784-512-128-10'
    """

    inputs: int
    hidden: tuple[int, ...]
    outputs: int

    @classmethod
    def parse(cls, spec: str, *, inputs: int, outputs: int) -> Architecture:
        """Read widths joined by ``-``, for data with ``inputs`` features and ``outputs`` classes.

        The input width may be left out.  So a first number that equals ``inputs`` is the input, and
        any other first number is a hidden layer.

        Raises:
            ArchitectureError: not whole numbers ≥ 1, no hidden layer, another number of classes, or
                784 (an image's pixels) in front although the data has another number of features.
        """
        shown = short(spec, _LONGEST_SHOWN)
        if not re.fullmatch(r"[0-9]+(-[0-9]+)*", spec.strip()):
            raise ArchitectureError(
                f"architecture {shown!r} is not whole numbers joined by '-', such as 512-256-{outputs}"
            )
        numbers = spec.strip().split("-")
        if max(map(len, numbers)) > _MOST_DIGITS:
            raise ArchitectureError(
                f"architecture {shown!r} has a width of more than {_MOST_DIGITS} digits; no layer of that width fits a machine"
            )
        widths = [int(number) for number in numbers]
        if 0 in widths:
            raise ArchitectureError(f"architecture {shown!r} has a layer of width 0; every width is at least 1")
        if widths[-1] != outputs:
            raise ArchitectureError(
                f"architecture {shown!r} ends in {widths[-1]} but the data has {outputs} classes; its last number must be {outputs}"
            )
        if len(widths) > 1 and widths[0] == inputs:
            widths = widths[1:]
        elif widths[0] == _IMAGE_PIXELS:
            # Nearly always a specification meant for 28×28 images, not a hidden layer of 784.
            raise ArchitectureError(
                f"architecture {shown!r} starts with 784, the pixels of a 28×28 image, but the data has {inputs} features; "
                f"leave the 784 out, or put {inputs} in front to have a hidden layer of 784"
            )
        if len(widths) < 2:
            raise ArchitectureError(
                f"architecture {shown!r} has no hidden layer; write one, such as {inputs}-64-{outputs}"
            )
        return cls(inputs, tuple(widths[:-1]), outputs)

    def __str__(self) -> str:
        return "-".join(str(width) for width in (self.inputs, *self.hidden, self.outputs))

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the layers that compute: hidden ones, then the logits."""
        return (*self.hidden, self.outputs)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(out, in) of each layer's weight."""
        fan_in = (self.inputs, *self.hidden)
        return tuple(zip(self.widths, fan_in, strict=True))

    def forward_flops(self, examples: int) -> int:
        """FLOPs of the matrix products of a forward pass: 2·examples·Σ out·in."""
        return 2 * examples * sum(out * into for out, into in self.shapes)

    def training_flops(self, examples: int) -> int:
        """FLOPs of the matrix products of a training pass: forward, gradients of the weights, and
        gradients of the inputs of all layers but the first."""
        out, into = self.shapes[0]
        return 3 * self.forward_flops(examples) - 2 * examples * out * into
