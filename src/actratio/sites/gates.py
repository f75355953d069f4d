"""What a gated MLP multiplies its up projection by: the gate, with all steps that the MLP itself takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

_SCALES = (1.0, 1.0, 1.0, 1e-3, 1e3)
"""What the rows of the random inputs are multiplied by. Functions that cut off large numbers differ from the identity for the last one."""

StandIns = Mapping[str, Callable[[Tensor], Tensor]]
"""What is called in place of some children of an MLP, by name."""


class Gating(NamedTuple):
    """How a gated MLP is computed: ``down(g * up(x))`` and nothing else.

    Attributes:
        up: the linear layer ``up``.
        is_plain: whether g is ``activation(gate(x))``. If not, ``own_gate`` computes it.
    """

    up: nn.Linear
    is_plain: bool


def stand_ins(owner: nn.Module, up: nn.Linear, down: nn.Module) -> StandIns | None:
    """Return what makes an MLP's ``forward`` return its gate: ones for ``up``, nothing for ``down``.

    ``None`` if the two are not children of the MLP.
    """
    names = {id(module): name for name, module in owner.named_children()}
    if id(up) not in names or id(down) not in names:
        return None
    return {names[id(up)]: partial(_ones, up.out_features), names[id(down)]: _unchanged}


def own_gate(owner: nn.Module, kind: type[nn.Module], replaced: StandIns, x: Tensor) -> Tensor:
    """Return what a gated MLP multiplies ``up(x)`` by, (…, width), from the MLP's own code.

    The MLP isn't changed, so several threads may do so at a time.

    Args:
        owner: the MLP.
        kind: the class whose ``forward`` computes it.
        replaced: as ``stand_ins`` returns it.
        x: (…, inputs).
    """
    twin = object.__new__(kind)
    twin.__dict__.update(owner.__dict__)
    twin.__dict__["_modules"] = {**owner._modules, **replaced}
    gate: Tensor = kind.forward(twin, x)
    return gate


def gating_of(
    owner: nn.Module, width: int, gate: nn.Module | None, activation: nn.Module | None, down: nn.Module | None
) -> Gating | None:
    """Return how ``owner`` computes ``down(g * up(x))``, or ``None`` if it computes anything else.

    Names say too little, so the module and the formula are compared on random inputs.
    """
    ups = [
        child
        for child in owner.children()
        if type(child) is nn.Linear and child is not gate and child is not down and child.out_features == width
    ]
    if type(gate) is not nn.Linear or gate.out_features != width or len(ups) != 1 or down is None:
        return None
    (up,) = ups
    random = torch.randn(len(_SCALES), gate.in_features, generator=torch.Generator().manual_seed(0))
    x = (random * torch.tensor(_SCALES)[:, None]).to(gate.weight.device, gate.weight.dtype)
    plain = None if activation is None else _computes(owner, x, lambda: down(activation(gate(x)) * up(x)))
    if plain:
        return Gating(up, is_plain=True)
    replaced = stand_ins(owner, up, down)
    if replaced is None or not _computes(owner, x, lambda: down(own_gate(owner, type(owner), replaced, x) * up(x))):
        return None
    return Gating(up, is_plain=False)


def _ones(width: int, x: Tensor) -> Tensor:
    return x.new_ones(1).expand(*x.shape[:-1], width)


def _unchanged(x: Tensor) -> Tensor:
    return x


@torch.no_grad()
def _computes(owner: nn.Module, x: Tensor, formula: Callable[[], Tensor]) -> bool:
    """Return whether a module's output is what a formula gives, bit for bit."""
    try:
        output, expected = owner(x), formula()
    except Exception:  # a module that takes more than one input can raise anything
        return False
    return (
        isinstance(output, Tensor)
        and (output.shape, output.dtype) == (expected.shape, expected.dtype)
        and torch.equal(output[:-1], expected[:-1])
        and torch.allclose(output[-1], expected[-1], rtol=0, atol=0, equal_nan=True)  # large numbers may overflow
    )
