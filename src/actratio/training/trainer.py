"""Train a stack of seeds, and count active neurons in the same loop.

Each step gathers one batch per seed, computes the outputs, the gradient of the cross-entropy with respect to the logits
and the gradients of the parameters, updates the parameters with Adam, and counts active neurons. All of this writes to
preallocated buffers. The loss, the accuracy, the counts of the logits and the sums of the hidden counts over the batch
are computed only once in ``_CHUNK`` steps, so the cost of a step is mostly its matrix products and Adam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actratio.counting.counts import SiteCounts
from actratio.data import Dataset
from actratio.training import Architecture, StackedMLP

_CHUNK = 256  # steps whose logits are kept; far below 2²⁴, where counts in float32 stop being exact
_ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")
_EVAL_BATCH = 500  # examples in a forward pass of the evaluation; small enough that activations stay in the cache


@dataclass(frozen=True)
class SplitResult:
    """Counts, loss and accuracy of one pass over a split, for all seeds.

    Attributes:
        counts: one per layer, the hidden layers first and the logits last; each holds all seeds.
        loss: mean cross-entropy per example, float64, shape (seeds,).
        accuracy: share of examples whose largest logit is that of the label, float64, shape (seeds,).
    """

    counts: list[SiteCounts]
    loss: Tensor
    accuracy: Tensor


def batch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """Return the order in which ``seed`` sees the examples in ``epoch``, a permutation of ``range(examples)``.

    The order depends only on the arguments, so a resumed run sees the same batches as an uninterrupted one.
    """
    return np.random.default_rng((seed, epoch)).permutation(examples)


class Trainer:
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
        self.model = StackedMLP(architecture, seeds, bias=bias, device=self.device)
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

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next epoch depends on, as tensors by name."""
        adam = self._optimizer.state[self.model.parameter]
        return {
            "parameters": self.model.parameter,
            **{name: adam[name] for name in _ADAM_STATE},
            "done": torch.tensor([self.epochs_done, self.steps_done]),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from a state that ``state`` returned."""
        self.model.parameter.copy_(state["parameters"])
        self._optimizer.state[self.model.parameter] = {
            name: state[name].to(self.device).clone() for name in _ADAM_STATE
        }
        self.epochs_done, self.steps_done = (int(number) for number in state["done"])


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


class _Totals:
    """Sums of the counts, the loss and the correct predictions over an epoch."""

    def __init__(self, seeds: int, device: torch.device) -> None:
        self._counts: list[SiteCounts] = []
        self._examples = 0
        self._loss = torch.zeros(seeds, dtype=torch.float64, device=device)
        self._correct = torch.zeros(seeds, dtype=torch.int64, device=device)

    def add(self, counts: list[SiteCounts]) -> None:
        if self._counts:
            counts = [total.merge(part) for total, part in zip(self._counts, counts, strict=True)]
        self._counts = counts

    def score(self, logits: Tensor, labels: Tensor) -> None:
        """Add the loss and the number of correct predictions.

        Args:
            logits: shape (seeds, examples, classes).
            labels: shape (seeds, examples).
        """
        log_probabilities = torch.log_softmax(logits, -1)
        self._loss -= log_probabilities.gather(2, labels.unsqueeze(2)).sum((1, 2), dtype=torch.float64)
        self._correct += (logits.argmax(-1) == labels).sum(1)
        self._examples += labels.shape[1]

    def result(self) -> SplitResult:
        return SplitResult(
            counts=[counts.cpu() for counts in self._counts],
            loss=(self._loss / self._examples).cpu(),
            accuracy=(self._correct.double() / self._examples).cpu(),
        )
