"""Remove neurons from an MLP's linear layers, and tell a model's configuration its new width."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actratio.errors import SiteError
from actratio.sites.mlps import MLP

_WIDTHS = (
    "intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim",
)  # fmt: skip
"""Names of an MLP's width in configurations of transformers."""
_SIZES = ("in_features", "out_features", "nf", "nx")
"""Names of a linear layer's sizes in torch and in transformers' ``Conv1D``."""


@dataclass(frozen=True, eq=False)
class MeasuredMLP:
    """An MLP with the neurons that were active.

    Attributes:
        mlp: the MLP, with known layers before its activation function.
        active: which neurons were active at least once, (width,) on the CPU.
        names: the sites that use these layers.
    """

    mlp: MLP
    active: Tensor
    names: frozenset[str]

    @property
    def never_active(self) -> Tensor:
        """Which neurons can't be active: the weights that the activation function reads are zero and the neuron was silent, (width,)."""
        first = self.mlp.inputs[0]
        weight: Tensor = first.weight.detach()
        reads_input = weight.any(1) if isinstance(first, nn.Linear) else weight.any(0)
        return ~(reads_input.cpu() | self.active)


class Removal:
    """Changes of a model that can be undone.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._layers: list[tuple[Any, dict[str, Any], dict[str, int]]] = []
        self._settings: list[tuple[Any, str, Any]] = []

    def shrink(self, item: MeasuredMLP, removable: Tensor, width: int) -> None:
        """Keep ``width`` neurons of an MLP.

        If fewer neurons are removed than ``removable`` names, because other MLPs need the width, those that can be active stay.
        """
        rank = 2 * (~removable).int() + (~item.never_active).int()
        kept = rank.argsort(descending=True, stable=True)[:width].sort().values
        layers = (*item.mlp.inputs, item.mlp.down)
        self._layers += [(layer, dict(layer._parameters), _sizes(layer)) for layer in layers]
        for layer in item.mlp.inputs:
            _keep(layer, kept, outputs=True)
        _keep(item.mlp.down, kept, outputs=False)

    def set_widths(self, widths: Mapping[int, int]) -> None:
        """Replace widths in the model's configuration and those inside it.

        Args:
            widths: the new width for each old one.
        """
        for config in configurations(getattr(self._model, "config", None)):
            for name in _WIDTHS:
                old = getattr(config, name, 0)
                if old is None and len(widths) == 1:  # the default, such as four times the features
                    (new,) = widths.values()
                else:  # some configurations have a list, with a width for each layer
                    new = widths.get(old, old) if isinstance(old, int) else old
                if new != old and (old is not None or set(widths) != set(widths.values())):
                    self._settings.append((config, name, old))
                    setattr(config, name, new)

    def undo(self) -> None:
        """Put the model back as it was before the first change."""
        for layer, parameters, sizes in reversed(self._layers):  # one MLP's last layer may be another one's first
            layer._parameters.update(parameters)
            layer.__dict__.update(sizes)
        for config, name, old in reversed(self._settings):
            setattr(config, name, old)


def check_configuration(model: nn.Module) -> None:
    """Check that a model's configuration makes a model of the same shapes, so that the model loads again.

    Raises:
        SiteError: it doesn't.
    """
    config: Any = getattr(model, "config", None)
    if config is None:
        return
    kind: Any = type(model)
    try:
        with torch.device("meta"):
            fresh = kind(copy.deepcopy(config))
        same = _shapes(fresh) == _shapes(model)
    except Exception:  # a model that can't be made from its configuration alone can raise anything
        same = False
    if not same:
        raise SiteError(
            f"the configuration of {kind.__name__} cannot express the smaller MLPs, so the model would not load again; nothing was changed"
        )


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def configurations(config: Any) -> list[Any]:
    """Return a model's configuration and those inside it."""
    if config is None:
        return []
    inner = [value for value in vars(config).values() if hasattr(value, "to_dict") and hasattr(value, "model_type")]
    return [config, *(deeper for value in inner for deeper in configurations(value))]


def _keep(layer: Any, kept: Tensor, *, outputs: bool) -> None:
    """Keep some of a linear layer's outputs, or of its inputs."""
    linear = isinstance(layer, nn.Linear)
    axis = 0 if outputs == linear else 1
    kept = kept.to(layer.weight.device)
    layer.weight = nn.Parameter(layer.weight.detach().index_select(axis, kept), layer.weight.requires_grad)
    if outputs and layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach().index_select(0, kept), layer.bias.requires_grad)
    if linear:
        setattr(layer, "out_features" if outputs else "in_features", len(kept))
    else:
        setattr(layer, "nf" if outputs else "nx", len(kept))


def _sizes(layer: Any) -> dict[str, int]:
    return {name: vars(layer)[name] for name in _SIZES if name in vars(layer)}
