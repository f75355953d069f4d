"""One MLP for many seeds: every layer's weights stacked along a leading axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from actratio.nets.architecture import Architecture

# Below this many multiply-adds in one matrix, splitting costs more than an idle core.
_SPLIT_ABOVE = 1 << 22

# A piece of a large layer's gradient, in floats: 7 MB, which stays in the last cache of most CPUs.
_GRADIENT_FLOATS = 7_000_000 // 4

_Blocks = list[tuple[int, tuple[int, ...]]]  # layer and shape: three axes for a weight, two for a bias


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


@dataclass(frozen=True)
class Piece:
    """A range of the parameters whose gradient is written, and used by the optimiser, at once.

    Attributes:
        parameter: a flat view of the parameters; its ``grad`` is a buffer that other pieces may share.
        gradient: that buffer, for a large layer in the shape (seeds, out, in).
        seeds: which seeds of the layer.
    """

    parameter: nn.Parameter
    gradient: Tensor
    seeds: slice


class StackedMLP:
    """Linear layers with ReLU between them, for ``len(seeds)`` seeds at once.

    Seed ``s`` starts exactly as ``torch.manual_seed(s); nn.Sequential(nn.Linear(…), nn.ReLU(), …)`` does.

    Two things are for the CPU's caches. Activations lie with the batch last, (seeds, width, batch),
    because products with a small batch are a tenth to a fifth faster that way. And gradients of
    large layers are taken in pieces of some seeds, each used before the next one overwrites it, so
    that they never travel to memory and back.

    Attributes:
        parameters: all parameters, flat: small layers, biases, then large layers.
        pieces: ranges that cover ``parameters`` in order.
        weights: one tensor a layer, shape (seeds, out, in), views of ``parameters``.
        biases: one tensor a layer, shape (seeds, out), or an empty list.
    """

    def __init__(self, architecture: Architecture, seeds: Sequence[int], *, bias: bool, device: torch.device) -> None:
        self.architecture = architecture
        self.seeds = tuple(seeds)
        stack, shapes = len(self.seeds), architecture.shapes
        bound = _GRADIENT_FLOATS if device.type == "cpu" else math.inf
        large = [layer for layer, (out, into) in enumerate(shapes) if stack * out * into > bound]
        common: _Blocks = [(layer, (stack, *shape)) for layer, shape in enumerate(shapes) if layer not in large]
        common += [(layer, (stack, out)) for layer, (out, _) in enumerate(shapes) if bias]
        blocks = common + [(layer, (stack, *shapes[layer])) for layer in large]

        self.parameters = torch.empty(_size(blocks), device=device)
        weights, biases = _views(self.parameters, blocks)
        self.weights, self.biases = [weights[layer] for layer in range(len(shapes))], [*biases.values()]
        gradients = torch.zeros(_size(common), device=device)
        self._weight_gradients, self._bias_gradients = _views(gradients, common)
        self.pieces = [_piece(self.parameters[: len(gradients)], gradients)] if common else []
        self._pieces_of: dict[int, range] = {}
        for layer in large:
            first = len(self.pieces)
            self.pieces += _cut(self.weights[layer])
            self._pieces_of[layer] = range(first, len(self.pieces))
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

    def backward(
        self, inputs: Tensor, outputs: Sequence[Tensor], errors: Sequence[Tensor], update: Callable[[int], None]
    ) -> None:
        """Compute the gradients, given the loss's gradient at the logits in ``errors[-1]``.

        Args:
            inputs: (seeds, batch, features), as given to ``forward``.
            outputs: what ``forward`` wrote.
            errors: one tensor a layer, shaped like ``outputs``; all but the last are overwritten.
            update: called with the index of each of ``pieces`` once, when its gradient is whole. It may
                change the piece's parameters; the gradient is lost with the next call.
        """
        for layer in reversed(range(len(self.weights))):
            error = errors[layer]
            below = outputs[layer - 1].transpose(1, 2) if layer else inputs
            if layer:  # before the weights change
                stacked_matmul(self.weights[layer].transpose(1, 2), error, errors[layer - 1])
                # ReLU passes the gradient where its output is positive.
                torch.ops.aten.threshold_backward.grad_input(
                    errors[layer - 1], outputs[layer - 1], 0, grad_input=errors[layer - 1]
                )
            if self.biases:
                torch.sum(error, 2, out=self._bias_gradients[layer])
            if layer not in self._pieces_of:
                stacked_matmul(error, below, self._weight_gradients[layer])
                continue
            for index in self._pieces_of[layer]:
                part, gradient = self.pieces[index].seeds, self.pieces[index].gradient
                stacked_matmul(error[part], below[part], gradient)
                update(index)
        if self._weight_gradients or self._bias_gradients:
            update(0)

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


def _piece(values: Tensor, gradient: Tensor, seeds: slice = slice(None)) -> Piece:
    parameter = nn.Parameter(values.view(-1), requires_grad=False)
    parameter.grad = gradient.view(-1)
    return Piece(parameter, gradient, seeds)


def _cut(weight: Tensor) -> Iterator[Piece]:
    """Pieces of a large layer: as many seeds as fit, a multiple of the threads if that many do."""
    stack, size, threads = len(weight), weight[0].numel(), torch.get_num_threads()
    fit = max(1, _GRADIENT_FLOATS // size)
    fit = fit // threads * threads or fit
    buffer = torch.empty_like(weight[:fit])
    for first in range(0, stack, fit):
        part = slice(first, min(first + fit, stack))
        yield _piece(weight[part], buffer[: part.stop - first], part)


def _size(blocks: _Blocks) -> int:
    return sum(math.prod(shape) for _, shape in blocks)


def _views(flat: Tensor, blocks: _Blocks) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Weights and biases by layer, as views of ``flat``."""
    weights: dict[int, Tensor] = {}
    biases: dict[int, Tensor] = {}
    pieces = torch.split(flat, [math.prod(shape) for _, shape in blocks])
    for (layer, shape), piece in zip(blocks, pieces, strict=True):
        (weights if len(shape) == 3 else biases)[layer] = piece.view(shape)
    return weights, biases


def _torch_layers(architecture: Architecture, seed: int, bias: bool) -> list[nn.Linear]:
    """PyTorch's own layers with its default initialisation after ``torch.manual_seed(seed)``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [nn.Linear(into, out, bias=bias) for out, into in architecture.shapes]
