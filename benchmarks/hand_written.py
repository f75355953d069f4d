"""A trainer whose gradients are written by hand, for ReLU and Adam only: a baseline for the one that uses autograd.

All of a step writes to preallocated buffers, so it shows what autograd costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from actratio import SiteCounts
from actratio.data import Dataset
from actratio.training import Architecture
from actratio.training.batches import batch_order
from actratio.training.stacked import _torch_layers, stacked_matmul
from actratio.training.trainer import SplitResult, _Totals

_CHUNK = 256
_EVAL_BATCH = 500


class HandWrittenMLP:
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


class HandWrittenTrainer:
    """Train all seeds of an architecture on a data set, with the default settings of Adam.

    >>> trainer = Trainer(architecture, data, seeds=range(5))        # doctest: +SKIP
    >>> before = trainer.evaluate("val")                             # doctest: +SKIP
    >>> during, after = trainer.epoch(), trainer.evaluate("val")     # doctest: +SKIP

    The result of a seed does not depend on the other seeds, except for float32 rounding (about 1e-6 relative per step):
    the order in which a matrix product sums can change with the number of seeds. The same call gives bit-identical
    results on the same device with the same number of threads.

    Args:
        architecture: the layer widths.
        data: the data set; its features and classes must match the architecture.
        seeds: one seed per model. A seed decides the initial weights and the order of the examples.
        bias: whether the layers have biases.
        batch_size: examples in a batch; the last batch of an epoch may be smaller.
        device: where to train.
    """

    def __init__(
        self,
        architecture: Architecture,
        data: Dataset,
        seeds: Sequence[int],
        *,
        bias: bool = False,
        batch_size: int = 64,
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.epochs_done = 0
        self.steps_done = 0
        self.model = HandWrittenMLP(architecture, seeds, bias=bias, device=self.device)
        self._optimizer = torch.optim.Adam([self.model.parameter], fused=True)
        self._examples = {
            "train": torch.from_numpy(data.x_train).to(self.device),
            "val": torch.from_numpy(data.x_val).to(self.device),
        }
        self._labels = {
            "train": torch.from_numpy(data.y_train).to(self.device),
            "val": torch.from_numpy(data.y_val).to(self.device),
        }
        self._buffers: dict[int, _Buffers] = {}

    def epoch(self) -> SplitResult:
        """Train on every example once, and return the counts, the loss and the accuracy over the training batches.

        They come from the forward pass of each step, as in the article.
        """
        examples, labels = self._examples["train"], self._labels["train"]
        seeds = self.model.seeds
        self.epochs_done += 1
        order = torch.from_numpy(np.stack([batch_order(seed, self.epochs_done, len(labels)) for seed in seeds])).to(
            self.device
        )
        total = _Totals(len(seeds), self.device)
        in_full_batches = len(labels) // self.batch_size * self.batch_size
        for part in (order[:, :in_full_batches], order[:, in_full_batches:]):  # the last batch may be smaller
            size = min(self.batch_size, part.shape[1])
            if not size:
                continue
            # Shape (steps, seeds, batch), contiguous, so that the batches of a step are adjacent in memory.
            batches = part.reshape(len(seeds), -1, size).transpose(0, 1).contiguous()
            buffers = self._buffers_for(size, min(_CHUNK, len(batches)))
            for chunk in torch.split(batches, _CHUNK):
                targets = labels[chunk]
                for slot in range(len(chunk)):
                    self._step(buffers, examples, chunk[slot], targets[slot], slot)
                buffers.drain(total, targets)
        self.steps_done += -(-len(labels) // self.batch_size)
        return total.result()

    def _step(self, buffers: _Buffers, examples: Tensor, batch: Tensor, targets: Tensor, slot: int) -> None:
        outputs = [*buffers.hidden, buffers.logits[slot]]
        torch.index_select(examples, 0, batch.view(-1), out=buffers.inputs.view(batch.numel(), -1))
        self.model.forward(buffers.inputs, outputs)
        # Gradient of the mean cross-entropy with respect to the logits: (softmax − one-hot) / batch.
        error = torch.softmax(outputs[-1], 1, out=buffers.errors[-1])
        error.scatter_add_(1, targets.unsqueeze(1), buffers.minus_one)
        error.div_(batch.shape[1])
        self.model.backward(buffers.inputs, outputs, buffers.errors)
        self._optimizer.step()
        buffers.count()

    def evaluate(self, split: str) -> SplitResult:
        """Return counts, loss and accuracy of the current weights over a split, ``"train"`` or ``"val"``."""
        total = _Totals(len(self.model.seeds), self.device)
        for examples, labels in zip(
            torch.split(self._examples[split], _EVAL_BATCH), torch.split(self._labels[split], _EVAL_BATCH), strict=True
        ):
            outputs = self.model.forward_shared(examples)
            total.add([SiteCounts.of(output.transpose(1, 2)) for output in outputs])
            total.score(outputs[-1].transpose(1, 2), labels.expand(len(self.model.seeds), -1))
        return total.result()

    def _buffers_for(self, batch: int, steps: int) -> _Buffers:
        if batch not in self._buffers:
            seeds = len(self.model.seeds)
            self._buffers[batch] = _Buffers(self.model.architecture, seeds, batch, steps, self.device)
        return self._buffers[batch]


class _Buffers:
    """Buffers of the training steps for one batch size, with room for ``steps`` steps between two calls of ``drain``.

    The hidden outputs of all layers are views of one flat tensor, so counting takes two passes over it (a comparison
    and an addition) for any number of layers.

    Attributes:
        inputs: shape (seeds, batch, features).
        hidden: output of each hidden layer, shape (seeds, width, batch).
        logits: logits of the steps since the last ``drain``, shape (steps, seeds, classes, batch).
        errors: gradient of the loss with respect to each layer's output, shape (seeds, width, batch).
        minus_one: −1, shape (seeds, 1, batch), which is added to the softmax at the label.
    """

    def __init__(self, architecture: Architecture, seeds: int, batch: int, steps: int, device: torch.device) -> None:
        sizes = [seeds * width * batch for width in architecture.hidden]
        self._outputs = torch.zeros(sum(sizes), device=device)
        self._is_active = torch.zeros_like(self._outputs)
        self._active = torch.zeros_like(self._outputs)
        self._sizes, self._shapes = sizes, [(seeds, width, batch) for width in architecture.hidden]
        self._steps = 0
        self.hidden = self._by_layer(self._outputs)
        self.inputs = torch.empty(seeds, batch, architecture.inputs, device=device)
        self.logits = torch.empty(steps, seeds, architecture.outputs, batch, device=device)
        self.errors = [torch.empty(seeds, width, batch, device=device) for width in architecture.widths]
        self.minus_one = torch.full((seeds, 1, batch), -1.0, device=device)

    def _by_layer(self, flat: Tensor) -> list[Tensor]:
        parts = torch.split(flat, self._sizes)
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def count(self) -> None:
        """Count the active neurons of the current step."""
        torch.gt(self._outputs, 0, out=self._is_active)
        self._active.add_(self._is_active)
        self._steps += 1

    def drain(self, total: _Totals, targets: Tensor) -> None:
        """Add the steps since the last call to ``total``.

        Args:
            total: the sums of the epoch.
            targets: the labels of these steps, shape (steps, seeds, batch).
        """
        examples = self._steps * targets.shape[2]
        # From (steps, seeds, classes, batch) to (seeds, examples, classes).
        logits = self.logits[: self._steps].permute(1, 0, 3, 2).flatten(1, 2)
        total.add([*self._counts(examples), SiteCounts(examples, SiteCounts.of(logits).active)])
        total.score(logits, targets.transpose(0, 1).flatten(1, 2))
        self._steps = 0

    def _counts(self, examples: int) -> list[SiteCounts]:
        counts = [
            SiteCounts(examples, active.sum(2, dtype=torch.float64).long()) for active in self._by_layer(self._active)
        ]
        self._active.zero_()
        return counts
