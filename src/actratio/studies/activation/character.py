"""A small transformer that predicts the next character, with any of four MLPs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from actratio.errors import DataError

_HELD_OUT = 0.1  # share of the text, at its end
_INITIAL = 0.02  # standard deviation of the initial weights
_RATE, _LAST_RATE, _WARM_UP, _DECAY = 1e-3, 1e-4, 100, 0.1


@dataclass(frozen=True)
class Size:
    """Attributes: width of the states, layers, heads, characters of a context, sequences in a batch, and neurons of an MLP."""

    width: int = 96
    layers: int = 4
    heads: int = 4
    context: int = 128
    batch: int = 16
    neurons: int = 384


@dataclass(frozen=True)
class Arm:
    """Attributes: makes the activation function; whether the MLP is gated; its neurons as a share of the size's."""

    activation: Callable[[], nn.Module]
    gated: bool = False
    neurons: float = 1.0


ARMS: dict[str, Arm] = {
    "relu": Arm(nn.ReLU),
    "gelu": Arm(nn.GELU),
    "swiglu": Arm(nn.SiLU, gated=True),
    "swiglu, equal parameters": Arm(nn.SiLU, gated=True, neurons=2 / 3),
}
"""The character models by name. ``swiglu`` has as many neurons as ``relu``, and so one and a half times its parameters."""


