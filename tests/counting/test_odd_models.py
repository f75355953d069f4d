"""Odd inputs and modules: counted exactly, or one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from actratio import ActratioError, Probe, find_sites, measure
from actratio.sites.late import UncountedWarning

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


class Plain(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.function = nn.Linear(4, 6), nn.Linear(6, 2), function

    def forward(self, x: Tensor) -> Any:
        return self.down(self.function(self.up(x)))


@pytest.mark.parametrize(
    "function",
    [
        lambda z: torch.max(z, torch.zeros(())),
        lambda z: torch.max(z, other=torch.zeros(())),
        lambda z: F.threshold(z, 0.1, 0.0),
        nn.Threshold(0.1, 0.0),
    ],
)
def test_relu_and_thresholds_in_other_spellings_are_counted(function: Callable[[Tensor], Tensor]) -> None:
    model = Plain(function)
    row = next(iter(measure(model, [X])))
    assert torch.equal(row.counts.active, (function(model.up(X)) > 0).sum(0))


@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4), (0, 3, 4)])
def test_a_batch_without_tokens_counts_nothing(shape: tuple[int, ...]) -> None:
    model = Plain(F.relu)
    empty, some = torch.zeros(shape), X.expand(2, 5, 4) if len(shape) == 3 else X
    assert [row.counts.tokens for row in measure(model, [empty])] == [0]
    assert "0 tokens" in repr(measure(model, [empty]))
    alone = next(iter(measure(model, [some])))
    assert torch.equal(next(iter(measure(model, [empty, some, empty]))).counts.active, alone.counts.active)


def test_a_model_that_returns_nothing_is_refused_by_name() -> None:
    class Silent(Plain):
        def forward(self, x: Tensor) -> None:
            super().forward(x)

    with pytest.raises(ActratioError, match="Silent's forward pass returned nothing"):
        measure(Silent(F.relu), [X])


def test_other_weights_in_a_functional_call_are_counted_exactly_or_refused_by_name() -> None:
    class Called(nn.Module):
        def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.part = Plain(function)

        def forward(self, x: Tensor) -> Any:
            return torch.func.functional_call(self.part, {k: -v for k, v in self.part.named_parameters()}, (x,))

    with pytest.raises(ActratioError, match="part was not called in a forward pass"):
        measure(Called(F.relu), [X])
    model = Called(nn.ReLU())
    row = next(iter(measure(model, [X])))
    assert torch.equal(row.counts.active, (-model.part.up(X) > 0).sum(0))


def test_complex_numbers_and_vmap_are_one_sentence() -> None:
    parts = nn.Linear(4, 6, dtype=torch.complex64), nn.Tanh(), nn.Linear(6, 2, dtype=torch.complex64)
    with pytest.raises(ActratioError, match="failed in the forward pass of a batch"):
        measure(nn.Sequential(*parts), [X.to(torch.complex64)])

    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Plain(F.relu)

        def forward(self, x: Tensor) -> Any:
            return torch.vmap(self.part)(x)

    with pytest.raises(ActratioError, match="failed in the forward pass of a batch"):
        measure(Mapped(), [X])


def counted(model: nn.Module, *batches: Tensor, **options: Any) -> dict[str, list[int]]:
    """Return the active neurons of each site."""
    return {row.site.name: row.counts.active.tolist() for row in measure(model, list(batches), **options)}


def active(x: Tensor) -> list[int]:
    """Count by hand, with the neurons on the last axis."""
    return (x > 0).reshape(-1, x.shape[-1]).sum(0).tolist()


@pytest.mark.parametrize(
    "function",
    [torch.sign, lambda z: torch.heaviside(z, torch.tensor(0.0)), lambda z: z.max(torch.zeros_like(z)), lambda z: F.relu(z) * 0.5],
    ids=["sign", "heaviside", "max of zeros", "scaled"],
)  # fmt: skip
def test_other_functions_of_single_neurons_are_counted(function: Callable[[Tensor], Tensor]) -> None:
    model = Plain(function)
    assert list(counted(model, X).values()) == [active(function(model.up(X)))]


ACT = nn.ReLU()
"""A module that is no part of the models that call it."""


def zeroed(z: Tensor) -> Tensor:
    z = z.clone()
    z[z < 0] = 0
    return z


def zeroed_in_place(z: Tensor) -> Tensor:
    z[z < 0] = 0
    return z


@pytest.mark.parametrize(
    "function",
    [
        zeroed,
        zeroed_in_place,
        lambda z: z.clamp(min=torch.zeros(())),
        lambda z: torch.clip(z, torch.zeros_like(z)),
        lambda z: -(-z).clamp(max=0),
        lambda z: z.masked_fill(~(z > 0), 0),
        lambda z: z.masked_fill((z < 0) | z.isnan(), 0),
        lambda z: z * torch.logical_not(z <= 0),
        lambda z: torch.fmax(z, torch.zeros(())),
        lambda z: ACT(z),
    ],
    ids=[
        "mask",
        "mask in place",
        "clamp",
        "clip",
        "clamp from above",
        "not",
        "or",
        "logical not",
        "fmax",
        "module outside",
    ],
)
def test_relu_by_other_names_is_found_beside_another_mlp(function: Callable[[Tensor], Tensor]) -> None:
    first, second = Plain(F.relu), Plain(function)
    second.up, second.down = nn.Linear(2, 6), nn.Linear(6, 2)
    model = nn.Sequential(first, second).eval()
    expected = [active(F.relu(first.up(X))), active(F.relu(second.up(first(X))))]
    assert list(counted(model, X).values()) == expected


def in_place(change: Callable[[Tensor], object]) -> Callable[[Tensor], Tensor]:
    def changed(z: Tensor) -> Tensor:
        change(z)
        return z

    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a - 0.1,
        torch.round,
        torch.neg,
        lambda a: a.clamp(max=0.2) - 0.1,
        in_place(lambda a: a.__setitem__(a < 0.3, 0)),
        in_place(lambda a: a.__setitem__((slice(None), 0), 1)),
    ],
    ids=["minus", "round", "negative", "clamp", "mask", "fill"],
)
@pytest.mark.parametrize("kind", ["module", "function"])
def test_what_changes_the_zeros_of_an_activation_is_part_of_it(kind: str, change: Callable[[Tensor], Tensor]) -> None:
    class Changed(Plain):
        def __init__(self) -> None:
            super().__init__(F.relu)
            self.act = nn.ReLU() if kind == "module" else F.relu

        def forward(self, x: Tensor) -> Any:
            return self.down(change(self.act(self.up(x))))

    model = Changed()
    assert list(counted(model, X, X).values()) == [active(torch.cat([change(F.relu(model.up(X)))] * 2))]


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3), nn.ReLU(), nn.Conv2d(1, 2, 1)],
        lambda: [nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(4, 2, 1)],
        lambda: [nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(2), nn.ReLU()],
        lambda: [nn.Conv2d(1, 4, 3), nn.Upsample(scale_factor=2), nn.ReLU(), nn.Conv2d(4, 2, 3)],
        lambda: [nn.ConvTranspose2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)],
    ],
    ids=["one channel", "pooled", "averaged", "upsampled", "transposed"],
)
def test_every_activation_of_a_convolutional_network_is_counted(layers: Callable[[], list[nn.Module]]) -> None:
    torch.manual_seed(0)
    model, images = nn.Sequential(*layers()).eval(), torch.randn(2, 1, 8, 8)
    expected, x = [], images
    for layer in model:
        x = layer(x)
        expected += [active(x.movedim(1, -1))] if isinstance(layer, nn.ReLU) else []
    assert list(counted(model, images, sites="all-activations").values()) == expected
    with pytest.raises(ActratioError, match="has no MLP"):
        measure(model, [images])


def test_clamps_at_other_bounds_are_no_activation() -> None:
    model = Plain(lambda z: F.relu(z.clamp(min=torch.tensor(-1.0), max=torch.tensor(1.0))))
    assert [site.function for site in find_sites(model, X)] == ["relu"]


def test_writing_where_a_mask_of_the_input_says_is_no_activation() -> None:
    class Masked(Plain):
        def forward(self, x: Tensor) -> Any:
            z = self.up(x)
            z[x.sum(-1) < 0] = 0  # padding
            return self.down(F.relu(z))

    assert [site.function for site in find_sites(Masked(F.relu), X)] == ["relu"]


def test_glu_over_the_channels_of_a_convolution() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 6, 1), nn.GLU(dim=1), nn.Conv1d(3, 2, 1)).eval()
    x = torch.randn(2, 4, 5)
    first, second = model[0](x).chunk(2, 1)
    rows = {row.tensor: row.counts.active.tolist() for row in measure(model, [x])}
    opened = torch.sigmoid(second)
    expected = {"activation": opened, "hidden": first * opened}
    assert rows == {name: active(tensor.movedim(1, -1)) for name, tensor in expected.items()}


def test_convolutions_of_one_example_are_not_followed() -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 1), nn.ReLU(), nn.Conv1d(6, 2, 1)).eval()
    assert [site.width for site in find_sites(model, torch.randn(1, 4, 5))] == [6]
    with pytest.raises(ActratioError, match="has no MLP; no activation function follows a linear layer"):
        find_sites(model, torch.randn(4, 5))


def test_thresholds_are_applied_before_a_constant_factor() -> None:
    model = Plain(lambda z: F.relu(z) * 0.1)
    (row,) = measure(model, [X], criteria="above(0.2)")
    assert torch.equal(row.counts.active, (F.relu(model.up(X)) > 0.2).sum(0))


def written_anew(x: Tensor) -> Tensor:
    output = torch.zeros_like(x)
    output[:, 1:] = x[:, :-1].cumsum(-1)  # depends on the data in a way that isn't followed
    return output


def test_a_tensor_of_zeros_that_is_written_to_is_data() -> None:
    class Scan(Plain):
        def forward(self, x: Tensor) -> Any:
            return self.down(F.relu(self.up(x)) * written_anew(torch.tanh(x @ torch.ones(4, 6))))

    (row,) = measure(Scan(F.relu), [X], sites="*", tensors="activation")
    assert row.site.role == "state-space"


@pytest.mark.parametrize("make", [nn.GLU, lambda: F.glu], ids=["module", "function"])
def test_glu_is_gated_by_the_sigmoid_of_its_second_half(make: Callable[[], Any]) -> None:
    model = Plain(make())
    model.down = nn.Linear(3, 2)
    first, second = model.up(X).chunk(2, -1)
    rows = {row.tensor: row.counts.active.tolist() for row in measure(model, [X])}
    assert rows == {"activation": active(torch.sigmoid(second)), "hidden": active(first * torch.sigmoid(second))}


@pytest.mark.parametrize("name", ["softmax", "maxout", "topk"])
def test_functions_of_several_neurons_are_named(name: str) -> None:
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "softmax": lambda z: F.softmax(z, -1),
        "maxout": lambda z: z.view(-1, 6, 1).max(-1).values,
        "topk": lambda z: torch.zeros_like(z).scatter(-1, z.topk(2).indices, z.topk(2).values),
    }
    said = {"maxout": "max"}.get(name, name)
    with pytest.raises(ActratioError, match=f"its linear layers feed {said}, but no elementwise function"):
        measure(Plain(functions[name]), [X])


class Adapted(nn.Module):
    """Weights that are computed, in buffers, or with an adapter."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randint(-3, 4, shape, generator=generator).float()

        if kind.endswith("buffers"):
            self.register_buffer("up", draw(6, 4))
            self.register_buffer("down", draw(2, 6))
        else:
            self.up, self.down = nn.Parameter(draw(6, 4)), nn.Parameter(draw(2, 6))
        self.a, self.b = nn.Parameter(draw(6, 2)), nn.Parameter(draw(2, 4))
        self.kind = kind

    def weights(self) -> tuple[Tensor, Tensor]:
        if self.kind == "adapter":
            return self.up + self.a @ self.b, self.down
        return (self.up * 3, self.down * 2) if self.kind == "computed" else (self.up, self.down)

    def forward(self, x: Tensor) -> Tensor:
        up, down = self.weights()
        if self.kind == "products with buffers":
            return torch.relu(x @ up.T) @ down.T
        return F.linear(torch.relu(F.linear(x, up)), down)


