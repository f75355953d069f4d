"""The modules of a model's MLPs, resolved once and handed on to everything that changes or times them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from actratio.errors import SiteError
from actratio.sites.experts import StackedExperts, stacked_experts
from actratio.sites.find import trace
from actratio.sites.gates import Gating, gating_of
from actratio.sites.linear import is_linear, rows_of
from actratio.sites.site import MEASURED, Group, Site


@dataclass(frozen=True, eq=False)
class MLP:
    """The modules of one MLP.

    The modules are the model's own, so they stay valid when ``sparsify`` or ``densify`` changes their class.

    Attributes:
        site: where the activation is computed.
        gate: in a gated MLP that computes ``down(g * up(x))`` and nothing else, where g is made of ``gate(x)``, the linear layer
            before the activation function; ``None`` in any other MLP.
        up: in a plain MLP, the linear layer before the activation function; in a gated MLP, the linear layer whose outputs are
            multiplied by the activations. ``None`` if it can't be told, as in a gated MLP without a ``gate``.
        activation: the module of the activation function, or ``None`` if it is a function.
        down: the module of the down projection, or ``None`` if the weight belongs to no module.
        unsupported_reason: why the MLP's neurons can't be skipped or removed, or ``None`` if they can. It doesn't depend on
            which kernels are installed.
        own_gate: whether g isn't just ``activation(gate(x))``. Then the function ``own_gate`` of ``actratio.sites.gates`` computes it,
            and neurons may depend on each other.
        stacked: the experts that an expert is one of, if ``sparsify`` can skip its neurons. What else is done to MLPs isn't supported.
    """

    site: Site
    gate: Any
    up: Any
    activation: Any
    down: Any
    unsupported_reason: str | None
    own_gate: bool = False
    stacked: StackedExperts | None = None

    @property
    def rows(self) -> Tensor:
        """The down projection's weight with one row per neuron, (width, features): a view of the weight in use now."""
        return rows_of(self.down)

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The linear layers whose outputs are the neurons, the one before the activation function first.

        Empty if they are unknown, or if neurons may depend on each other: then none of them can be removed.
        """
        return () if self.own_gate else tuple(layer for layer in (self.gate, self.up) if layer is not None)

    @property
    def skipped(self) -> tuple[Any, Any]:
        """The linear layers in which inactive neurons can be skipped: the down projection, and the up projection of a gated MLP or ``None``.

        Those of an expert are views of its weights.
        """
        if self.stacked is not None:
            return self.stacked.layers(self.site.expert or 0)
        return self.down, None if self.gate is None else self.up


def resolve(model: nn.Module, sites: Sequence[Site] | None = None) -> list[MLP]:
    """Return the modules of a model's MLPs, in the order of execution.

    Args:
        model: a dense model; the sparse layers of ``sparsify`` are reported as unsupported.
        sites: of this model; those with a role outside ``MEASURED`` are left out. By default they are found by one forward
            pass on made-up inputs.

    Raises:
        SiteError: there is no MLP, a site isn't in the model, or the inputs can't be made up.
    """
    candidates = trace(model) if sites is None else sites
    chosen = list(dict.fromkeys(site for site in candidates if site.role in MEASURED))
    if not chosen:
        raise SiteError(
            f"{type(model).__name__} has no MLP; give a model in which an activation follows a linear layer"
        )
    modules = dict(model.named_modules())
    missing = [site.name for site in chosen if site.owner not in modules]
    if missing:
        raise SiteError(f"the model has no site {missing[0]}; give a measurement of this model")
    overlapping = overlapping_parameters(model)
    stacked = _stacked_experts(modules, chosen, overlapping)
    return [replace(_resolve(modules, site, overlapping), stacked=stacked.get(site.group)) for site in chosen]


def weight_unsupported_reason(model: nn.Module, layer: nn.Module) -> str | None:
    """Return why a linear layer's weight can't be stored in another order or made smaller, or ``None`` if it can."""
    return _weight_reason(layer, overlapping_parameters(model))


def _resolve(modules: Mapping[str, nn.Module], site: Site, overlapping: set[int]) -> MLP:
    down = modules.get(site.down.rpartition(".")[0]) if site.down else None
    activation = modules.get(site.module) if site.module else None
    first = modules.get(site.up.rpartition(".")[0])
    reason: str | None = None
    if site.expert is not None:
        reason = "experts share one weight, which is not supported"
    elif down is None or not is_linear(down) or rows_of(down).shape[0] != site.width:
        reason = "its down projection is not a linear layer"
    else:
        reason = _weight_reason(down, overlapping)
    gating: Gating | None = None
    up: nn.Module | None = None
    if reason is None and site.gated:
        gating = gating_of(modules[site.owner], site.width, first, activation, down)
        up = None if gating is None else gating.up
    elif reason is None and is_linear(first) and rows_of(first).shape[1] == site.width:
        up = first
    if gating is None:
        return MLP(site, None, up, activation, down, reason)
    return MLP(site, first, up, activation, down, reason, own_gate=not gating.is_plain)


def _stacked_experts(
    modules: Mapping[str, nn.Module], sites: Sequence[Site], overlapping: set[int]
) -> dict[Group, StackedExperts]:
    """Return the experts with stacked weights by the group of their sites."""
    found: dict[Group, StackedExperts] = {}
    for site in {site.group: site for site in sites if site.expert is not None}.values():
        experts = stacked_experts(modules[site.owner], site, modules.get(site.module or ""))
        if experts is not None and not any(_is_shared(weight, overlapping) for weight in (experts.up, experts.down)):
            found[site.group] = experts
    return found


def _weight_reason(layer: nn.Module, overlapping: set[int]) -> str | None:
    weight: Any = layer._parameters.get("weight")
    if weight is None:
        return "its weight is computed, as by a parametrization"
    if _is_shared(weight, overlapping):
        return "its weight shares memory with another parameter or another process"
    return None


def _is_shared(weight: Any, overlapping: set[int]) -> bool:
    return id(weight) in overlapping or bool(weight.is_shared())


def overlapping_parameters(model: nn.Module) -> set[int]:
    """Return the identities of the parameters that share at least a part of their memory with another parameter."""
    overlapping: set[int] = set()
    end, last = 0, 0
    for parameter in sorted(model.parameters(), key=lambda parameter: parameter.data_ptr()):
        start = parameter.data_ptr()
        if start and start < end:
            overlapping |= {id(parameter), last}
        if start + parameter.nbytes > end:
            end, last = start + parameter.nbytes, id(parameter)
    return overlapping
