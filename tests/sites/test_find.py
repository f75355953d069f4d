"""Finding sites: hand-made modules of every shape that MLPs come in, and what must not be taken for one."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from actratio import ActratioError, measure
from actratio.errors import SiteError
from actratio.sites import Site, find_sites

D, W = 6, 10
X = torch.linspace(-1, 1, 2 * 3 * D).view(2, 3, D)


def only(model: nn.Module, x: Tensor = X) -> Site:
    """The one MLP of a model."""
    (site,) = find_sites(model, x)
    return site


class Plain(nn.Module):
    """Linear, a function, linear."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.up, self.down, self.function = nn.Linear(D, W), nn.Linear(W, D), function

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.function(self.up(x)))


class Gated(nn.Module):
    """Fused gate and up projections; ``cut`` takes them apart."""

    def __init__(
        self, cut: Callable[[Tensor], tuple[Tensor, Tensor]], combine: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.both, self.down = nn.Linear(D, 2 * W), nn.Linear(W, D)
        self.cut, self.combine = cut, combine

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.combine(*self.cut(self.both(x))))


class Blocks(nn.Module):
    """Some blocks one after another, and what comes after them."""

    def __init__(self, *blocks: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(blocks), head or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layers:
            x = x + block(x)
        return self.head(x)


class Doubled(nn.Module):
    """An activation class of somebody's own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * torch.tanh(x)


def squared(x: Tensor) -> Tensor:
    return torch.relu(x).square()


def quick(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def tanh_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (nn.GELU(), "gelu"),
        (nn.ReLU(inplace=True), "relu"),
        (F.silu, "silu"),
        (torch.relu_, "relu"),
        (Doubled(), "tanh"),
        (squared, "relu·square"),
        (quick, "sigmoid·mul"),
        (lambda x: x.clamp(min=0), "relu"),
        (lambda x: F.dropout(F.gelu(x), 0.5, training=False), "gelu"),
        (lambda x: F.layer_norm(F.gelu(x), (W,)), "gelu"),
        (lambda x: F.gelu(x.float()).to(x.dtype), "gelu"),
    ],
)
def test_plain_mlps_with_any_activation_function_are_found(function: Callable[[Tensor], Tensor], name: str) -> None:
    site = only(Plain(function))
    assert (site.role, site.function, site.width, site.gated, site.down, site.calls) == (
        "mlp",
        name,
        W,
        False,
        "down.weight",
        1,
    )


def test_an_activation_function_written_out_ends_with_its_last_step() -> None:
    assert only(Plain(tanh_gelu)).function.endswith("tanh·mul")


@pytest.mark.parametrize(
    "cut",
    [
        lambda y: y.chunk(2, -1),
        lambda y: y.split(W, -1),
        lambda y: (y[..., :W], y[..., W:]),
        lambda y: (y[..., ::2], y[..., 1::2]),
        lambda y: y.view(*y.shape[:-1], W, 2).unbind(-1),
        lambda y: (y.view(*y.shape[:-1], 2, W)[..., 0, :], y.view(*y.shape[:-1], 2, W)[..., 1, :]),
        lambda y: torch.tensor_split(y, 2, dim=-1),
    ],
)
@pytest.mark.parametrize(
    ("combine", "name"),
    [
        (lambda gate, up: F.silu(gate) * up, "silu"),
        (lambda up, gate: up * F.silu(gate), "silu"),
        (lambda gate, up: F.gelu(gate).mul_(up), "gelu"),
        (
            lambda gate, up: (up.clamp(-7, 7) + 1) * (gate.clamp(max=7) * torch.sigmoid(1.702 * gate.clamp(max=7))),
            "sigmoid·mul",
        ),
    ],
)
def test_gated_mlps_fused_in_any_way_are_found(
    cut: Callable[[Tensor], tuple[Tensor, Tensor]], combine: Callable[[Tensor, Tensor], Tensor], name: str
) -> None:
    site = only(Gated(cut, combine))
    assert (site.role, site.function, site.width, site.gated) == ("mlp", name, W, True)


def test_layers_of_a_sequential_are_separate_sites() -> None:
    model = nn.Sequential(nn.Linear(D, 4), nn.ReLU(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    sites = find_sites(model, X)
    assert [(site.name, site.width, site.function, site.layer) for site in sites] == [
        ("1", 4, "relu", 0),
        ("3", 5, "tanh", 1),
    ]


def test_only_pointwise_convolutions_are_linear_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 1), nn.ReLU(), nn.Conv2d(12, 4, 1))
    site = only(model, torch.rand(1, 3, 6, 6))
    assert (site.name, site.width) == ("3", 12)


def test_an_mlp_with_a_depthwise_convolution_is_found() -> None:
    model = nn.Sequential(nn.Conv1d(3, 8, 1), nn.Conv1d(8, 8, 3, padding=1, groups=8), nn.GELU(), nn.Conv1d(8, 3, 1))
    assert only(model, torch.rand(1, 3, 6)).width == 8


def test_a_module_called_several_times_is_one_site() -> None:
    block = Plain(F.gelu)

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.block(part) for part in self.block(self.block(x)).chunk(3, dim=1)], dim=1)

    assert only(Shared()).calls == 2 + 3


def test_layer_numbers_count_blocks_without_the_head() -> None:
    head = nn.Sequential(nn.Linear(D, 4), nn.GELU(), nn.Linear(4, 3))
    model = Blocks(Plain(F.relu), Plain(F.relu), head=head)
    assert [(site.name, site.layer) for site in find_sites(model, X)] == [("layers.0", 0), ("layers.1", 1)]
    assert [site.name for site in find_sites(model, X, sites=lambda site: site.role == "head")] == ["head"]


class Experts(nn.Module):
    """A router and four experts in one weight, called one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(D, 4)
        self.up, self.down = nn.Parameter(torch.randn(4, W, D)), nn.Parameter(torch.randn(4, D, W))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, D)
        best = torch.sigmoid(self.gate(flat)).argmax(-1)
        out = torch.zeros_like(flat)
        for expert in best.unique():
            rows = torch.where(best == expert)[0]
            out[rows] = F.linear(F.relu(F.linear(flat[rows], self.up[expert])), self.down[expert])
        return out.view_as(x)


