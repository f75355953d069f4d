"""The fast trainer: a stack of seeds, trained and counted in one loop.

The loop is plain: gather a batch a seed, forward, gradient of the cross-entropy at the logits,
backward, Adam, count.  It writes into buffers that are made once, and what can wait (loss,
accuracy, the logits' counts, the sum of the hidden counts over the batch) is read once in
``_CHUNK`` steps, so that a step is little more than its matrix products and Adam's pass.
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

_CHUNK = 256  # steps whose logits are kept; far below 2²⁴, where float32 stops counting exactly
_ADAM = ("step", "exp_avg", "exp_avg_sq")  # the state of the optimiser
_EVAL_BATCH = 500  # examples in a forward pass of the evaluation; few enough that activations stay in cache


@dataclass(frozen=True)
class SplitResult:
    """What one pass over a split gave, a stack of seeds at once.

    Attributes:
        counts: one a layer, hidden layers first and the logits last; stacked over seeds.
        loss: mean cross-entropy an example, float64, (seeds,).
        accuracy: share of examples whose largest logit is the label's, float64, (seeds,).
    """

    counts: list[SiteCounts]
    loss: Tensor
    accuracy: Tensor


def batch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """The order in which ``seed`` sees the examples in ``epoch``: a permutation of its own, which
    depends on nothing else, so that a resumed run sees what an uninterrupted one does."""
    return np.random.default_rng((seed, epoch)).permutation(examples)


class Trainer:
    """Trains all seeds of an architecture on a data set, with Adam's defaults.

    >>> trainer = Trainer(architecture, data, seeds=range(5))        # doctest: +SKIP
    >>> before = trainer.evaluate("val")                             # doctest: +SKIP
    >>> during, after = trainer.epoch(), trainer.evaluate("val")     # doctest: +SKIP

    A seed's result does not depend on the others: only the order in which a matrix product sums
    can differ with the size of the stack, which is float32 rounding (about 1e-6 relative a step).
    On one device with one number of threads, the same call gives the same bits.
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
        self._workspaces: dict[int, _Workspace] = {}

    def epoch(self) -> SplitResult:
        """Train on every example once; counts, loss and accuracy are those of the training batches,
        from each step's own forward pass, read after the optimiser's step (the article's way)."""
        examples, labels = self._examples["train"], self._labels["train"]
        seeds = self.model.seeds
        self.epochs_done += 1
        order = torch.from_numpy(np.stack([batch_order(seed, self.epochs_done, len(labels)) for seed in seeds])).to(
            self.device
        )
        total = _Totals(self.model.architecture, len(seeds), self.device)
        whole = len(labels) // self.batch_size * self.batch_size
        for part in (order[:, :whole], order[:, whole:]):  # the last batch is smaller
            size = min(self.batch_size, part.shape[1])
            if not size:
                continue
            # (steps, seeds, batch): a step's batches lie side by side in memory.
            batches = part.reshape(len(seeds), -1, size).transpose(0, 1).contiguous()
            workspace = self._workspace(size, min(_CHUNK, len(batches)))
            for chunk in torch.split(batches, _CHUNK):
                targets = labels[chunk]
                for slot in range(len(chunk)):
                    self._step(workspace, examples, chunk[slot], targets[slot], slot)
                workspace.drain(total, targets)
        self.steps_done += -(-len(labels) // self.batch_size)
        return total.result()

    def _step(self, work: _Workspace, examples: Tensor, batch: Tensor, targets: Tensor, slot: int) -> None:
        outputs = [*work.hidden, work.logits[slot]]
        torch.index_select(examples, 0, batch.view(-1), out=work.inputs.view(batch.numel(), -1))
        self.model.forward(work.inputs, outputs)
        # Gradient of the mean cross-entropy at the logits: (softmax − one-hot) / batch.
        error = torch.softmax(outputs[-1], 1, out=work.errors[-1])
        error.scatter_add_(1, targets.unsqueeze(1), work.minus_one)
        error.div_(batch.shape[1])
        self.model.backward(work.inputs, outputs, work.errors)
        self._optimizer.step()
        work.count()

    def evaluate(self, split: str) -> SplitResult:
        """Counts, loss and accuracy of the present weights over a whole split, ``train`` or ``val``."""
        total = _Totals(self.model.architecture, len(self.model.seeds), self.device)
        for examples, labels in zip(
            torch.split(self._examples[split], _EVAL_BATCH), torch.split(self._labels[split], _EVAL_BATCH), strict=True
        ):
            outputs = self.model.forward_shared(examples)
            total.add([SiteCounts.of(output.transpose(1, 2)) for output in outputs])
            total.score(outputs[-1].transpose(1, 2), labels.expand(len(self.model.seeds), -1))
        return total.result()

    def _workspace(self, batch: int, steps: int) -> _Workspace:
        if batch not in self._workspaces:
            seeds = len(self.model.seeds)
            self._workspaces[batch] = _Workspace(self.model.architecture, seeds, batch, steps, self.device)
        return self._workspaces[batch]

    def state(self) -> dict[str, Tensor]:
        """Everything that the next epoch depends on, as tensors that can be saved."""
        adam = self._optimizer.state[self.model.parameter]
        return {
            "parameters": self.model.parameter,
            **{name: adam[name] for name in _ADAM},
            "done": torch.tensor([self.epochs_done, self.steps_done]),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what ``state`` returned."""
        self.model.parameter.copy_(state["parameters"])
        self._optimizer.state[self.model.parameter] = {name: state[name].to(self.device).clone() for name in _ADAM}
        self.epochs_done, self.steps_done = (int(number) for number in state["done"])


class _Workspace:
    """The buffers of training steps for one batch size, of which at most ``steps`` come between two drains.

    The hidden outputs of all layers lie in one flat tensor, so that counting them is two passes
    over it (a comparison and an addition) however many layers there are.
    """

    def __init__(self, architecture: Architecture, seeds: int, batch: int, steps: int, device: torch.device) -> None:
        sizes = [seeds * width * batch for width in architecture.hidden]
        self._outputs = torch.zeros(sum(sizes), device=device)
        self._fired = torch.zeros_like(self._outputs)
        self._active = torch.zeros_like(self._outputs)
        self._sizes, self._shapes = sizes, [(seeds, width, batch) for width in architecture.hidden]
        self._steps = 0
        self.hidden = self._by_layer(self._outputs)
        self.inputs = torch.empty(seeds, batch, architecture.inputs, device=device)
        self.logits = torch.empty(steps, seeds, architecture.outputs, batch, device=device)
        self.errors = [torch.empty(seeds, width, batch, device=device) for width in architecture.widths]
        self.minus_one = torch.full((seeds, 1, batch), -1.0, device=device)

    def _by_layer(self, flat: Tensor) -> list[Tensor]:
        return [piece.view(shape) for piece, shape in zip(torch.split(flat, self._sizes), self._shapes, strict=True)]

    def count(self) -> None:
        """Add this step's firing neurons."""
        torch.gt(self._outputs, 0, out=self._fired)
        self._active.add_(self._fired)
        self._steps += 1

    def drain(self, total: _Totals, targets: Tensor) -> None:
        """Move the steps since the last call into ``total``; ``targets`` is (steps, seeds, batch)."""
        examples = self._steps * targets.shape[2]
        # (steps, seeds, classes, batch) to (seeds, examples, classes)
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
    """Sums over an epoch."""

    def __init__(self, architecture: Architecture, seeds: int, device: torch.device) -> None:
        self._counts: list[SiteCounts] = []
        self._examples = 0
        self._loss = torch.zeros(seeds, dtype=torch.float64, device=device)
        self._hits = torch.zeros(seeds, dtype=torch.int64, device=device)

    def add(self, counts: list[SiteCounts]) -> None:
        self._counts = [a.merge(b) for a, b in zip(self._counts, counts, strict=True)] if self._counts else counts

    def score(self, logits: Tensor, labels: Tensor) -> None:
        """Add the loss and the hits of ``logits`` (seeds, examples, classes)."""
        logs = torch.log_softmax(logits, -1)
        self._loss -= logs.gather(2, labels.unsqueeze(2)).sum((1, 2), dtype=torch.float64)
        self._hits += (logits.argmax(-1) == labels).sum(1)
        self._examples += labels.shape[1]

    def result(self) -> SplitResult:
        return SplitResult(
            counts=[counts.cpu() for counts in self._counts],
            loss=(self._loss / self._examples).cpu(),
            accuracy=(self._hits.double() / self._examples).cpu(),
        )
