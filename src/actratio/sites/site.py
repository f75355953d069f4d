"""A place in a model where an MLP's activation is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["mlp", "expert", "shared expert", "router", "attention", "state-space", "head", "other"]

Group = tuple[str, str | None, str, str | None]
"""Owner, module, up and down projection."""

MEASURED: frozenset[Role] = frozenset({"mlp", "expert", "shared expert"})
"""Roles that are measured by default."""


@dataclass(frozen=True)
class Site:
    """A place in a model where an activation is computed.

    Attributes:
        name: path of the module that computes the MLP, followed by an expert's number; if one module computes several
            activations, the activation's own path.
        role: what the activation is part of; ``other`` if it enters no product with a weight.
        function: the activation function, such as ``silu``; the steps of a function written out are joined by ``·``.
        width: number of neurons.
        gated: whether the activation is multiplied by an up projection.
        up: name of the weight of the linear map that the activation function reads.
        down: name of the down projection's weight, or ``None`` if there is none.
        expert: which slice of that weight, if experts share one.
        layer: number of the model's block, from 0, in the order of execution; −1 for roles that aren't measured.
        calls: how often it runs in a forward pass (for an expert: how often its group runs).
        owner: path of the module in whose ``forward`` the activation is computed.
        module: path of the activation module, or ``None`` for a function.
        scope: path of the smallest module that contains all of it, from the projections to the product.
        hidden_axis: the axis of the neurons in the down projection's weight (in an expert's slice of it).
        sequence_first: whether activations are (tokens, sequences, width), not (sequences, tokens, width).
        direct: whether the outputs of ``module`` and the inputs of the down projection's module show everything, so
            that hooks on these two are enough.
    """

    name: str
    role: Role
    function: str
    width: int
    gated: bool
    up: str
    down: str | None
    expert: int | None
    layer: int
    calls: int
    owner: str
    module: str | None
    scope: str
    hidden_axis: int
    sequence_first: bool
    direct: bool

    @property
    def group(self) -> Group:
        """Key of the sites that are computed together: the experts of one layer."""
        return self.owner, self.module, self.up, self.down
