"""What enters a product or a sum with an activation, and what that makes of the activation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor

from actratio.sites import functions
from actratio.sites.values import Stream, Value


def is_factor(tensor: Tensor, output: Tensor) -> bool:
    """Return whether an operand is one number for a whole row, or for a neuron of an example in all its places."""
    return scales_neurons(tensor, output) or (tensor.ndim > 0 and tensor.shape[-1] == 1 < output.shape[-1])


def scales_neurons(tensor: Tensor, output: Tensor) -> bool:
    """Return whether an operand has one place where the output has many.

    Its shape is (example, …, neuron) or, for images, (example, neuron, …).
    """
    if tensor.ndim != output.ndim or tensor.ndim < 3:
        return False
    places = (slice(1, -1), slice(2, None)) if tensor.ndim == 4 else (slice(1, -1),)
    return any(math.prod(tensor.shape[axes]) == 1 < math.prod(output.shape[axes]) for axes in places)


def is_nonlinear(name: str, values: Sequence[Value]) -> bool:
    """Return whether a product, sum or quotient of functions of one linear map is a nonlinear function of it.

    A sum of an activation and of what a scale made of it (global response normalisation) is still that activation.
    """
    origins = {value.origin for value in values}
    return name in functions.PRODUCT or (len(origins) > 1 and origins != {0})


def have_one_root(streams: Iterable[Stream]) -> bool:
    """Return whether linear maps, perhaps of linear maps, read one thing in the end."""
    roots = set()
    for stream in streams:
        while isinstance(stream.source, Stream):
            stream = stream.source
        roots.add(stream.source)
    return len(roots) == 1