@pytest.mark.parametrize("kind", ["computed", "buffers", "products with buffers", "adapter"])
def test_weights_that_are_no_plain_parameters(kind: str) -> None:
    model = Adapted(kind)
    up, down = model.weights()
    expected = torch.relu(F.linear(X, up))
    assert list(counted(model, X).values()) == [active(expected)]
    (row,) = measure(model, [X], criteria="contribution(20.5)")
    norms = down.norm(dim=0)  # of the weight that is multiplied
    assert row.counts.active.tolist() == (expected.abs() * norms > 20.5).sum(0).tolist()


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
@pytest.mark.parametrize("where", [nn.utils.parametrizations, nn.utils], ids=["parametrization", "hook"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_normalised_weights(norm: str, where: Any) -> None:
    model = Plain(F.relu)
    getattr(where, norm)(model.up)
    getattr(where, norm)(model.down)
    model.eval()
    assert list(counted(model, X).values()) == [active(F.relu(model.up(X)))]


def test_quantised_weights_are_found_and_have_no_norms() -> None:
    class Linear8bit(nn.Module):
        """As libraries write them: the weight is no matrix of floating-point numbers."""

        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.in_features, self.out_features = linear.in_features, linear.out_features
            self.register_buffer("packed", (linear.weight * 16).round().to(torch.int8).flatten())

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.packed.view(self.out_features, self.in_features).float().t() / 16

    model = Plain(nn.ReLU())
    model.up, model.down = Linear8bit(model.up), Linear8bit(model.down)  # type: ignore[assignment]
    assert counted(model, X) == {"function": active(F.relu(model.up(X)))}
    with pytest.raises(ActratioError, match="the down projection of function is quantised"):
        measure(model, [X], criteria="contribution(0.5)")


def test_dynamically_quantised_models() -> None:
    import warnings

    with warnings.catch_warnings(action="ignore"):  # PyTorch is going to remove it
        model = torch.ao.quantization.quantize_dynamic(Plain(nn.ReLU()), {nn.Linear}, dtype=torch.qint8)
        assert counted(model, X) == {"function": active(F.relu(model.up(X)))}


def test_activations_without_a_down_projection_are_counted() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.Tanh())
    assert counted(model, X, X, sites="*") == {
        "1": active(torch.cat([model[:2](X)] * 2)),
        "3": active(torch.cat([model(X)] * 2)),
    }


class Block(nn.Module):
    """A residual block that uses one ReLU in place, twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 3, 3, padding=1)
        self.norm, self.relu = nn.BatchNorm2d(5), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm(self.first(x)))
        y = self.second(y)
        y += x
        return self.relu(y)


def test_convolutional_networks_are_measured_by_all_activations() -> None:
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    model = Block().eval()
    with pytest.raises(
        ActratioError, match=r"has no MLP; its activations are .*relu.*, or all of them as all-activations"
    ):
        measure(model, [images])
    first = F.relu(model.norm(model.first(images)))
    by_name = measure(model, [images, images], sites="all-activations")
    assert by_name.rows[0].counts.active.tolist() == active(torch.cat([first] * 2).movedim(1, -1))
    assert by_name.rows[0].counts.tokens == 2 * 2 * 16  # each position of each image
    after = F.relu(model.second(first) + images)
    assert by_name.rows[1].counts.active.tolist() == active(torch.cat([after] * 2).movedim(1, -1))
    assert len(by_name.rows) == 2


def test_scripted_models_are_refused_by_name() -> None:
    import warnings

    with warnings.catch_warnings(action="ignore"):  # PyTorch is going to remove TorchScript
        scripted = torch.jit.script(Plain(nn.ReLU()))
        traced = torch.jit.trace(Plain(nn.ReLU()), X)
    for model in (scripted, traced):
        with pytest.raises(ActratioError, match="the model is a ScriptModule, which can't be followed"):
            measure(model, [X])
    with pytest.raises(ActratioError, match="0 is a ScriptModule"):
        measure(nn.Sequential(scripted, nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)), [X])


class Branches(nn.Module):
    """An MLP, and another one for large batches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.small, self.large = Plain(nn.ReLU()), Plain(nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.small(x)
        return y + self.large(x) if len(x) > 6 else y


def test_a_part_that_runs_only_in_later_batches_is_named() -> None:
    many = torch.cat([X, X])
    with pytest.warns(UncountedWarning, match=r"large\.up.* ran for the first time after the sites were found"):
        assert list(counted(Branches(), X, many)) == ["small"]
    assert list(counted(Branches(), many)) == ["small", "large"]
    assert list(counted(Branches(), X)) == ["small"]  # and no warning, which would be an error here


def test_the_warning_survives_an_interrupt(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Tensor]:
        yield X
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(Branches(), interrupted(), partial=tmp_path / "partial")
    with pytest.warns(UncountedWarning, match=r"large\.up"):
        measure(Branches(), [X, torch.cat([X, X])], partial=tmp_path / "partial")


def test_a_compiled_part_of_an_eager_model_is_counted() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            part = Plain(F.relu)
            for weight in part.parameters():  # integers, so that compiled code can't round otherwise
                weight.data = (weight.data * 8).round()
            self.part = torch.compile(part, backend="eager")

        def forward(self, x: Tensor) -> Any:
            return self.part(x)

    x = (X * 4).round()
    model = Whole()
    assert counted(model, x, x) == {"part": active(torch.cat([F.relu(model.part.up(x))] * 2))}


class Later(nn.Module):
    """An activation in a module of its own, which reads what another module computed."""

    def __init__(self, steps: Callable[[Tensor], Tensor], layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.steps = layer, steps

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(self.layer(x)).sum((-1, -2))


class Relu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class WeightFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight @ x


@pytest.mark.parametrize(
    ("layer", "steps", "shape", "neurons"),
    [
        (nn.Conv2d(3, 5, 3), Relu(), (2, 3, 4, 6), 1),
        (nn.Conv2d(3, 5, 3), lambda x: F.relu(x.permute(0, 2, 3, 1)), (2, 3, 4, 6), 1),
        (nn.Conv2d(3, 5, 3), lambda x: F.relu(x.flatten(2).transpose(1, 2)), (2, 3, 4, 6), 1),
        (nn.Conv1d(3, 5, 3), lambda x: F.relu(x.transpose(-1, -2)).transpose(1, 2), (2, 3, 6), 1),
        (nn.Linear(3, 5), lambda x: F.relu(x.transpose(1, 2)), (2, 4, 3), -1),
        (nn.Linear(3, 5), lambda x: F.relu(x.movedim(-1, 0)), (2, 4, 3), -1),
        (WeightFirst(), F.relu, (2, 3, 4), 1),
        (WeightFirst(), F.relu, (3, 4), 0),
    ],
)
def test_activations_without_a_down_projection_are_counted_by_neuron(
    layer: nn.Module, steps: Callable[[Tensor], Tensor], shape: tuple[int, ...], neurons: int
) -> None:
    """``neurons`` is their axis in what the layer computes."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    (row,) = measure(Later(steps, layer), [x, x], sites="all-activations")
    assert row.counts.active.tolist() == [2 * count for count in active(layer(x).movedim(neurons, -1))]


class Stops(nn.Module):
    stops = False

    def forward(self, x: Tensor) -> Tensor:
        if self.stops:
            raise KeyboardInterrupt
        return x


def test_an_interrupt_while_all_activations_are_counted() -> None:
    part = Stops()
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), part), nn.Conv2d(5, 2, 3))
    x = torch.randn(2, 3, 6, 6)
    probe = Probe(model, find_sites(model, x, sites="all-activations"))
    part.stops = True
    with pytest.raises(KeyboardInterrupt), probe:
        model(x)
    with probe:
        with pytest.raises(KeyboardInterrupt):
            model(x)
        part.stops = False
        model(x)
    ((counted),) = probe.counted.values()
    assert [counts.tokens for counts in counted.counts.values()] == [2 * 16]


class LinearBlock(nn.Module):
    """A whole MLP with the attributes of a linear map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.in_features, self.out_features = 4, 3
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)))


