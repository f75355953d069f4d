"""One MLP with many seeds at once: the weights of each layer are stacked along a leading axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from actratio.training.architecture import Architecture

# Multiply-adds in one matrix product. Below this, splitting costs more than leaving a core idle.
_SPLIT_ABOVE = 1 << 22


def stacked_matmul(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Compute ``out[s] = left[s] @ right[s]`` for every seed ``s``.

    On a CPU, a batched product gives each thread whole matrices, so with 5 seeds and 2 threads one thread idles for a
    sixth of the time. The seeds that don't divide evenly are therefore computed one by one, with all threads.

    Args:
        left: shape (seeds, rows, inner).
        right: shape (seeds, inner, columns).
        out: shape (seeds, rows, columns), written in place.
    """
    seeds, rows, inner = left.shape
    remainder = 0
    if left.device.type == "cpu" and rows * inner * right.shape[2] >= _SPLIT_ABOVE:
        remainder = seeds % torch.get_num_threads()
    batched = seeds - remainder
    if batched:
        torch.bmm(left[:batched], right[:batched], out=out[:batched])
    for seed in range(batched, seeds):
        torch.mm(left[seed], right[seed], out=out[seed])


class _StackedProduct(torch.autograd.Function):
    """``weight[s] @ below[s]``, whose gradient with respect to the weight is written into a given buffer.

    Fresh memory for the gradients of every step would cost more time than small products do.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, below: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(weight, below)
        ctx.gradient = gradient
        out = below.new_empty(weight.shape[0], weight.shape[1], below.shape[2])
        stacked_matmul(weight, below, out)
        return out

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weight, below = ctx.saved_tensors
        below_gradient = None
        if ctx.needs_input_grad[0]:
            stacked_matmul(error, below.transpose(1, 2), ctx.gradient)
        if ctx.needs_input_grad[1]:
            below_gradient = torch.empty_like(below)
            stacked_matmul(weight.transpose(1, 2), error, below_gradient)
        return (ctx.gradient if ctx.needs_input_grad[0] else None), below_gradient, None


class StackedMLP:
    """Linear layers with an activation between them, for ``len(seeds)`` seeds at once.

    Seed ``s`` starts with the same weights as ``torch.manual_seed(s); nn.Sequential(nn.Linear(…), nn.ReLU(), …)``.

    Activations have shape (seeds, width, batch). Products with a small batch are usually faster on CPUs if the batch
    is the last axis.

    Args:
        architecture: the layer widths.
        seeds: one seed per model.
        activation: function of the hidden layers.
        bias: whether the layers have biases.
        centred: subtract from each hidden pre-activation its mean over the batch.
        device: where the parameters are stored.

    Attributes:
        weights: one parameter per layer, shape (seeds, out, in).
        biases: one parameter per layer, shape (seeds, out, 1); empty without biases.
    """

    def __init__(
        self,
        architecture: Architecture,
        seeds: Sequence[int],
        *,
        activation: Callable[[Tensor], Tensor] = torch.relu,
        bias: bool = False,
        centred: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.architecture, self.seeds = architecture, tuple(seeds)
        self.activation, self.centred = activation, centred
        layers = [_torch_layers(architecture, seed, bias) for seed in self.seeds]
        self.weights = [
            nn.Parameter(torch.stack([linear.weight.detach() for linear in linears]).to(device))
            for linears in zip(*layers, strict=True)
        ]
        self.biases = [
            nn.Parameter(torch.stack([linear.bias.detach() for linear in linears]).unsqueeze(2).to(device))
            for linears in zip(*layers, strict=True)
            if bias
        ]
        self._gradients = [torch.zeros_like(weight, requires_grad=False) for weight in self.weights]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The weights, then the biases."""
        return [*self.weights, *self.biases]

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Return the output of each layer: after the activation for hidden layers, and the logits for the last layer.

        Args:
            inputs: shape (seeds, batch, features), or (batch, features) if all seeds get the same examples.

        Returns:
            One tensor per layer, shape (seeds, width, batch).
        """
        last = len(self.weights) - 1
        outputs: list[Tensor] = []
        for layer in range(len(self.weights)):
            output = self._product(layer, outputs[-1] if layer else inputs)
            if self.biases:
                output = output + self.biases[layer]
            if layer < last:
                if self.centred:
                    output = output - output.mean(2, keepdim=True)
                output = self.activation(output)
            outputs.append(output)
        return outputs

    def _product(self, layer: int, below: Tensor) -> Tensor:
        weight = self.weights[layer]
        if layer == 0 and below.dim() == 2:
            # One product computes the first layer of all seeds: (seeds·width, features) @ (features, examples).
            stack, width, features = weight.shape
            return (weight.reshape(stack * width, features) @ below.T).view(stack, width, -1)
        below = below.transpose(1, 2) if layer == 0 else below
        product: Tensor = _StackedProduct.apply(weight, below, self._gradients[layer])  # type: ignore[no-untyped-call]
        return product


def _torch_layers(architecture: Architecture, seed: int, bias: bool) -> list[nn.Linear]:
    """Create PyTorch's linear layers with their default initialisation after ``torch.manual_seed(seed)``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [nn.Linear(into, out, bias=bias) for out, into in architecture.shapes]