class ParallelExperts(nn.Module):
    """Tokens sorted by expert, split, and the parts joined again after each projection, with a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.down = nn.Parameter(torch.randn(4, 2 * W, D)), nn.Parameter(torch.randn(4, D, W))

    def experts(self, x: Tensor, weight: Tensor, sizes: list[int]) -> Tensor:
        return torch.cat([F.linear(part, weight[number]) for number, part in enumerate(x.split(sizes))])

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, D)
        best = (torch.arange(len(flat)) * 7) % 3  # the last expert is never chosen
        order = best.argsort(stable=True)
        sizes = best.bincount(minlength=4).tolist()
        gate, up = self.experts(flat[order], self.both, sizes).chunk(2, dim=-1)
        out = self.experts(F.silu(gate) * up, self.down, sizes)
        return out[order.argsort()].view_as(x)


def test_experts_with_tokens_split_and_joined_again_are_found() -> None:
    sites = find_sites(Blocks(ParallelExperts()), X)
    assert [(site.name, site.role, site.gated, site.calls) for site in sites] == [
        (f"layers.0.{number}", "expert", True, 1) for number in range(4)
    ]


def test_experts_without_tokens_are_sites() -> None:
    torch.manual_seed(0)
    sites = find_sites(Blocks(Experts()), X[:1, :1])  # one token reaches one expert
    assert [(site.name, site.expert, site.role, site.calls) for site in sites] == [
        (f"layers.0.{number}", number, "expert", 1) for number in range(4)
    ]


def test_a_router_is_listed_and_not_measured() -> None:
    sites = find_sites(Blocks(Experts()), X, sites="*")
    assert [site.function for site in sites if site.role in ("router", "other")] == ["sigmoid"]


class Scan(nn.Module):
    """A state-space block: what the gate multiplies comes from a recurrence."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(D, 2 * W), nn.Linear(W, D)

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.inner(x).chunk(2, -1)
        return self.out(torch.cumsum(y, dim=1) * F.silu(z))


def test_the_gate_of_a_state_space_block_is_not_an_mlp() -> None:
    model = Blocks(Scan(), Plain(F.gelu))
    assert [site.name for site in find_sites(model, X)] == ["layers.1"]
    assert [site.role for site in find_sites(model, X, sites="layers.0")] == ["state-space"]


