"""``Trainer`` against a plain PyTorch loop with ``nn.Sequential``, autograd and ``torch.optim.Adam``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from actratio.data import Dataset
from actratio.training import Architecture, Recipe, stacked
from actratio.training.batches import batch_order
from actratio.training.trainer import Trainer


def make_data(train: int = 150, val: int = 37, features: int = 12, classes: int = 4) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.random((train + val, features), dtype=np.float32)
    y = rng.integers(0, classes, train + val)
    return Dataset("random", x[:train], y[:train], x[train:], y[train:], classes, "a test")


class PlainTrainer:
    """Train one seed with a plain PyTorch loop."""

    def __init__(self, architecture: Architecture, seed: int, *, bias: bool) -> None:
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for out, into in architecture.shapes:
            layers += [nn.Linear(into, out, bias=bias), nn.ReLU()]
        self.model = nn.Sequential(*layers[:-1])
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.seed = seed

    def outputs(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the activations of every layer; the logits come last."""
        activations = []
        for module in self.model:
            x = module(x)
            if isinstance(module, nn.ReLU):
                activations.append(x)
        return [*activations, x]

    def epoch(self, data: Dataset, number: int, batch_size: int) -> tuple[list[torch.Tensor], float, float]:
        """Return the active counts of each layer, the mean loss and the accuracy over the training batches."""
        order = batch_order(self.seed, number, len(data.y_train))
        active: list[torch.Tensor] = []
        loss_sum, correct = 0.0, 0
        for start in range(0, len(order), batch_size):
            index = order[start : start + batch_size]
            x, y = torch.from_numpy(data.x_train[index]), torch.from_numpy(data.y_train[index])
            outputs = self.outputs(x)
            loss = nn.functional.cross_entropy(outputs[-1], y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            counts = [(output > 0).sum(0) for output in outputs]
            active = [total + count for total, count in zip(active, counts, strict=True)] if active else counts
            loss_sum += loss.item() * len(y)
            correct += int((outputs[-1].argmax(1) == y).sum())
        return active, loss_sum / len(order), correct / len(order)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("spec", ["12-16-4", "20-8-4", "9-7-5-4"])
def test_stacked_training_matches_separate_models_in_every_epoch(spec: str, bias: bool) -> None:
    data = make_data()
    architecture = Architecture.parse(spec, inputs=12, outputs=4)
    seeds = (0, 3, 4)
    trainer = Trainer(architecture, data, seeds, Recipe(bias=bias, batch_size=32))
    plain_trainers = [PlainTrainer(architecture, seed, bias=bias) for seed in seeds]
    for epoch in range(1, 4):
        result = trainer.epoch()
        for index, plain in enumerate(plain_trainers):
            active, loss, accuracy = plain.epoch(data, epoch, 32)
            assert [counts.tokens for counts in result.counts] == [150] * len(active)
            for counts, expected in zip(result.counts, active, strict=True):
                assert torch.equal(counts.active[index], expected)
            assert result.loss[index].item() == pytest.approx(loss, rel=1e-5)
            assert result.accuracy[index].item() == accuracy
            outputs = plain.outputs(torch.from_numpy(data.x_val))
            for counts, output in zip(trainer.evaluate("val").counts, outputs, strict=True):
                assert torch.equal(counts.active[index], (output > 0).sum(0))


def test_weights_match_autograd_in_every_step() -> None:
    data = make_data(train=32)  # one batch, so an epoch is one step
    architecture = Architecture(12, (16, 8), 4)
    trainer = Trainer(architecture, data, (1, 2), Recipe(bias=True, batch_size=32))
    plain_trainers = [PlainTrainer(architecture, seed, bias=True) for seed in (1, 2)]
    for epoch in range(1, 31):
        trainer.epoch()
        for index, plain in enumerate(plain_trainers):
            plain.epoch(data, epoch, 32)
            linears = [module for module in plain.model if isinstance(module, nn.Linear)]
            for layer, linear in enumerate(linears):
                torch.testing.assert_close(
                    trainer.model.weights[layer][index], linear.weight.detach(), rtol=1e-4, atol=1e-6
                )
                torch.testing.assert_close(
                    trainer.model.biases[layer][index, :, 0], linear.bias.detach(), rtol=1e-4, atol=1e-6
                )


def test_restored_trainer_continues_bit_for_bit() -> None:
    data, architecture = make_data(), Architecture(12, (16, 8), 4)
    trainer = Trainer(architecture, data, (0, 1), Recipe(bias=True, batch_size=32))
    for _ in range(2):
        trainer.epoch()
    state = {name: tensor.clone() for name, tensor in trainer.state().items()}
    resumed = Trainer(architecture, data, (0, 1), Recipe(bias=True, batch_size=32))
    resumed.restore(state)
    assert (resumed.epochs_done, resumed.steps_done) == (2, 10)
    assert torch.equal(resumed.epoch().loss, trainer.epoch().loss)
    assert all(map(torch.equal, resumed.model.parameters, trainer.model.parameters))


def test_one_seed_alone_matches_the_same_seed_in_a_stack() -> None:
    data, architecture = make_data(), Architecture(12, (16, 8), 4)
    alone, stack = Trainer(architecture, data, (2,)), Trainer(architecture, data, (0, 1, 2, 3, 4))
    for _ in range(2):
        result, stack_result = alone.epoch(), stack.epoch()
        assert result.loss[0].item() == pytest.approx(stack_result.loss[2].item(), rel=1e-5)
        for counts, stack_counts in zip(result.counts, stack_result.counts, strict=True):
            assert torch.equal(counts.active[0], stack_counts.active[2])


def test_stacked_matmul_with_an_uneven_number_of_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked, "_SPLIT_ABOVE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    left, right, out = torch.rand(5, 3, 4), torch.rand(5, 4, 6), torch.full((5, 3, 6), float("nan"))
    stacked.stacked_matmul(left, right, out)
    torch.testing.assert_close(out, left @ right)


@pytest.mark.parametrize("chunk", [1, 4, 5])
def test_results_do_not_depend_on_the_chunk_of_steps(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The epoch has several full chunks, a smaller one, and a smaller last batch."""
    data, architecture = make_data(), Architecture(12, (16, 8), 4)
    expected = Trainer(architecture, data, range(2), Recipe(batch_size=16)).epoch()
    monkeypatch.setattr("actratio.training.trainer._CHUNK", chunk)
    result = Trainer(architecture, data, range(2), Recipe(batch_size=16)).epoch()
    for counts, expected_counts in zip(result.counts, expected.counts, strict=True):
        assert counts.tokens == expected_counts.tokens == 150
        assert torch.equal(counts.active, expected_counts.active)
    assert torch.equal(result.accuracy, expected.accuracy)
    torch.testing.assert_close(result.loss, expected.loss)
