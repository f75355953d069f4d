"""One MLP for many seeds: every layer's weights stacked along a leading axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from actratio.nets.architecture import Architecture

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

    Every parameter is a view of one flat tensor, ``parameters``, and its gradient of ``gradients``,
    so that the optimiser makes a single pass.  Seed ``s`` starts exactly as
    ``torch.manual_seed(s); nn.Sequential(nn.Linear(…), nn.ReLU(), …)`` does.

    Activations lie with the batch last, (seeds, width, batch): on CPU the products with a small batch
    are a tenth to a fifth faster that way than with the batch in front.

    Attributes:
        weights: one tensor a layer, shape (seeds, out, in).
        biases: one tensor a layer, shape (seeds, out), or an empty list.
    """

    def __init__(self, architecture: Architecture, seeds: Sequence[int], *, bias: bool, device: torch.device) -> None:
        self.architecture = architecture
        self.seeds = tuple(seeds)
        stack = len(self.seeds)
        size = stack * sum(out * into + (out if bias else 0) for out, into in architecture.shapes)
        self.parameters = nn.Parameter(torch.empty(size, device=device), requires_grad=False)
        self.gradients = torch.zeros_like(self.parameters)
        self.parameters.grad = self.gradients
        self.weights, self.biases = self._views(self.parameters, bias)
        self.weight_gradients, self.bias_gradients = self._views(self.gradients, bias)
        for index, seed in enumerate(self.seeds):
            for layer, linear in enumerate(_torch_layers(architecture, seed, bias)):
                self.weights[layer][index].copy_(linear.weight.detach())
                if bias:
                    self.biases[layer][index].copy_(linear.bias.detach())

    def _views(self, flat: Tensor, bias: bool) -> tuple[list[Tensor], list[Tensor]]:
        stack = len(self.seeds)
        shapes = [(stack, out, into) for out, into in self.architecture.shapes]
        if bias:
            shapes += [(stack, out, 1) for out, _ in self.architecture.shapes]
        pieces = torch.split(flat.detach(), [a * b * c for a, b, c in shapes])
        views = [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
        layers = len(self.architecture.shapes)
        return views[:layers], [view.squeeze(2) for view in views[layers:]]

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
            below = outputs[layer - 1].transpose(1, 2) if layer else inputs
            stacked_matmul(error, below, self.weight_gradients[layer])
            if self.biases:
                torch.sum(error, 2, out=self.bias_gradients[layer])
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


def _torch_layers(architecture: Architecture, seed: int, bias: bool) -> list[nn.Linear]:
    """PyTorch's own layers with its default initialisation after ``torch.manual_seed(seed)``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [nn.Linear(into, out, bias=bias) for out, into in architecture.shapes]
