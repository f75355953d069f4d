"""Every recipe against a plain PyTorch loop over separate models, and against gradients written by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actratio import ActratioError
from actratio.training import Architecture, Recipe
from actratio.training.batches import EpochBatches, batch_order
from actratio.training.recipe import ACTIVATIONS, OPTIMIZERS
from actratio.training.trainer import Trainer
from tests.training.hand_written import HandWritten
from tests.training.test_trainer import make_data

SPEC = Architecture(12, (16, 8), 4)
SEEDS = (0, 3, 4)


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Activation(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def plain_model(recipe: Recipe, seed: int) -> tuple[nn.Sequential, list[nn.Linear]]:
    torch.manual_seed(seed)
    linears = [nn.Linear(into, out, bias=recipe.bias) for out, into in SPEC.shapes]
    layers: list[nn.Module] = []
    for linear in linears[:-1]:
        layers += [linear, *([Centred()] if recipe.centred else []), Activation(ACTIVATIONS[recipe.activation])]
    return nn.Sequential(*layers, linears[-1]), linears


def plain_training(recipe: Recipe, seed: int, steps: int) -> tuple[list[nn.Linear], list[float]]:
    """Train one seed with torch's own optimisers, without any of the trainer's code but the order of the examples."""
    model, linears = plain_model(recipe, seed)
    with torch.no_grad():
        for linear in linears:
            linear.weight.mul_(recipe.init_scale)
    trained = [
        parameter
        for layer, linear in enumerate(linears)
        if layer not in [index % len(linears) for index in recipe.frozen]
        for parameter in linear.parameters()
    ]
    weights = [parameter for parameter in trained if parameter.dim() == 2]
    biases = [parameter for parameter in trained if parameter.dim() == 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}]
    groups += [{"params": biases, "weight_decay": 0.0}] if biases else []
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adam":
        optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
    else:
        optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9)
    data = make_data()
    per_epoch = -(-len(data.y_train) // recipe.batch_size)
    losses = []
    for step in range(steps):
        order = batch_order(seed, step // per_epoch + 1, len(data.y_train))
        index = order[step % per_epoch * recipe.batch_size :][: recipe.batch_size]
        loss = nn.functional.cross_entropy(
            model(torch.from_numpy(data.x_train[index])), torch.from_numpy(data.y_train[index])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return linears, losses


RECIPES = [
    *(Recipe(activation=name, batch_size=32) for name in ACTIVATIONS),
    *(Recipe(optimizer=name, lr=0.01, weight_decay=0.1, bias=True, batch_size=32) for name in OPTIMIZERS),
    Recipe(init_scale=2.0, batch_size=20),
    Recipe(frozen=(0, 1), batch_size=32),
    Recipe(frozen=(-1,), bias=True, batch_size=32),
    Recipe(centred=True, batch_size=32),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_stack_matches_separate_models_step_for_step(recipe: Recipe) -> None:
    steps = 23  # four epochs and a part
    trainer = Trainer(SPEC, make_data(), SEEDS, recipe)
    losses = torch.stack([trainer.train(1).loss for _ in range(steps)])
    for index, seed in enumerate(SEEDS):
        linears, expected = plain_training(recipe, seed, steps)
        torch.testing.assert_close(losses[:, index], torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-6)
        for layer, linear in enumerate(linears):
            torch.testing.assert_close(trainer.model.weights[layer][index], linear.weight, rtol=1e-3, atol=1e-5)
            if recipe.bias:
                torch.testing.assert_close(trainer.model.biases[layer][index, :, 0], linear.bias, rtol=1e-3, atol=1e-5)


def test_the_stack_matches_gradients_written_by_hand() -> None:
    data = make_data()
    trainer = Trainer(SPEC, data, SEEDS, Recipe(batch_size=32))
    by_hand = [
        HandWritten([weight[index].detach().double().numpy() for weight in trainer.model.weights])
        for index in range(len(SEEDS))
    ]
    batches = EpochBatches(torch.from_numpy(data.x_train), torch.from_numpy(data.y_train), SEEDS, 32)
    for step in range(20):
        loss = trainer.train(1).loss
        inputs, labels = batches.batch(step)
        for index, one in enumerate(by_hand):
            assert loss[index].item() == pytest.approx(
                one.step(inputs[index].double().numpy(), labels[index].numpy()), rel=1e-5
            )
    for index, one in enumerate(by_hand):
        for weight, expected in zip(trainer.model.weights, one.weights, strict=True):
            np.testing.assert_allclose(weight[index].detach().numpy(), expected, rtol=1e-3, atol=1e-6)


def test_gradients_match_torch_func() -> None:
    from torch.func import grad, vmap

    trainer = Trainer(SPEC, make_data(), SEEDS, Recipe(activation="gelu", batch_size=32))
    inputs, labels = trainer._batches.batch(0)
    weights = [weight.detach().clone() for weight in trainer.model.weights]

    def loss(weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        hidden = x
        for weight in weights[:-1]:
            hidden = torch.nn.functional.gelu(hidden @ weight.T)
        return torch.nn.functional.cross_entropy(hidden @ weights[-1].T, y)

    expected = vmap(grad(loss))(weights, inputs, labels)
    trainer.train(1)
    for parameter, gradient in zip(trainer.model.weights, expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_frozen_layers_do_not_change_and_others_do() -> None:
    trainer = Trainer(SPEC, make_data(), SEEDS, Recipe(frozen=(0,), weight_decay=0.1))
    before = [weight.detach().clone() for weight in trainer.model.weights]
    trainer.train(3)
    changed = [not torch.equal(*pair) for pair in zip(before, trainer.model.weights, strict=True)]
    assert changed == [False, True, True]


def test_switching_the_activation_keeps_the_weights_and_the_optimiser() -> None:
    relu, switched = (Trainer(SPEC, make_data(), SEEDS) for _ in range(2))
    for trainer in (relu, switched):
        trainer.train(3)
    switched.switch("gelu")
    assert all(map(torch.equal, relu.model.weights, switched.model.weights))
    x = torch.from_numpy(make_data().x_val)
    assert not torch.equal(relu.outputs(x)[0], switched.outputs(x)[0])
    switched.switch("relu")
    assert torch.equal(relu.train(2).loss, switched.train(2).loss)


@pytest.mark.parametrize(
    "recipe",
    [Recipe(optimizer="sgd", lr=0.1), Recipe(weight_decay=0.1, frozen=(0,)), Recipe(parametrization="mup", bias=True)],
    ids=str,
)
def test_a_restored_trainer_continues_in_the_middle_of_an_epoch(recipe: Recipe) -> None:
    trainer = Trainer(SPEC, make_data(), SEEDS, recipe)
    trainer.train(4)
    state = {name: tensor.clone() for name, tensor in trainer.state().items()}
    resumed = Trainer(SPEC, make_data(), SEEDS, recipe)
    resumed.restore(state)
    assert torch.equal(resumed.train(5).loss, trainer.train(5).loss)
    assert all(map(torch.equal, resumed.model.parameters, trainer.model.parameters))


class Noise:
    """Gaussian inputs that never repeat, with random labels."""

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        return torch.randn(len(SEEDS), 10, 12, generator=generator), torch.randint(
            4, (len(SEEDS), 10), generator=generator
        )


def test_batches_can_come_from_elsewhere() -> None:
    trainer = Trainer(SPEC, make_data(), SEEDS, batches=Noise())
    result = trainer.train(7)
    assert [counts.tokens for counts in result.counts] == [70, 70, 70]
    with pytest.raises(ActratioError, match="never end"):
        trainer.epoch()


def test_evaluation_accepts_other_examples_for_each_seed() -> None:
    trainer = Trainer(SPEC, make_data(), SEEDS)
    x, y = torch.rand(len(SEEDS), 700, 12), torch.randint(4, (len(SEEDS), 700))
    together = trainer.evaluate_on(x, y)
    for index in range(len(SEEDS)):
        alone = trainer.evaluate_on(x[index], y[index])
        assert together.loss[index].item() == pytest.approx(alone.loss[index].item(), rel=1e-5)
        assert torch.equal(together.counts[0].active[index], alone.counts[0].active[index])


def test_mup_equals_standard_at_the_base_width() -> None:
    architecture = Architecture(12, (16, 16), 4)
    standard = Trainer(architecture, make_data(), SEEDS)
    mup = Trainer(architecture, make_data(), SEEDS, Recipe(parametrization="mup", base_width=16))
    assert torch.equal(standard.train(9).loss, mup.train(9).loss)


def test_mup_scales_rates_and_the_output_layer_by_hand() -> None:
    scales = Recipe(parametrization="mup", base_width=128).layer_scales(Architecture(784, (512, 256), 10))
    assert [(scale.init, scale.lr) for scale in scales] == [(1.0, 1.0), (1.0, 0.25), (2**-0.5, 0.5)]
    standard = Recipe().layer_scales(Architecture(784, (512, 256), 10))
    assert [(scale.init, scale.lr, scale.bias_init) for scale in standard] == [(1.0, 1.0, 1.0)] * 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"activation": "swish"}, "no activation 'swish'"),
        ({"optimizer": "lion"}, "no optimizer 'lion'"),
        ({"parametrization": "ntk"}, "no parametrization 'ntk'"),
        ({"lr": 0.0}, "learning rate is 0"),
        ({"batch_size": 0}, "batch size is 0"),
        ({"weight_decay": -1.0}, "weight decay is -1"),
        ({"parametrization": "mup", "optimizer": "sgd"}, "mup was combined with sgd"),
    ],
)
def test_bad_recipes_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ActratioError, match=message):
        Recipe(**values)  # type: ignore[arg-type]


def test_a_network_that_is_frozen_whole_is_refused() -> None:
    with pytest.raises(ActratioError, match="all layers are frozen"):
        Trainer(SPEC, make_data(), SEEDS, Recipe(frozen=(0, 1, 2)))
