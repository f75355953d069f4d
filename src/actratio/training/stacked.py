"""Train one MLP with many seeds at once: the weights of each layer are stacked along a leading axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

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


class StackedMLP:
    """Linear layers with ReLU between them, for ``len(seeds)`` seeds at once.

    Seed ``s`` starts with the same weights as ``torch.manual_seed(s); nn.Sequential(nn.Linear(…), nn.ReLU(), …)``.

    Activations have shape (seeds, width, batch). Products with a small batch are usually faster on CPUs if the batch
    is the last axis.

    Args:
        architecture: the layer widths.
        seeds: one seed per model.
        bias: whether the layers have biases.
        device: where the parameters are stored.

    Attributes:
        parameter: all parameters in one flat tensor: weights, then biases. ``backward`` writes its ``grad``.
        weights: one tensor per layer, shape (seeds, out, in), a view of ``parameter``.
        biases: one tensor per layer, shape (seeds, out), a view of ``parameter``; empty without biases.
    """

    def __init__(self, architecture: Architecture, seeds: Sequence[int], *, bias: bool, device: torch.device) -> None:
        self.architecture = architecture
        self.seeds = tuple(seeds)
        stack = len(self.seeds)
        weights = [(stack, out, into) for out, into in architecture.shapes]
        biases = [(stack, out) for out, _ in architecture.shapes if bias]
        flat = torch.empty(sum(map(math.prod, [*weights, *biases])), device=device)
        self.parameter = nn.Parameter(flat, requires_grad=False)
        self.parameter.grad = torch.zeros_like(flat)
        self.weights, self.biases = _views(flat, weights, biases)
        self._weight_gradients, self._bias_gradients = _views(self.parameter.grad, weights, biases)
        for index, seed in enumerate(self.seeds):
            for layer, linear in enumerate(_torch_layers(architecture, seed, bias)):
                self.weights[layer][index].copy_(linear.weight.detach())
                if bias:
                    self.biases[layer][index].copy_(linear.bias.detach())

    def forward(self, inputs: Tensor, outputs: Sequence[Tensor]) -> None:
        """Compute the output of each layer: after the ReLU for hidden layers, and the logits for the last layer.

        Args:
            inputs: shape (seeds, batch, features).
            outputs: one tensor per layer, shape (seeds, width, batch), written in place.
        """
        below = inputs.transpose(1, 2)
        for layer, (weight, output) in enumerate(zip(self.weights, outputs, strict=True)):
            stacked_matmul(weight, below, output)
            if self.biases:
                output.add_(self.biases[layer].unsqueeze(2))
            if layer < len(self.weights) - 1:
                output.relu_()
            below = output

    def backward(self, inputs: Tensor, outputs: Sequence[Tensor], errors: Sequence[Tensor]) -> None:
        """Compute the gradients of the parameters, and write them to ``parameter.grad``.

        Args:
            inputs: shape (seeds, batch, features), as passed to ``forward``.
            outputs: the tensors that ``forward`` wrote.
            errors: one tensor per layer, with the shapes of ``outputs``. The last one must hold the gradient of the
                loss with respect to the logits; the others are overwritten.
        """
        for layer in reversed(range(len(self.weights))):
            error = errors[layer]
            if self.biases:
                torch.sum(error, 2, out=self._bias_gradients[layer])
            below = outputs[layer - 1].transpose(1, 2) if layer else inputs
            stacked_matmul(error, below, self._weight_gradients[layer])
            if layer:
                stacked_matmul(self.weights[layer].transpose(1, 2), error, errors[layer - 1])
                # The gradient of ReLU is 1 where its output is positive, and 0 elsewhere.
                torch.ops.aten.threshold_backward.grad_input(
                    errors[layer - 1], outputs[layer - 1], 0, grad_input=errors[layer - 1]
                )

    def forward_shared(self, examples: Tensor) -> list[Tensor]:
        """Return the output of each layer if all seeds get the same examples.

        Args:
            examples: shape (examples, features).

        Returns:
            One tensor per layer, shape (seeds, width, examples).
        """
        stack, width, features = self.weights[0].shape
        # One product computes the first layer of all seeds: (seeds·width, features) @ (features, examples).
        first = self.weights[0].reshape(stack * width, features) @ examples.T
        outputs = [first.view(stack, width, -1)]
        for layer, weight in enumerate(self.weights):
            if layer:
                outputs.append(torch.bmm(weight, outputs[-1]))
            if self.biases:
                outputs[-1].add_(self.biases[layer].unsqueeze(2))
            if layer < len(self.weights) - 1:
                outputs[-1].relu_()
        return outputs


def _views(
    flat: Tensor, weights: Sequence[tuple[int, ...]], biases: Sequence[tuple[int, ...]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Split ``flat`` into views with the shapes of the weights, then of the biases."""
    shapes = [*weights, *biases]
    parts = torch.split(flat, [math.prod(shape) for shape in shapes])
    views = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    return views[: len(weights)], views[len(weights) :]


def _torch_layers(architecture: Architecture, seed: int, bias: bool) -> list[nn.Linear]:
    """Create PyTorch's linear layers with their default initialisation after ``torch.manual_seed(seed)``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [nn.Linear(into, out, bias=bias) for out, into in architecture.shapes]
