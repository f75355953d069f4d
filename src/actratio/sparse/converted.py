"""What ``sparsify`` leaves in a model, and how to make the model dense again. No kernel is needed for it."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from actratio.errors import SiteError

_MARK = "actratio"

PLANS = "_actratio_plans"
"""Attribute of a module with the plans of its MLPs."""


class Converted(nn.Module):
    """A module that ``sparsify`` changed. It can become dense again, and it can be copied and saved.

    Attributes:
        _prefix: begins the name of its class.
        _converted_class: what was done to it, one of the subclasses of this class.
        _dense_class: the class that the module had before.
    """

    # Attributes start with an underscore, because a user's module may have a ``dense_class`` of its own.
    _prefix: ClassVar[str] = "Sparse"
    _converted_class: type[Converted]
    _dense_class: type[nn.Module]

    def _leave(self) -> None:
        """Make the module dense again.

        Raises:
            SiteError: if a parametrization was added since.
        """
        raise NotImplementedError

    def _apply(self, *arguments: Any, **options: Any) -> Any:
        module: Any = super()
        result = module._apply(*arguments, **options)
        self.__dict__["_product"] = None  # it would keep the old weights alive
        return result

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _empty, (self._converted_class, self._dense_class), self.__dict__


@torch.inference_mode(False)
def densify(model: nn.Module) -> nn.Module:
    """Undo ``sparsify``: give every module its class and its weights' layout back, and return the model."""
    if any(isinstance(module, Converted) and module._prefix == "Int8" for module in model.modules()):
        mark_weights(model, None)
    for module in model.modules():
        module.__dict__.pop(PLANS, None)
        if isinstance(module, Converted):
            module._leave()
    return model


def mark_weights(model: nn.Module, weights: str | None) -> None:
    """Write into the configurations of transformers models that their weights are stored in another type, or that they no longer are.

    transformers then refuses what ``save_pretrained`` wrote. It would read the integers as if they were the weights. The model gets
    configurations of its own, because other models may share the ones it has.
    """
    if weights is not None:
        _copy_configurations(model)
    for module in model.modules():  # a model inside another one can be saved alone
        config: Any = module.__dict__.get("config")
        if not hasattr(config, "to_dict"):
            continue
        if weights is not None:
            # An unknown method is skipped with a warning; without a method, nothing is loaded.
            config.quantization_config = {_MARK: weights}
        elif is_marked(config):
            del config.quantization_config


def _copy_configurations(model: nn.Module) -> None:
    """Give a model copies of its configurations. Modules that share one share its copy, also as a part of a larger configuration."""
    copies: dict[int, Any] = {}
    for module in model.modules():
        config = module.__dict__.get("config")
        if hasattr(config, "to_dict"):
            copy.deepcopy(config, copies)
    for module in model.modules():
        for name, value in list(module.__dict__.items()):
            if hasattr(value, "to_dict") and id(value) in copies:
                module.__dict__[name] = copies[id(value)]


def is_marked(config: Any) -> bool:
    """Return whether ``mark_weights`` wrote into a configuration."""
    written = getattr(config, "quantization_config", None)
    return isinstance(written, dict) and _MARK in written


def thresholds_of(layer: Any) -> Tensor | None:
    """Return a converted layer's thresholds, on the device of its weight."""
    if layer._thresholds is not None and layer._thresholds.device != layer.weight.device:
        layer._thresholds = layer._thresholds.to(layer.weight.device)
    thresholds: Tensor | None = layer._thresholds
    return thresholds


def has_own_memory(weight: Tensor | None) -> bool:
    """Return whether a weight may be stored in another order: it's a parameter, and has all of its memory."""
    return type(weight) is nn.Parameter and weight.untyped_storage().nbytes() == weight.nbytes


def restore_class(module: Converted, *names: str) -> None:
    """Give a module its dense class back.

    Args:
        names: attributes to remove.

    Raises:
        SiteError: a parametrization was added since.
    """
    if type(module) is not class_of(module._converted_class, module._dense_class):
        raise SiteError(
            f"the layer has become a {type(module).__name__}; remove its parametrization before you make it dense"
        )
    for name in names:
        module.__dict__.pop(name, None)
    module.__class__ = module._dense_class  # type: ignore[assignment]


def class_of(converted: type[Converted], dense: type[nn.Module]) -> type[nn.Module]:
    """Return the class of a dense module that was converted; always the same one for the same two classes."""
    if (converted, dense) not in _classes:
        _classes[converted, dense] = _new_class(converted, dense)
    return _classes[converted, dense]


_classes: dict[tuple[type, type], type[nn.Module]] = {}


def _new_class(converted: type[Converted], dense: type[nn.Module]) -> type[nn.Module]:
    members = {
        "__doc__": converted.__doc__,
        "__module__": __name__,
        "_converted_class": converted,
        "_dense_class": dense,
    }
    return type(f"{converted._prefix}{dense.__name__}", (converted, dense), members)


def _empty(converted: type[Converted], dense: type[nn.Module]) -> nn.Module:
    kind = class_of(converted, dense)
    return kind.__new__(kind)