class CharacterMLP(nn.Module):
    """``down(activation(up(x)))`` or, gated, ``down(activation(gate(x)) * up(x))``, without biases."""

    def __init__(self, width: int, neurons: int, arm: Arm) -> None:
        super().__init__()
        self.gate = nn.Linear(width, neurons, bias=False) if arm.gated else None
        self.up = nn.Linear(width, neurons, bias=False)
        self.activation = arm.activation()
        self.down = nn.Linear(neurons, width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        if self.gate is None:
            hidden = self.activation(self.up(states))
        else:
            hidden = self.activation(self.gate(states)) * self.up(states)
        out: Tensor = self.down(hidden)
        return out


class CharacterBlock(nn.Module):
    """Causal attention, then an MLP, each after a layer norm."""

    def __init__(self, size: Size, arm: Arm) -> None:
        super().__init__()
        self.heads = size.heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.attention_in = nn.Linear(size.width, 3 * size.width, bias=False)
        self.attention_out = nn.Linear(size.width, size.width, bias=False)
        self.mlp = CharacterMLP(size.width, round(size.neurons * arm.neurons), arm)

    def forward(self, states: Tensor) -> Tensor:
        batch, length, width = states.shape
        shaped = self.attention_in(self.attention_norm(states)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = shaped.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        states = states + self.attention_out(attended.transpose(1, 2).reshape(batch, length, width))
        out: Tensor = states + self.mlp(self.mlp_norm(states))
        return out


class CharacterModel(nn.Module):
    """Return the logits of the next character, (sequences, characters, vocabulary).

    Args:
        vocabulary: number of characters.
        arm: a key of ``ARMS``.
        size: of the model.
        seed: of the initial weights.
    """

    def __init__(self, vocabulary: int, arm: str, size: Size, seed: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(vocabulary, size.width)
        self.places = nn.Embedding(size.context, size.width)
        self.blocks = nn.ModuleList(CharacterBlock(size, ARMS[arm]) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, vocabulary, bias=False)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                # As in GPT-2, what is added to the states starts smaller the more layers there are.
                added = name.endswith(("attention_out.weight", "down.weight"))
                deviation = _INITIAL / math.sqrt(2 * size.layers) if added else _INITIAL
                nn.init.normal_(parameter, std=deviation, generator=generator)

    def forward(self, ids: Tensor) -> Tensor:
        states = self.characters(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            states = block(states)
        logits: Tensor = self.head(self.norm(states))
        return logits


@dataclass(frozen=True, eq=False)
class Characters:
    """A text as numbers of characters.

    Attributes:
        vocabulary: the characters in order.
        train, val: the text without its last tenth, and its last tenth.
    """

    vocabulary: str
    train: Tensor
    val: Tensor

    @classmethod
    def of(cls, text: str, context: int) -> Characters:
        """Split a text.

        Raises:
            DataError: its last tenth is shorter than two contexts.
        """
        vocabulary = "".join(sorted(set(text)))
        if len(text) * _HELD_OUT < 2 * (context + 1):
            raise DataError(
                f"the text has {len(text)} characters, and the character model needs {int(2 * (context + 1) / _HELD_OUT)}; "
                "give more text with --text"
            )
        number = {character: place for place, character in enumerate(vocabulary)}
        ids = torch.tensor([number[character] for character in text])
        start = len(ids) - int(len(ids) * _HELD_OUT)
        return cls(vocabulary, ids[:start], ids[start:])


def evenly_spaced_windows(ids: Tensor, count: int, length: int) -> Tensor:
    """Return windows of a text that start at evenly spaced places, (count, length)."""
    starts = np.linspace(0, len(ids) - length, count).astype(int)
    return torch.stack([ids[start : start + length] for start in starts])


class CharacterTrainer:
    """Train a character model. A step's sequences depend on the step and the seed only.

    Args:
        model: the model.
        text: the text.
        size: of the model and the batches.
        steps: number of steps that the learning rate decays over.
        seed: of the batches.

    Attributes:
        steps_done: steps so far.
    """

    def __init__(self, model: CharacterModel, text: Characters, size: Size, steps: int, seed: int) -> None:
        self.model, self.steps_done = model, 0
        self._text, self._size, self._steps, self._seed = text, size, steps, seed
        matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
        vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
        groups = [{"params": matrices, "weight_decay": _DECAY}, {"params": vectors, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=_RATE, fused=True)
        self._parameters = [*matrices, *vectors]

    def rate(self, step: int) -> float:
        """Return the learning rate of a step from 0: a linear warm-up, then a cosine."""
        if step < _WARM_UP:
            return _RATE * (step + 1) / _WARM_UP
        done = (step - _WARM_UP) / max(1, self._steps - _WARM_UP)
        return _LAST_RATE + (_RATE - _LAST_RATE) * (1 + math.cos(math.pi * min(done, 1.0))) / 2

    def train(self, steps: int) -> None:
        """Train for ``steps`` steps."""
        for step in range(self.steps_done, self.steps_done + steps):
            for group in self._optimizer.param_groups:
                group["lr"] = self.rate(step)
            loss = window_losses(self.model, self._batch(step)).mean()
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        self.steps_done += steps

    def _batch(self, step: int) -> Tensor:
        length = self._size.context + 1
        numbers = np.random.default_rng((self._seed, step))
        starts = numbers.integers(0, len(self._text.train) - length + 1, self._size.batch)
        return torch.stack([self._text.train[start : start + length] for start in starts])

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on."""
        state = {"done": torch.tensor([self.steps_done])}
        for index, parameter in enumerate(self._parameters):
            state[f"{index}.parameter"] = parameter.detach()
            kept = self._optimizer.state.get(parameter, {})
            state |= {f"{index}.{name}": value for name, value in kept.items()}
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from a state that ``state`` returned."""
        for index, parameter in enumerate(self._parameters):
            own = {key.split(".", 1)[1]: value for key, value in state.items() if key.startswith(f"{index}.")}
            with torch.no_grad():
                parameter.copy_(own.pop("parameter"))
            if own:
                self._optimizer.state[parameter] = {name: value.clone() for name, value in own.items()}
        self.steps_done = int(state["done"])


def window_losses(model: CharacterModel, windows: Tensor) -> Tensor:
    """Return the mean loss of each window, whose first character is not predicted: (windows,)."""
    logits, labels = model(windows[:, :-1]), windows[:, 1:]
    losses: Tensor = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    return losses.mean(1)


@torch.no_grad()
def count_active(model: CharacterModel, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean loss on windows, and for each layer the share of the activation function's outputs above zero, (layers,)."""
    ratios: list[Tensor] = []
    mlps = [module for module in model.modules() if isinstance(module, CharacterMLP)]
    handles = [
        mlp.activation.register_forward_hook(lambda _, inputs, output: ratios.append((output > 0).double().mean()))
        for mlp in mlps
    ]
    try:
        loss = window_losses(model, windows).double().mean()
    finally:
        for handle in handles:
            handle.remove()
    return loss, torch.stack(ratios)
