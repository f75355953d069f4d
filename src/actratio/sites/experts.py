"""Experts whose weights are stacked in one tensor for each projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from actratio.sites.site import Site

_SCALES = (1.0, 1e-3, 1e3)
"""What the rows of the random inputs are multiplied by. Functions that cut off numbers, or add to them, then show."""


@dataclass(frozen=True, eq=False)
class StackedExperts:
    """A module that computes Σₖ weightₖ · downₑ(act(gateₑ(x)) ⊙ upₑ(x)) over each token's experts e, or downₑ(act(upₑ(x))).

    It is called with the tokens, (tokens, features), the numbers of each token's experts, (tokens, k), and their weights, (tokens, k).

    Attributes:
        module: the module.
        up_name: of its parameter (experts, 2 · width, features), the gate before up; or (experts, width, features) without a gate.
        down_name: of its parameter (experts, features, width).
        activation_name: of its child with the activation function.
        gated: whether there is a gate.
        width: neurons of an expert.
    """

    module: Any
    up_name: str
    down_name: str
    activation_name: str
    gated: bool
    width: int

    @property
    def up(self) -> nn.Parameter:
        """The parameter ``up_name``."""
        parameter: nn.Parameter = self.module._parameters[self.up_name]
        return parameter

    @property
    def down(self) -> nn.Parameter:
        """The parameter ``down_name``."""
        parameter: nn.Parameter = self.module._parameters[self.down_name]
        return parameter

    def layers(self, expert: int) -> tuple[nn.Linear, nn.Linear | None]:
        """Return an expert's down projection, and, if there is a gate, its up projection, as views of the weights."""
        up = _view(self.up[expert, self.width :]) if self.gated else None
        return _view(self.down[expert]), up

    def formula(self, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """Return what the module should compute, with products that read everything."""
        out = torch.zeros_like(x, dtype=torch.float32)
        activation = self.module._modules[self.activation_name]
        for token, experts in enumerate(index.tolist()):
            for place, expert in enumerate(experts):
                neurons = F.linear(x[token], self.up[expert])
                hidden = activation(neurons[: self.width])
                hidden = hidden * neurons[self.width :] if self.gated else hidden
                out[token] += (F.linear(hidden, self.down[expert]) * weights[token, place]).float()
        return out


def stacked_experts(owner: nn.Module, site: Site, activation: nn.Module | None) -> StackedExperts | None:
    """Return the experts of a module, or ``None`` if it computes anything else than the formula of ``StackedExperts``.

    Args:
        owner: the module that computes the experts.
        site: of one of them.
        activation: the module of their activation function.
    """
    children = {id(child): name for name, child in owner.named_children()}
    up_name, down_name = (name.rpartition(".")[2] for name in (site.up, site.down or ""))
    up, down = owner._parameters.get(up_name), owner._parameters.get(down_name)
    if up is None or down is None or id(activation) not in children or up.ndim != 3:
        return None
    experts, neurons, features = up.shape
    if neurons != site.width * (2 if site.gated else 1) or down.shape != (experts, features, site.width):
        return None
    found = StackedExperts(owner, up_name, down_name, children[id(activation)], site.gated, site.width)
    return found if _computes_formula(found) else None


@torch.no_grad()
def _computes_formula(stacked: StackedExperts) -> bool:
    up, generator = stacked.up, torch.Generator().manual_seed(0)
    x = torch.randn(len(_SCALES), up.shape[2], generator=generator) * torch.tensor(_SCALES)[:, None]
    x = x.to(up.device, up.dtype)
    index = torch.tensor([[0, len(up) - 1]] * len(x), device=up.device)
    weights = torch.rand(index.shape, generator=generator).to(up.device, up.dtype)
    try:
        output, expected = stacked.module(x, index, weights), stacked.formula(x, index, weights)
    except Exception:  # a module that takes other inputs can raise anything
        return False
    if not isinstance(output, Tensor) or (output.shape, output.dtype) != (x.shape, x.dtype):
        return False
    tolerance = 1e-4 if up.dtype == torch.float32 else 0.03  # the order of summation isn't known
    return bool(((output.float() - expected).norm(dim=1) <= tolerance * expected.norm(dim=1)).all())


def _view(weight: Tensor) -> nn.Linear:
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return layer