class GatedLinear(nn.Module):
    """A gated linear map, whose weight has both halves."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.in_features, self.out_features = 4, 3
        self.weight = nn.Parameter(torch.randn(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.linear(x, self.weight).chunk(2, -1)
        return a * torch.sigmoid(b)


def test_modules_that_are_linear_only_by_name_are_followed() -> None:
    block = LinearBlock()
    model = nn.Sequential(block, nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    rows = {row.site.name: row.counts.active.tolist() for row in measure(model, [X])}
    assert list(rows) == ["0", "2"]
    assert rows["0"] == active(F.relu(block.up(X)))
    gated = nn.Sequential(GatedLinear(), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    assert [row.site.function for row in measure(gated, [X], tensors="activation")] == ["sigmoid", "relu"]


class ShortOnly(nn.Module):
    """An MLP, and another one for short sequences."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.always, self.short, self.long = (
            nn.Embedding(9, 4),
            Plain(F.relu),
            Plain(F.relu),
            Plain(F.relu),
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        y: Tensor = self.always(x)
        return y + self.short(x) if x.shape[1] < 14 else y


def test_a_part_that_runs_only_in_short_sequences_is_named() -> None:
    """The sites are looked for in a few tokens first, and then in more."""
    with pytest.warns(UncountedWarning, match=r"short\.up"):
        measure(
            ShortOnly(), [{"input_ids": torch.arange(40).reshape(2, 20) % 9}, {"input_ids": torch.ones(2, 8).long()}]
        )
