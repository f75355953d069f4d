"""What is known of a tensor on its way from one linear map to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(eq=False)
class Stream:
    """The output of one linear map, or a part of it (a fused gate and up projection has two).

    Attributes:
        data: what the linear map read.
        rows: which token each row of ``data`` is, where rows were selected; ``None`` for all rows in order.
        source: identity of what was read, through casts and views.
        weight: name of the linear map's weight.
        axis: of the neurons in its output: 1 for a convolution, -2 for weight @ data, otherwise -1; another if axes were permuted.
        is_spatial: whether it is a convolution that mixes neighbours, which isn't part of an MLP.
    """

    data: Tensor
    rows: Tensor | None
    source: object
    weight: str
    axis: int = -1
    is_spatial: bool = False


@dataclass(frozen=True)
class Weight:
    """A weight, or the part of one that was selected.

    Attributes:
        name: the parameter's, as ``named_parameters`` has it.
        expert: which slice of the first axis: a number, a tensor with one for each row, or ``None`` for all of it.
        is_computed: whether the model computes it from the parameter of this name, so that its values are others.
    """

    name: str
    expert: int | Tensor | None = None
    is_computed: bool = False


@dataclass(frozen=True)
class Value:
    """What is known of a tensor on its way from one linear map to the next.

    Attributes:
        stream: the linear map that it came from.
        activation: the output of the last nonlinear function, if there was one.
        pre: its input, unless that was overwritten.
        function: its name.
        owner: path of the module in whose ``forward`` the function was called.
        module: path of the activation module, if the function is one.
        hidden: the product with an up projection, if there was one.
        foreign: whether it was multiplied by data that is not a linear map of the same input, such as a state-space scan.
        origin: identity of the whole activation, from which rows may have been selected since.
    """

    stream: Stream
    activation: Tensor | None = None
    pre: Tensor | None = None
    function: str = ""
    owner: str = ""
    module: str | None = None
    hidden: Tensor | None = None
    foreign: bool = False
    origin: int = 0


@dataclass(frozen=True)
class Use:
    """An activation that entered the matrix product of a down projection.

    Attributes:
        value: what entered.
        entered: the tensor that entered.
        owner: path of the module that computed the product.
        weight: of the down projection.
        columns: the weight as it was multiplied, transposed so that axis −1 is the hidden one (axis 1 of a convolution).
        axis: the hidden axis of ``entered``.
        offsets: of a grouped product: where each expert's rows end.
    """

    value: Value
    entered: Tensor
    owner: str
    weight: Weight
    columns: Tensor
    axis: int
    offsets: Tensor | None = None

    @property
    def group(self) -> tuple[str, str | None, str, str]:
        """The key of its site, as ``Site.group``."""
        return self.value.owner, self.value.module, self.value.stream.weight, self.weight.name


def cut(value: Value, source: Tensor, take: Callable[[Tensor], Tensor]) -> Value:
    """Return the value of a part of ``source``: tensors of its shape, and its rows, are cut in the same way."""

    def part(tensor: Tensor | None) -> Tensor | None:
        return take(tensor) if tensor is not None and tensor.shape == source.shape else tensor

    stream = value.stream
    rows = stream.rows
    if rows is not None and len(rows) == len(source):
        chosen = take(source)
        if len(chosen) != len(source):  # otherwise, another axis was cut
            rows = take(rows)
    return replace(
        value,
        stream=replace(stream, rows=rows),
        activation=part(value.activation),
        pre=part(value.pre),
        hidden=part(value.hidden),
    )


def select(weight: Weight, index: Any, experts: int) -> Weight:
    """Return the weight of one expert, or of one expert for each row; a slice or a mask returns it unchanged."""
    if isinstance(index, tuple):
        index = index[0] if index else None
    if weight.expert is not None or isinstance(index, bool):
        return weight
    if isinstance(index, Tensor) and index.dtype in (torch.int64, torch.int32):
        return replace(weight, expert=int(index) % experts if index.ndim == 0 else index % experts)
    return replace(weight, expert=index % experts) if isinstance(index, int) else weight
