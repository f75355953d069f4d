"""Train a stack of seeds, and count active neurons in the same loop.

A step gathers one batch per seed, computes the loss and its gradients with autograd, updates the parameters with a fused
optimiser, and counts active neurons. The loss, the accuracy, the counts of the logits and the sums of the hidden counts over
the batch are computed only once in ``_CHUNK`` steps, so the cost of a step is mostly its matrix products and the optimiser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from actratio.counting.counts import SiteCounts
from actratio.data import Dataset
from actratio.errors import ActratioError
from actratio.training.architecture import Architecture
from actratio.training.batches import Batches, EpochBatches
from actratio.training.recipe import ACTIVATIONS, Recipe
from actratio.training.stacked import StackedMLP

_CHUNK = 256  # steps whose logits are kept; far below 2²⁴, where counts in float32 stop being exact
_EVAL_BATCH = 500  # examples in a forward pass of the evaluation; small enough that activations stay in the cache
_MOMENTUM = 0.9


@dataclass(frozen=True)
class SplitResult:
    """Counts, loss and accuracy of one pass over some examples, for all seeds.

    Attributes:
        counts: one per layer, the hidden layers first and the logits last; each holds all seeds.
        loss: mean cross-entropy per example, float64, shape (seeds,).
        accuracy: share of examples whose largest logit is that of the label, float64, shape (seeds,).
    """

    counts: list[SiteCounts]
    loss: Tensor
    accuracy: Tensor


class Trainer:
    """Train all seeds of an architecture at once.

    >>> trainer = Trainer(architecture, data, range(5), Recipe(activation="gelu"))        # doctest: +SKIP
    >>> before = trainer.evaluate("val")                                                  # doctest: +SKIP
    >>> during, after = trainer.epoch(), trainer.evaluate("val")                          # doctest: +SKIP

    The result of a seed does not depend on the other seeds, except for float32 rounding (about 1e-6 relative per step):
    the order in which a matrix product sums can change with the number of seeds. The same call gives bit-identical
    results on the same device with the same number of threads.

    Args:
        architecture: the layer widths.
        data: the data set; its features and classes must match the architecture. Its training split gives the batches unless
            ``batches`` is given.
        seeds: one seed per model. A seed decides the initial weights and the order of the examples.
        recipe: how to train.
        batches: where the batches come from, for examples that never end; ``epoch`` is then not available.
        device: where to train.

    Attributes:
        model: the networks.
        steps_done: steps so far.
    """

    def __init__(
        self,
        architecture: Architecture,
        data: Dataset,
        seeds: Sequence[int],
        recipe: Recipe | None = None,
        *,
        batches: Batches | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.recipe = recipe = recipe or Recipe()
        self.device = torch.device(device)
        self.steps_done = 0
        self.model = StackedMLP(
            architecture,
            seeds,
            activation=ACTIVATIONS[recipe.activation],
            bias=recipe.bias,
            centred=recipe.centred,
            device=self.device,
        )
        self._splits = {
            "train": (torch.from_numpy(data.x_train).to(self.device), torch.from_numpy(data.y_train).to(self.device)),
            "val": (torch.from_numpy(data.x_val).to(self.device), torch.from_numpy(data.y_val).to(self.device)),
        }
        self._epochs = EpochBatches(*self._splits["train"], self.model.seeds, recipe.batch_size)
        self._endless = batches is not None
        self._batches: Batches = self._epochs if batches is None else batches
        self._trained, self._optimizer = self._prepare(architecture)

    def _prepare(self, architecture: Architecture) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
        """Scale the initial weights, and return the trained parameters and their optimiser."""
        recipe, model = self.recipe, self.model
        frozen = {layer % len(model.weights) for layer in recipe.frozen}
        groups = []
        for layer, scale in enumerate(recipe.layer_scales(architecture)):
            trained = layer not in frozen
            with torch.no_grad():
                model.weights[layer].mul_(scale.init * recipe.init_scale)
            model.weights[layer].requires_grad_(trained)
            lr, decay = recipe.lr * scale.lr, recipe.weight_decay / scale.lr
            groups.append({"params": [model.weights[layer]], "lr": lr, "weight_decay": decay, "trained": trained})
            if recipe.bias:
                with torch.no_grad():
                    model.biases[layer].mul_(scale.bias_init)
                model.biases[layer].requires_grad_(trained)
                groups.append(
                    {"params": [model.biases[layer]], "lr": recipe.lr, "weight_decay": 0.0, "trained": trained}
                )
        groups = [group for group in groups if group.pop("trained")]
        if not groups:
            raise ActratioError("all layers are frozen, so nothing can be trained; leave at least one layer out")
        merged: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        for group in groups:  # one fused update for all layers with the same rate
            merged.setdefault((group["lr"], group["weight_decay"]), []).extend(group["params"])  # type: ignore[arg-type]
        settings = [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in merged.items()]
        parameters = [parameter for params in merged.values() for parameter in params]
        if recipe.optimizer == "adam":
            return parameters, torch.optim.AdamW(settings, fused=True)
        return parameters, torch.optim.SGD(settings, lr=recipe.lr, momentum=_MOMENTUM, fused=True)

    @property
    def epochs_done(self) -> int:
        """Whole epochs so far."""
        return self.steps_done // self._epochs.steps

    def epoch(self) -> SplitResult:
        """Train to the end of the epoch, and return the counts, the loss and the accuracy over its training batches.

        They come from the forward pass of each step, as in the article.
        """
        if self._endless:
            raise ActratioError("the batches never end, so there is no epoch; call train with a number of steps")
        return self.train(self._epochs.steps - self.steps_done % self._epochs.steps)

    def train(self, steps: int) -> SplitResult:
        """Train for ``steps`` steps, and return the counts, the loss and the accuracy over their batches."""
        total = _Totals(len(self.model.seeds), self.device)
        pending: _Pending | None = None
        for step in range(self.steps_done, self.steps_done + steps):
            inputs, labels = self._batches.batch(step)
            outputs = self.model.forward(inputs)
            # The gradient of a seed is that of its own mean loss, because the seeds share no parameter.
            loss = F.cross_entropy(outputs[-1], labels, reduction="sum") / labels.shape[1]
            gradients = torch.autograd.grad(loss, self._trained)
            for parameter, gradient in zip(self._trained, gradients, strict=True):
                parameter.grad = gradient
            self._optimizer.step()
            if pending is None or pending.steps == _CHUNK or pending.batch_size != labels.shape[1]:
                if pending is not None:
                    pending.drain(total)
                pending = _Pending(outputs)
            pending.add(outputs, labels)
        if pending is not None:
            pending.drain(total)
        self.steps_done += steps
        return total.result()

    def evaluate(self, split: str) -> SplitResult:
        """Return counts, loss and accuracy of the current weights over a split, ``"train"`` or ``"val"``."""
        return self.evaluate_on(*self._splits[split])

    @torch.no_grad()
    def evaluate_on(self, inputs: Tensor, labels: Tensor) -> SplitResult:
        """Return counts, loss and accuracy of the current weights over examples.

        Args:
            inputs: shape (examples, features), or (seeds, examples, features) for other examples for each seed.
            labels: shape (examples,) or (seeds, examples).
        """
        total, seeds = _Totals(len(self.model.seeds), self.device), len(self.model.seeds)
        labels = labels.expand(seeds, -1)
        for x, y in zip(torch.split(inputs, _EVAL_BATCH, -2), torch.split(labels, _EVAL_BATCH, -1), strict=True):
            outputs = self.model.forward(x)
            total.add([SiteCounts.of(output.transpose(1, 2)) for output in outputs])
            total.score(outputs[-1].transpose(1, 2), y)
        return total.result()

    @torch.no_grad()
    def outputs(self, inputs: Tensor) -> list[Tensor]:
        """Return the output of each layer, shape (seeds, width, examples), as ``StackedMLP.forward`` does."""
        return self.model.forward(inputs)

    def switch(self, activation: str) -> None:
        """Replace the activation function from the next step on; weights and optimiser stay.

        Args:
            activation: a key of ``ACTIVATIONS``.
        """
        self.model.activation = ACTIVATIONS[activation]

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on, as tensors by name."""
        state: dict[str, Tensor] = {"done": torch.tensor([self.steps_done])}
        for index, parameter in enumerate(self.model.parameters):
            state[f"{index}.parameter"] = parameter.detach()
            kept = self._optimizer.state.get(parameter, {})
            state |= {f"{index}.{name}": value for name, value in kept.items() if isinstance(value, Tensor)}
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from a state that ``state`` returned."""
        for index, parameter in enumerate(self.model.parameters):
            own = {key.split(".", 1)[1]: value for key, value in state.items() if key.startswith(f"{index}.")}
            with torch.no_grad():
                parameter.copy_(own.pop("parameter"))
            if own:
                self._optimizer.state[parameter] = {name: value.to(self.device).clone() for name, value in own.items()}
        self.steps_done = int(state["done"])


class _Pending:
    """Steps whose counts and scores were not added to the totals yet; all have the batch size of the first one.

    Args:
        outputs: output of each layer in the first step, for the shapes.
    """

    def __init__(self, outputs: list[Tensor]) -> None:
        self.steps, self.batch_size = 0, outputs[-1].shape[2]
        self._labels: list[Tensor] = []
        self._logits: list[Tensor] = []
        self._active = [torch.zeros_like(output, requires_grad=False) for output in outputs[:-1]]

    def add(self, outputs: list[Tensor], labels: Tensor) -> None:
        for active, output in zip(self._active, outputs[:-1], strict=True):
            active.add_(output.detach() > 0)
        self._logits.append(outputs[-1].detach())
        self._labels.append(labels)
        self.steps += 1

    def drain(self, total: _Totals) -> None:
        """Add the steps to the totals."""
        examples = self.steps * self.batch_size
        # From (steps, seeds, classes, batch) to (seeds, examples, classes).
        logits = torch.stack(self._logits).permute(1, 0, 3, 2).flatten(1, 2)
        hidden = [SiteCounts(examples, active.sum(2, dtype=torch.float64).long()) for active in self._active]
        total.add([*hidden, SiteCounts(examples, SiteCounts.of(logits).active)])
        total.score(logits, torch.stack(self._labels, 1).flatten(1, 2))


class _Totals:
    """Sums of the counts, the loss and the correct predictions."""

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
