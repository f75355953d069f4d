"""The stacked trainer against plain PyTorch: nn.Sequential, autograd, torch.optim.Adam, a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from actratio.data import Dataset
from actratio.training import Architecture
from actratio.training import stacked as mlp
from actratio.training.trainer import Trainer, batch_order


def make_data(train: int = 150, val: int = 37, features: int = 12, classes: int = 4) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.random((train + val, features), dtype=np.float32)
    y = rng.integers(0, classes, train + val)
    return Dataset("made", x[:train], y[:train], x[train:], y[train:], classes, "a test")


class Plain:
    """One seed, as a person would write it."""

    def __init__(self, architecture: Architecture, seed: int, *, bias: bool) -> None:
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for out, into in architecture.shapes:
            layers += [nn.Linear(into, out, bias=bias), nn.ReLU()]
        self.model = nn.Sequential(*layers[:-1])
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.seed = seed

    def outputs(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Activations of every layer, logits last."""
        found = []
        for module in self.model:
            x = module(x)
            if isinstance(module, nn.ReLU):
                found.append(x)
        return [*found, x]

    def epoch(self, data: Dataset, number: int, batch_size: int) -> tuple[list[torch.Tensor], float, float]:
        """Active counts of every neuron, mean loss and accuracy over the training batches."""
        order = batch_order(self.seed, number, len(data.y_train))
        active: list[torch.Tensor] = []
        loss_sum, hits = 0.0, 0
        for start in range(0, len(order), batch_size):
            index = order[start : start + batch_size]
            x, y = torch.from_numpy(data.x_train[index]), torch.from_numpy(data.y_train[index])
            outputs = self.outputs(x)
            loss = nn.functional.cross_entropy(outputs[-1], y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            fired = [(output > 0).sum(0) for output in outputs]
            active = [a + b for a, b in zip(active, fired, strict=True)] if active else fired
            loss_sum += loss.item() * len(y)
            hits += int((outputs[-1].argmax(1) == y).sum())
        return active, loss_sum / len(order), hits / len(order)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("spec", ["12-16-4", "20-8-4", "9-7-5-4"])
def test_a_stacked_model_equals_separate_models_epoch_for_epoch(spec: str, bias: bool) -> None:
    data = make_data()
    architecture = Architecture.parse(spec, inputs=12, outputs=4)
    seeds = (0, 3, 4)
    stacked = Trainer(architecture, data, seeds, bias=bias, batch_size=32)
    plain = [Plain(architecture, seed, bias=bias) for seed in seeds]
    for number in range(1, 4):
        ours = stacked.epoch()
        for index, one in enumerate(plain):
            active, loss, accuracy = one.epoch(data, number, 32)
            assert [c.tokens for c in ours.counts] == [150] * len(active)
            for mine, theirs in zip(ours.counts, active, strict=True):
                assert torch.equal(mine.active[index], theirs)
            assert ours.loss[index].item() == pytest.approx(loss, rel=1e-5)
            assert ours.accuracy[index].item() == accuracy
            held_out = one.outputs(torch.from_numpy(data.x_val))
            evaluated = stacked.evaluate("val")
            for mine, output in zip(evaluated.counts, held_out, strict=True):
                assert torch.equal(mine.active[index], (output > 0).sum(0))


def test_weights_follow_autograd_step_for_step() -> None:
    data = make_data(train=32)  # one batch, so that an epoch is a step
    architecture = Architecture(12, (16, 8), 4)
    stacked = Trainer(architecture, data, (1, 2), bias=True, batch_size=32)
    plain = [Plain(architecture, seed, bias=True) for seed in (1, 2)]
    for number in range(1, 31):
        stacked.epoch()
        for index, one in enumerate(plain):
            one.epoch(data, number, 32)
            linears = [module for module in one.model if isinstance(module, nn.Linear)]
            for layer, linear in enumerate(linears):
                torch.testing.assert_close(
                    stacked.model.weights[layer][index], linear.weight.detach(), rtol=1e-4, atol=1e-6
                )
                torch.testing.assert_close(
                    stacked.model.biases[layer][index], linear.bias.detach(), rtol=1e-4, atol=1e-6
                )


def test_a_restored_trainer_goes_on_bit_for_bit() -> None:
    data, architecture = make_data(), Architecture(12, (16, 8), 4)
    whole = Trainer(architecture, data, (0, 1), bias=True, batch_size=32)
    for _ in range(2):
        whole.epoch()
    state = {name: tensor.clone() for name, tensor in whole.state().items()}
    resumed = Trainer(architecture, data, (0, 1), bias=True, batch_size=32)
    resumed.restore(state)
    assert (resumed.epochs_done, resumed.steps_done) == (2, 10)
    ours, theirs = resumed.epoch(), whole.epoch()
    assert torch.equal(ours.loss, theirs.loss)
    assert torch.equal(resumed.model.parameter, whole.model.parameter)


def test_a_seed_alone_equals_the_seed_in_a_stack() -> None:
    data, architecture = make_data(), Architecture(12, (16, 8), 4)
    alone, stacked = Trainer(architecture, data, (2,)), Trainer(architecture, data, (0, 1, 2, 3, 4))
    for _ in range(2):
        ours, theirs = alone.epoch(), stacked.epoch()
        assert ours.loss[0].item() == pytest.approx(theirs.loss[2].item(), rel=1e-5)
        for mine, other in zip(ours.counts, theirs.counts, strict=True):
            assert torch.equal(mine.active[0], other.active[2])


def test_products_of_an_odd_stack_are_split_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "_SPLIT_ABOVE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    left, right, out = torch.rand(5, 3, 4), torch.rand(5, 4, 6), torch.full((5, 3, 6), float("nan"))
    mlp.stacked_matmul(left, right, out)
    torch.testing.assert_close(out, left @ right)


@pytest.mark.parametrize("chunk", [1, 4, 5])
def test_what_is_read_in_chunks_of_steps_adds_up(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch has more steps than a chunk: several whole ones, a smaller one, and a last, smaller batch."""
    data, architecture = make_data(), Architecture(12, (16, 8), 4)
    whole = Trainer(architecture, data, range(2), batch_size=16).epoch()
    monkeypatch.setattr("actratio.training.trainer._CHUNK", chunk)
    parts = Trainer(architecture, data, range(2), batch_size=16).epoch()
    for mine, other in zip(parts.counts, whole.counts, strict=True):
        assert mine.tokens == other.tokens == 150
        assert torch.equal(mine.active, other.active)
    assert torch.equal(parts.accuracy, whole.accuracy)
    torch.testing.assert_close(parts.loss, whole.loss)