class Heads(nn.Module):
    """A state-space block whose heads have weights of their own, and which is cut into them before its gate."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(D, 2 * W), nn.Linear(W, D)
        self.step = nn.Parameter(torch.randn(2, 3, W // 2))

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.inner(x).chunk(2, -1)
        y, z = (F.silu(y).unflatten(-1, (2, -1)).movedim(-2, 0), z.unflatten(-1, (2, -1)).movedim(-2, 0))
        steps = self.step[:, None] @ y.transpose(-1, -2)
        heads = [torch.cumsum(y[i] * steps[i].mean(), dim=1) * F.silu(z[i]) for i in range(2)]
        return self.out(torch.cat(heads, dim=-1))


def test_the_heads_of_a_state_space_block_are_not_experts() -> None:
    model = Blocks(Heads(), Plain(F.gelu))
    assert [site.name for site in find_sites(model, X)] == ["layers.1"]
    assert {site.role for site in find_sites(model, X, sites="layers.0*")} <= {"state-space", "other"}


class Mixing(nn.Module):
    """A small MLP that makes a factor for each number that it read."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Linear(D, 4), nn.Linear(4, D)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.large(F.silu(self.small(x)))) * x.flip(1)


def test_an_mlp_that_computes_a_gate_is_an_mlp() -> None:
    site = only(Mixing())
    assert (site.role, site.function, site.width) == ("mlp", "silu", 4)


class Squeeze(nn.Module):
    """An inverted bottleneck with squeeze-and-excitation; the wide part comes from a linear map, or from none."""

    def __init__(self, wide: nn.Module) -> None:
        super().__init__()
        self.wide, self.narrow = wide, nn.Conv2d(8, 3, 1)
        self.reduce, self.expand = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.wide(x))
        factor = torch.sigmoid(self.expand(F.silu(self.reduce(a.mean((2, 3), keepdim=True)))))
        return self.narrow(a * factor)


def test_squeeze_and_excitation_is_an_mlp_and_does_not_hide_another() -> None:
    image = torch.rand(1, 3, 4, 4)
    sites = find_sites(Squeeze(nn.Conv2d(3, 8, 1)), image)
    assert [(site.function, site.width, site.gated) for site in sites] == [("silu", 2, False), ("relu", 8, True)]
    assert [site.function for site in find_sites(Squeeze(nn.Conv2d(3, 8, 3, padding=1)), image)] == ["silu"]


def test_a_model_without_an_mlp_is_refused() -> None:
    with pytest.raises(ActratioError, match="no activation function follows a linear layer"):
        find_sites(nn.Linear(D, W), X)
    with pytest.raises(ActratioError, match=r"no MLP; its activations are layers\.0 \(state-space, silu\)"):
        find_sites(Blocks(Scan()), X)


def test_a_glob_without_a_match_suggests_the_nearest_site() -> None:
    with pytest.raises(ActratioError, match=r"no site matches 'layer.0'; nearest: layers\.0"):
        find_sites(Blocks(Plain(F.relu), Plain(F.relu)), X, sites="layer.0")


def test_a_failing_forward_pass_is_a_site_error() -> None:
    with pytest.raises(ActratioError, match="failed in the forward pass that looks for its MLPs"):
        find_sites(Plain(F.relu), torch.rand(2, D + 1))


def test_a_model_that_does_not_say_what_it_reads_needs_inputs() -> None:
    with pytest.raises(ActratioError, match="does not say what it reads"):
        find_sites(Plain(F.relu))


