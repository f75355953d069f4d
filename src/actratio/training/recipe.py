"""How a network is trained: activation, optimiser, parametrisation and what is held fixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from actratio.errors import ActratioError
from actratio.training.architecture import Architecture

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "relu2": lambda x: F.relu(x).square(),
}
"""Activation functions by name."""

OPTIMIZERS = ("adam", "sgd")
"""``adam`` is AdamW, which is Adam without weight decay; ``sgd`` has a momentum of 0.9."""

PARAMETRIZATIONS = ("standard", "mup")
"""``standard`` is PyTorch's; ``mup`` is the maximal update parametrisation."""


@dataclass(frozen=True)
class Recipe:
    """How to train an MLP. The defaults are the article's.

    Attributes:
        activation: a key of ``ACTIVATIONS``.
        optimizer: one of ``OPTIMIZERS``.
        lr: learning rate.
        weight_decay: weight decay of the weights, not of the biases. With ``adam`` it is decoupled: each step shrinks a weight
            by ``lr · weight_decay`` of itself. With ``sgd`` it is added to the gradient, so that momentum makes the shrinking
            ten times as strong in the long run.
        batch_size: examples in a batch; the last batch of an epoch may be smaller.
        bias: whether the layers have biases.
        parametrization: one of ``PARAMETRIZATIONS``.
        base_width: width at which ``mup`` equals ``standard``.
        init_scale: factor of the initial weights.
        frozen: indices of layers that are not trained; −1 is the output layer.
        centred: subtract from each pre-activation of a hidden layer its mean over the batch.

    Raises:
        ActratioError: a name is unknown, a number is out of range, or ``mup`` is combined with SGD, for which its rules
            differ.
    """

    activation: str = "relu"
    optimizer: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int = 64
    bias: bool = False
    parametrization: str = "standard"
    base_width: int = 128
    init_scale: float = 1.0
    frozen: tuple[int, ...] = ()
    centred: bool = False

    def __post_init__(self) -> None:
        for what, name, known in (
            ("activation", self.activation, tuple(ACTIVATIONS)),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("parametrization", self.parametrization, PARAMETRIZATIONS),
        ):
            if name not in known:
                raise ActratioError(f"there is no {what} {name!r}; use one of {', '.join(known)}")
        for what, number in (
            ("learning rate", self.lr),
            ("batch size", self.batch_size),
            ("base width", self.base_width),
            ("initial scale", self.init_scale),
        ):
            if not number > 0:
                raise ActratioError(f"the {what} is {number:g}; it must be above 0")
        if self.weight_decay < 0:
            raise ActratioError(f"the weight decay is {self.weight_decay:g}; it must not be negative")
        if self.parametrization == "mup" and self.optimizer != "adam":
            raise ActratioError(
                f"mup was combined with {self.optimizer}, but its rules here are those for adam; use adam"
            )

    def layer_scales(self, architecture: Architecture) -> list[LayerScale]:
        """Return how the parametrisation scales each layer, the output layer last.

        Under ``mup``, with m = fan-in / base width, the learning rate of every layer but the first is divided by m, and the
        initial weights of the output layer by √m (PyTorch's default already divides by √fan-in). Source: Yang et al.,
        "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer" (2022), table 3, for Adam.
        Weight decay is scaled so that ``lr · weight_decay`` is the same for all widths. Biases keep the scale and the rate
        that they have at the base width.
        """
        scales = []
        last = len(architecture.shapes) - 1
        for layer, (_, fan_in) in enumerate(architecture.shapes):
            m = fan_in / self.base_width if self.parametrization == "mup" and layer else 1.0
            scales.append(LayerScale(m**-0.5 if layer == last else 1.0, 1 / m, m**0.5))
        return scales

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe for the settings of a study."""
        return {**vars(self), "frozen": list(self.frozen)}


@dataclass(frozen=True)
class LayerScale:
    """Factors of a layer's initial weights, of the learning rate of its weights, and of its initial biases."""

    init: float
    lr: float
    bias_init: float
