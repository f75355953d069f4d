"""One MLP for many seeds: every layer's weights stacked along a leading axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from actratio.training.architecture import Architecture

# Below this many multiply-adds in one matrix, splitting costs more than an idle core.
_SPLIT_ABOVE = 1 << 22


def stacked_matmul(left: Tensor, right: Tensor, out: Tensor) -> None:
    """``out[s] = left[s] @ right[s]`` for every seed s.

    On CPU a batched product gives each thread whole matrices, so with 5 seeds on 2 threads one idles
    for a sixth of the time.  What does not divide evenly goes to products that use all threads each.
    """
    seeds, rows, inner = left.shape
    uneven = 0
    if left.device.type == "cpu" and rows * inner * right.shape[2] >= _SPLIT_ABOVE:
        uneven = seeds % torch.get_num_threads()
    even = seeds - uneven
    if even:
        torch.bmm(left[:even], right[:even], out=out[:even])
    for seed in range(even, seeds):
        torch.mm(left[seed], right[seed], out=out[seed])


class StackedMLP:
    """Linear layers with ReLU between them, for ``len(seeds)`` seeds at once.

    Seed ``s`` starts exactly as ``torch.manual_seed(s); nn.Sequential(nn.Linear(…), nn.ReLU(), …)`` does.

    Activations lie with the batch last, (seeds, width, batch), because products with a small batch
    tend to be faster that way on CPUs.

    Attributes:
        parameter: all parameters, flat: weights, then biases. Its ``grad`` is what ``backward`` writes.
        weights: one tensor a layer, shape (seeds, out, in), views of ``parameter``.
        biases: one tensor a layer, shape (seeds, out), or an empty list.
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
        """Write each layer's output: ReLU outputs, and the logits last.

        Args:
            inputs: (seeds, batch, features).
            outputs: one tensor a layer, (seeds, width, batch), written in place.
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
        """Write the gradients, given the loss's gradient at the logits in ``errors[-1]``.

        Args:
            inputs: (seeds, batch, features), as given to ``forward``.
            outputs: what ``forward`` wrote.
            errors: one tensor a layer, shaped like ``outputs``; all but the last are overwritten.
        """
        for layer in reversed(range(len(self.weights))):
            error = errors[layer]
            if self.biases:
                torch.sum(error, 2, out=self._bias_gradients[layer])
            below = outputs[layer - 1].transpose(1, 2) if layer else inputs
            stacked_matmul(error, below, self._weight_gradients[layer])
            if layer:
                stacked_matmul(self.weights[layer].transpose(1, 2), error, errors[layer - 1])
                # ReLU passes the gradient where its output is positive.
                torch.ops.aten.threshold_backward.grad_input(
                    errors[layer - 1], outputs[layer - 1], 0, grad_input=errors[layer - 1]
                )

    def forward_shared(self, examples: Tensor) -> list[Tensor]:
        """Every layer's output for the same examples in all seeds: a list of (seeds, width, examples)."""
        stack, width, features = self.weights[0].shape
        # One product for all seeds: (seeds·width, features) @ (features, examples).
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
    """Weights and biases of these shapes, one after another, as views of ``flat``."""
    shapes = [*weights, *biases]
    parts = torch.split(flat, [math.prod(shape) for shape in shapes])
    views = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    return views[: len(weights)], views[len(weights) :]


def _torch_layers(architecture: Architecture, seed: int, bias: bool) -> list[nn.Linear]:
    """PyTorch's own layers with its default initialisation after ``torch.manual_seed(seed)``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [nn.Linear(into, out, bias=bias) for out, into in architecture.shapes]