def test_find_sites_leaves_the_model_unchanged() -> None:
    model = Blocks(Plain(nn.GELU()), Plain(F.relu))
    model.train()
    model.layers[1].eval()
    before, state = model(X), torch.get_rng_state()
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    find_sites(model, X)
    assert torch.equal(model(X), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model.layers[1].training
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


class Counting(Plain):
    """Counts its calls in a buffer, and draws numbers from three generators."""

    def __init__(self) -> None:
        super().__init__(F.relu)
        self.register_buffer("called", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.called += 1
        noise = torch.rand(()) + random.random() + np.random.rand()
        return super().forward(x) + noise


def test_find_sites_leaves_buffers_and_generators_unchanged() -> None:
    def drawn() -> tuple[float, float, float]:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        if sites:
            find_sites(model, X)
        return float(torch.rand(())), random.random(), float(np.random.rand())

    model, sites = Counting(), False
    expected, sites = drawn(), True
    assert drawn() == expected
    assert model.called == 0


class Replacing(Plain):
    """Puts a new tensor in the place of a buffer."""

    def __init__(self) -> None:
        super().__init__(F.relu)
        self.register_buffer("called", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.called = self.called + 1
        return super().forward(x)


def test_find_sites_leaves_buffers_that_are_replaced_unchanged() -> None:
    model = Replacing()
    called = model.called
    find_sites(model, X)
    assert model.called is called
    assert called == 0


def test_buffers_that_cannot_be_changed_in_place() -> None:
    with torch.inference_mode():
        of_inference = nn.Sequential(nn.Linear(D, W), nn.BatchNorm1d(W), nn.ReLU(), nn.Linear(W, D))
    x = torch.randn(5, D)
    assert only(of_inference, x).width == W
    lazy = nn.Sequential(nn.LazyLinear(W), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Linear(W, D))
    with pytest.raises(SiteError, match="Call `forward` with a dummy batch"):
        find_sites(lazy, x)


def test_compiled_models_have_the_same_sites() -> None:
    model = Plain(F.gelu)
    site = only(torch.compile(model, backend="eager"))  # type: ignore[arg-type]
    assert site.function == "gelu"
    assert site.down is not None


class Called(nn.Module):
    """Calls ``forward`` itself, past the hooks of what it calls."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.forward(x)


class Grouped(nn.Module):
    """Pointwise convolutions in groups, each of which sees its part of the neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Conv1d(D, 12, 1, groups=2), nn.Conv1d(12, D, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


class Weighted(nn.Module):
    """A gated MLP whose hidden is weighted by a router, a number for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down, self.router = nn.Linear(D, W), nn.Linear(D, W), nn.Linear(W, D), nn.Linear(D, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x) * self.router(x).sigmoid())


def test_a_scope_is_a_module_whose_hooks_are_called() -> None:
    assert only(Called(Plain(torch.relu))).scope == ""


def test_a_grouped_convolution_has_the_neurons_of_all_groups() -> None:
    x = torch.linspace(-1, 1, 2 * D * 3).view(2, D, 3)
    model = Grouped()
    assert only(model, x).width == 12
    row = next(iter(measure(model, [x], criteria=["contribution(0.1)"])))
    contributions = (
        torch.relu(model.up(x))
        * torch.cat([part.flatten(1).norm(dim=0) for part in model.down.weight.chunk(2)])[:, None]
    )
    assert int(row.counts.active.sum()) == int((contributions >= 0.1).sum())


def test_a_weight_for_each_token_does_not_change_the_role_of_an_mlp() -> None:
    site = only(Weighted())
    assert (site.role, site.gated) == ("mlp", True)


class Adapted(nn.Module):
    """Fused gate and up projections, and an adapter of low rank beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.small, self.large = nn.Linear(D, 2 * W), nn.Linear(D, 2), nn.Linear(2, 2 * W)
        self.down = nn.Linear(W, D)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = (self.both(x) + self.large(self.small(x))).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


def test_a_projection_and_its_adapter_are_one_linear_map() -> None:
    site = only(Adapted())
    assert (site.role, site.gated, site.width) == ("mlp", True, W)


class Summed(nn.Module):
    """What goes into the activation is the sum of two linear maps of two things."""

    def __init__(self, map_: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first, self.second, self.last = map_(), map_(), map_()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x) + self.second(x.sin())))


def test_a_sum_of_linear_maps_is_linear_but_a_residual_stream_of_images_is_no_part_of_an_mlp() -> None:
    assert only(Summed(lambda: nn.Linear(D, D))).function == "tanh"
    model, image = Summed(lambda: nn.Conv2d(3, 3, 1)), torch.rand(1, 3, 4, 4)
    with pytest.raises(ActratioError, match="has no MLP"):
        find_sites(model, image)
    (site,) = find_sites(model, image, sites="*")
    assert (site.role, site.function, site.down) == ("other", "tanh", None)


class Tied(nn.Module):
    """Two MLPs with one down projection's weight, of which hooks suffice for the first alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Plain(nn.ReLU()), Plain(nn.ReLU())
        self.b.down.weight = self.a.down.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


def test_a_tied_down_projection_is_counted_once_for_each_mlp() -> None:
    model = Tied()
    counted = [int(row.counts.active.sum()) for row in measure(model, [X])]
    assert counted == [int((mlp.up(X) > 0).sum()) for mlp in (model.a, model.b)]


def test_an_mlp_inside_attention_is_an_mlp() -> None:
    model = nn.ModuleDict({"cross_attention": nn.ModuleDict({"mlp": Plain(torch.relu)})})
    model.forward = lambda x: model["cross_attention"]["mlp"](x)  # type: ignore[method-assign]
    assert find_sites(model, X, sites="*")[0].role == "mlp"
