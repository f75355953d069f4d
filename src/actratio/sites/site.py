"""A place in a model where an MLP's activation is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["mlp", "expert", "shared expert", "router", "attention", "state-space", "head", "other"]

Group = tuple[str, str | None, str, str | None]
"""Owner, module, up and down projection."""

MEASURED: frozenset[Role] = frozenset({"mlp", "expert", "shared expert"})
"""Roles that are measured unless others are asked for."""


@dataclass(frozen=True)
class Site:
    """Where an activation is computed, and what becomes of it.

    Attributes:
        name: path of the module that computes the MLP; an expert's number, or the activation's own
            path where one module has several, is joined to it.
        role: what the activation is part of; ``other`` is one that enters no product with a weight.
        function: the activation function, such as ``silu``; steps that were written out are joined by ``·``.
        width: number of neurons.
        gated: whether the activation is multiplied by an up projection.
        up: name of the weight of the linear map that the activation function reads.
        down: name of the down projection's weight, or ``None`` if there is none.
        expert: which slice of that weight, of experts that share one.
        layer: which block of the model, from 0, in the order of execution.
        calls: how often it runs in a forward pass (for an expert: how often its group does).
        owner: path of the module in whose ``forward`` the activation is computed.
        module: path of the activation module, or ``None`` for a function.
        scope: path of the smallest module that holds all of it, from the projections to the product.
        hidden_axis: which axis of the down projection's weight (of an expert's slice of it) is the neurons'.
        turned: whether its rows are (tokens, sequences), not (sequences, tokens).
        direct: whether the outputs of ``module`` and the inputs of the down projection's module are all that
            there is to see, so that hooks on these two suffice.
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
    turned: bool
    direct: bool

    @property
    def group(self) -> Group:
        """What the experts that are computed together share."""
        return self.owner, self.module, self.up, self.down
