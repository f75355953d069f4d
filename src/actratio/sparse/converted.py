"""What ``sparsify`` leaves in a model, and how to make the model dense again. No kernel is needed for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from actratio.errors import SiteError

PLANS = "_actratio_plans"
"""Attribute of a module with the plans of its MLPs."""


class Sparse(nn.Module):
    """A sparse module. It can become dense again, and it can be copied and saved.

    Attributes:
        _sparse_class: the sparse class.
        _dense_class: the class that the module had before.
    """

    # Attributes start with an underscore, because a user's module may have a ``dense_class`` of its own.
    _sparse_class: type[Sparse]
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
        return _empty, (self._sparse_class, self._dense_class), self.__dict__


@torch.inference_mode(False)
def densify(model: nn.Module) -> nn.Module:
    """Undo ``sparsify``: give every module its class and its weights' layout back, and return the model."""
    for module in model.modules():
        module.__dict__.pop(PLANS, None)
        if isinstance(module, Sparse):
            module._leave()
    return model


def restore_class(module: Sparse, *names: str) -> None:
    """Give a sparse module its dense class back.

    Args:
        names: attributes of the sparse module to remove.

    Raises:
        SiteError: a parametrization was added since.
    """
    if type(module) is not class_of(module._sparse_class, module._dense_class):
        raise SiteError(
            f"the sparse layer has become a {type(module).__name__}; remove its parametrization before you make it dense"
        )
    for name in names:
        module.__dict__.pop(name, None)
    module.__class__ = module._dense_class  # type: ignore[assignment]


def class_of(sparse: type[Sparse], dense: type[nn.Module]) -> type[nn.Module]:
    """Return the class of a dense module that was made sparse; always the same one for the same two classes."""
    if (sparse, dense) not in _classes:
        _classes[sparse, dense] = _new_class(sparse, dense)
    return _classes[sparse, dense]


_classes: dict[tuple[type, type], type[nn.Module]] = {}


def _new_class(sparse: type[Sparse], dense: type[nn.Module]) -> type[nn.Module]:
    members = {"__doc__": sparse.__doc__, "__module__": __name__, "_sparse_class": sparse, "_dense_class": dense}
    return type(f"Sparse{dense.__name__}", (sparse, dense), members)


def _empty(sparse: type[Sparse], dense: type[nn.Module]) -> nn.Module:
    kind = class_of(sparse, dense)
    return kind.__new__(kind)
