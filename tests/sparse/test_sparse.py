"""Sparse MLPs: equal to dense ones, whatever is asked of them, and undone without a trace."""

from __future__ import annotations

import copy
import gc
import math
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import actratio
from actratio import ActratioError, measure
from actratio.sparse import densify, plans, sparsify
from actratio.sparse.autotune import LayerTimer, autotune_crossover
from actratio.sparse.crossover import ALWAYS, NEVER
from actratio.sparse.kernels import cpu
from actratio.sparse.kernels.product import Weights
from actratio.sparse.layers import neuron_major

EPSILON = {torch.float32: 2.0**-22, torch.bfloat16: 2.0**-7}


def sparse(*shape: int, ratio: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * (torch.rand(*shape, generator=generator) < ratio)


def rand(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_close(found: Tensor, exact: Tensor, scale: Tensor) -> None:
    """Within rounding: of the largest sums that the result is made of."""
    bound = EPSILON[found.dtype] * (scale + exact.abs()) + 1e-30
    assert ((found.double() - exact).abs() <= bound).all()


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(1, 35),
    width=st.sampled_from([1, 7, 64, 65, 200]),
    features=st.sampled_from([2, 6, 30, 2050]),
    ratio=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    biased=st.booleans(),
    cut=st.booleans(),
)
def test_down_is_the_dense_product(
    batch: int, width: int, features: int, ratio: float, dtype: torch.dtype, biased: bool, cut: bool
) -> None:
    hidden, rows = sparse(batch, width, ratio=ratio).to(dtype), rand(width, features).to(dtype)
    bias = rand(features, seed=2).to(dtype) if biased else None
    thresholds = rand(width, seed=3).abs() if cut else None
    found = cpu.CPUProduct(Weights(rows, bias, thresholds))(hidden, batch * width)
    assert found is not None
    kept = hidden.double()
    if thresholds is not None:
        kept = torch.where(hidden.float().abs() <= thresholds, 0.0, kept)
    added = 0 if bias is None else bias.double()
    exact = kept @ rows.double() + added
    assert_close(found, exact, kept.abs() @ rows.double().abs() + abs(added))


@settings(deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 20),
    width=st.sampled_from([1, 63, 130]),
    inputs=st.sampled_from([2, 34, 1030]),
    ratio=st.sampled_from([0.0, 0.1, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    biased=st.booleans(),
)
def test_gated_is_the_dense_product(
    batch: int, width: int, inputs: int, ratio: float, dtype: torch.dtype, biased: bool
) -> None:
    gate, x = sparse(batch, width, ratio=ratio).to(dtype), rand(batch, inputs).to(dtype)
    up, rows = rand(width, inputs, seed=2).to(dtype), rand(width, 10, seed=3).to(dtype)
    up_bias, bias = (rand(width, seed=4).to(dtype), rand(10, seed=5).to(dtype)) if biased else (None, None)
    found = cpu.CPUProduct(Weights(rows, bias, None, up, up_bias))(gate, batch * width, x)
    assert found is not None
    zero = torch.zeros(())
    u = x.double() @ up.double().T + (zero if up_bias is None else up_bias.double())
    scale = x.double().abs() @ up.double().abs().T + (zero if up_bias is None else up_bias.double().abs())
    added = zero if bias is None else bias.double()
    exact = (gate.double() * u) @ rows.double() + added
    assert_close(found, exact, 4 * (gate.double().abs() * scale) @ rows.double().abs() + added.abs())


def test_more_active_neurons_than_are_worth_it_are_left_to_the_dense_product() -> None:
    hidden, rows = torch.ones(1, 4), torch.ones(4, 2)
    assert cpu.CPUProduct(Weights(rows))(hidden, 3) is None
    found = cpu.CPUProduct(Weights(rows))(hidden, 4)
    assert found is not None
    assert found.tolist() == [[4.0, 4.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("cut", [False, True])
def test_nan_and_infinity_go_through(dtype: torch.dtype, odd: float, cut: bool) -> None:
    hidden = torch.zeros(2, 70, dtype=dtype)
    hidden[1, 69] = odd
    rows = torch.ones(70, 4, dtype=dtype)
    found = cpu.CPUProduct(Weights(rows, None, torch.ones(70) if cut else None))(hidden, 140)
    assert found is not None
    assert found[0].tolist() == [0.0] * 4
    assert torch.equal(found[1], torch.full((4,), odd, dtype=dtype)) or (math.isnan(odd) and found[1].isnan().all())


def test_threads_may_change_and_several_may_call_at_once() -> None:
    before = torch.get_num_threads()
    product, inputs = (
        cpu.CPUProduct(Weights(rand(512, 64))),
        [sparse(4, 512, ratio=0.3, seed=seed) for seed in range(8)],
    )
    expected = [x @ rand(512, 64) for x in inputs]
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            found = product(inputs[0], 1 << 20)
            torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-4)
        wrong: list[int] = []

        def work(number: int) -> None:
            for _ in range(50):
                found = product(inputs[number], 1 << 20)
                if found is None or not torch.allclose(found, expected[number], rtol=1e-4, atol=1e-4):
                    wrong.append(number)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(len(inputs))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert wrong == []
    finally:
        torch.set_num_threads(before)


def test_fewer_threads_than_were_asked_for_do_all_of_the_work() -> None:
    code = (
        "import torch; torch.set_num_threads(4); from actratio.sparse.kernels import cpu, product; x, w = torch.ones(2, 300), torch.ones(300, 8);"
        "p = cpu.CPUProduct(product.Weights(w)); print(p(x, 600).unique().tolist(), p(x[:1], 600).unique().tolist())"
    )
    environment = {**os.environ, "OMP_THREAD_LIMIT": "2"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.stdout.strip() == "[300.0] [300.0]", ran.stderr


# ---- Models.


class Plain(nn.Module):
    def __init__(self, act: nn.Module | None = None, width: int = 96) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(16, width), act or nn.ReLU(), nn.Linear(width, 16)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.act(self.up(x)))
        return out


class Gated(nn.Module):
    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.gate, self.up, self.act = nn.Linear(16, width), nn.Linear(16, width), nn.ReLU()
        self.down = nn.Linear(width, 16)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.act(self.gate(x)) * self.up(x))
        return out


class Residual(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def model_of(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return Residual(kind(), kind()).eval()


X = rand(2, 5, 16)
KINDS = [Plain, Gated, lambda: Plain(nn.ReLU6())]


def made_sparse(model: nn.Module, **options: Any) -> nn.Module:
    return sparsify(model, measure(model, [X], criteria=["nonzero"]), **{"crossover": ALWAYS, **options})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("x", [X, X[0, 0], X[:, :1], X.transpose(0, 1), X[..., ::2].repeat(1, 1, 2), X[:0]])
def test_a_sparse_model_computes_the_same(kind: Callable[[], nn.Module], x: Tensor) -> None:
    model = model_of(kind)
    with torch.no_grad():
        expected = model(x)
        fast = made_sparse(model)
        assert fast is model
        torch.testing.assert_close(fast(x), expected, rtol=1e-5, atol=1e-5)
    assert {plan.kind for plan in plans(model)} == {"gated" if kind is Gated else "down"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_keep_their_names_shapes_and_numbers_and_are_stored_once(kind: Callable[[], nn.Module]) -> None:
    model = model_of(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made_sparse(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in after.values()}
    assert sum(storages.values()) == sum(value.nbytes for value in before.values())
    other = model_of(kind)
    made_sparse(other).load_state_dict(before)
    torch.testing.assert_close(other(X), model(X))


@pytest.mark.parametrize("kind", KINDS)
def test_it_can_be_undone(kind: Callable[[], nn.Module]) -> None:
    model, untouched = model_of(kind), model_of(kind)
    densify(made_sparse(model))
    assert plans(model) == []
    assert torch.equal(model(X), untouched(X))
    for mine, theirs in zip(model.modules(), untouched.modules(), strict=True):
        assert type(mine) is type(theirs)
        assert set(vars(mine)) == set(vars(theirs))
    for mine_, theirs_ in zip(model.parameters(), untouched.parameters(), strict=True):
        assert mine_.stride() == theirs_.stride()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_dense_model_s(kind: Callable[[], nn.Module]) -> None:
    model, dense = made_sparse(model_of(kind)), model_of(kind)
    for each in (model.train(), dense.train()):
        each(X).square().sum().backward()
    for mine, theirs in zip(model.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_sparse_model_is_still_the_dense_one(kind: Callable[[], nn.Module]) -> None:
    model, dense = made_sparse(model_of(kind)), model_of(kind)
    for each in (model, dense):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.01)
        each.train()(X).square().mean().backward()
        optimizer.step()
        each.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(X), dense(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Plain, Gated])
def test_copies_and_saved_models_are_sparse_too(kind: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = made_sparse(model_of(kind))
    torch.save(model, tmp_path / "model.pt")
    for other in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        with torch.no_grad():
            assert torch.equal(other(X), model(X))
        assert [plan.kind for plan in plans(other)] == [plan.kind for plan in plans(model)]
        assert plans(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_computed_too(dtype: torch.dtype) -> None:
    model, dense = made_sparse(model_of(Gated)).to(dtype), model_of(Gated).to(dtype)
    with torch.no_grad():
        torch.testing.assert_close(model(X.to(dtype)), dense(X.to(dtype)), rtol=0.05, atol=0.05)


def test_a_wrong_type_fails_as_a_dense_layer_does() -> None:
    with torch.no_grad(), pytest.raises(RuntimeError, match="same dtype"):
        made_sparse(model_of(Plain))(X.double())


def test_an_mlp_without_true_zeros_is_left_dense_and_says_why() -> None:
    model = sparsify(
        model_of(lambda: Plain(nn.GELU())), measure(model_of(lambda: Plain(nn.GELU())), [X]), crossover=ALWAYS
    )
    assert {(plan.kind, plan.why) for plan in plans(model)} == {("dense", "gelu has no true zeros")}


def test_thresholds_hold_on_every_path() -> None:
    model = model_of(lambda: Plain(nn.GELU()))
    found = measure(model, [X])
    cut = {row.site.name: torch.full((96,), 0.1) for row in found}

    def expected(x: Tensor) -> Tensor:
        for block in model.blocks:  # type: ignore[union-attr]
            h = block.act(block.up(x))
            x = x + F.linear(torch.where(h.abs() <= 0.1, 0, h), block.down.weight, block.down.bias)
        return x

    with torch.no_grad():
        wanted = expected(X)
        sparsify(model, found, thresholds=cut, crossover=ALWAYS)
        torch.testing.assert_close(model(X), wanted, rtol=1e-5, atol=1e-5)
        for module in model.modules():
            if hasattr(module, "_crossover"):
                module._crossover = NEVER
        torch.testing.assert_close(model(X), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(X), wanted, rtol=1e-5, atol=1e-5)  # with gradients


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_models_compute_the_same(kind: Callable[[], nn.Module]) -> None:
    model = made_sparse(model_of(kind))
    with torch.no_grad():
        expected = model_of(kind)(X)
        fast = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(fast(X), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(fast(X), expected, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


def test_other_layers_that_read_zeros_are_sparse_too() -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    x = sparse(6, 16, ratio=0.2)
    with torch.no_grad():
        expected = model(x)
        sparsify(model, measure(model, [x]), crossover=ALWAYS, also={"0": 0.2})
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    assert [type(layer).__name__ for layer in model] == ["SparseLinear", "ReLU", "SparseLinear"]
    densify(model)
    assert type(model[0]) is nn.Linear
    with pytest.raises(ActratioError, match="1 is not a linear layer"):
        sparsify(model, measure(model, [x]), crossover=ALWAYS, also={"1": 0.2})


def test_an_mlp_that_is_never_faster_is_left_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actratio.sparse.conversion.autotune_crossover", lambda *_: NEVER)
    model = sparsify(model_of(Gated), measure(model_of(Gated), [X]))
    assert {(plan.kind, plan.why) for plan in plans(model)} == {
        ("dense", "the dense product is faster on this machine for every batch size")
    }
    assert {type(module) for module in model.modules()} == {type(module) for module in model_of(Gated).modules()}


def test_a_converted_model_keeps_its_thresholds() -> None:
    model = model_of(lambda: Plain(nn.GELU()))
    cut = {f"blocks.{number}": torch.rand(96) for number in range(2)}
    made_sparse(model, thresholds=cut).half().to(torch.bfloat16)
    dense = model_of(lambda: Plain(nn.GELU())).half().to(torch.bfloat16)
    x = X.to(torch.bfloat16)
    with torch.no_grad():
        found, expected = model(x), x
        for number, block in enumerate(dense.blocks):  # type: ignore[arg-type]
            h = block.act(block.up(expected))
            expected = expected + block.down(torch.where(h.abs() <= cut[f"blocks.{number}"], 0, h))
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    with pytest.raises(ActratioError, match="thresholds that are not numbers"):
        made_sparse(model_of(Plain), thresholds={"blocks.0": torch.full((96,), math.nan)})


@pytest.mark.parametrize("shape", [(4, 48), (2, 192), (96, 1)])
def test_an_input_of_another_width_fails_as_in_a_dense_layer(shape: tuple[int, int]) -> None:
    layer = made_sparse(model_of(Plain)).get_submodule("blocks.0.down")
    with torch.no_grad():
        layer(torch.rand(1, 96))
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            layer(torch.rand(*shape))


def test_what_does_not_fit_is_one_sentence() -> None:
    model = model_of(Plain)
    with pytest.raises(ActratioError, match="no site 'nowhere'"):
        sparsify(model, measure(model, [X]), thresholds={"nowhere": torch.zeros(96)})
    with pytest.raises(ActratioError, match="does not say what it reads"):
        sparsify(nn.Linear(2, 2))
    with pytest.raises(ActratioError, match=r"has 96 neurons, and thresholds of the shape \(5,\)"):
        sparsify(model, measure(model, [X]), thresholds={"blocks.0": torch.zeros(5)})
    other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ActratioError, match="a measurement of this model"):
        sparsify(other, measure(model, [X]))


def test_the_crossover_is_measured() -> None:
    model = sparsify(model_of(Plain), measure(model_of(Plain), [X]))
    (first, second) = plans(model)
    assert first.crossover == second.crossover
    assert all(0 <= ratio <= 1 for ratio in first.crossover.ratios)
    with torch.no_grad():
        torch.testing.assert_close(model(X), model_of(Plain)(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["opt", "gpt2", "llama"])
def test_transformers_generate_the_same_tokens(kind: str) -> None:
    import transformers

    torch.manual_seed(0)
    size = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    configs = {
        "opt": lambda: transformers.OPTConfig(**size, ffn_dim=64, word_embed_proj_dim=32, activation_function="relu"),
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=64, n_embd=32, n_layer=2, n_head=4, activation_function="relu"
        ),
        "llama": lambda: transformers.LlamaConfig(**size, intermediate_size=64, hidden_act="relu"),
    }
    model = transformers.AutoModelForCausalLM.from_config(configs[kind]()).eval()
    ids = torch.arange(3, 9).view(1, 6)
    options: Any = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        logits, tokens = model(ids).logits, model.generate(ids, **options)
        actratio.sparsify(model, measure(model, [{"input_ids": ids}]), crossover=ALWAYS)
        torch.testing.assert_close(model(ids).logits, logits, rtol=1e-4, atol=1e-5)
        assert torch.equal(model.generate(ids, **options), tokens)
    assert {plan.kind for plan in plans(model)} == {"gated" if kind == "llama" else "down"}
    densify(model)


def test_a_sparse_model_is_saved_as_any_other(tmp_path: Path) -> None:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        hidden_act="relu",
    )
    model = transformers.LlamaForCausalLM(config).eval()
    ids = torch.arange(3, 9).view(1, 6)
    sparsify(model, measure(model, [{"input_ids": ids}]), crossover=ALWAYS)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
        torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)


# ---- What people do to a sparse model.


@torch.no_grad()
def test_hooks_on_what_a_gated_mlp_skips_are_called() -> None:
    model = made_sparse(model_of(Gated))
    seen: list[str] = []
    for name in ("blocks.0.up", "blocks.1.down"):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _m, _a, out, name=name: seen.append(name) or 2 * out)  # type: ignore[func-returns-value, misc]
    first, second = model.blocks  # type: ignore[misc]
    x = X + first.down(first.act(first.gate(X)) * 2 * F.linear(X, first.up.weight, first.up.bias))
    y = second.act(second.gate(x)) * second.up(x)
    expected = x + 2 * F.linear(y, second.down.weight, second.down.bias)
    seen.clear()
    torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-5)
    assert seen == ["blocks.0.up", "blocks.1.down"]


@torch.no_grad()
def test_a_sparse_model_is_measured_like_a_dense_one() -> None:
    for kind in KINDS:
        dense, fast = measure(model_of(kind), [X]), measure(made_sparse(model_of(kind)), [X])
        assert [row.counts.active.tolist() for row in fast] == [row.counts.active.tolist() for row in dense]


class Adapted(nn.Module):
    """What libraries of adapters put in a layer's place: a module of another class, with the weights of the layer."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + 1
        return out


@pytest.mark.parametrize("name", ["up", "down"])
@torch.no_grad()
def test_layers_that_are_replaced_afterwards_are_called(name: str) -> None:
    model, dense = made_sparse(model_of(Gated)), model_of(Gated)
    for each in (model, dense):
        block = each.get_submodule("blocks.0")
        setattr(block, name, Adapted(block.get_submodule(name)))  # type: ignore[arg-type]
    torch.testing.assert_close(model(X), dense(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_weights_that_are_replaced_one_by_one_are_used(kind: Callable[[], nn.Module]) -> None:
    model, dense = made_sparse(model_of(kind)), model_of(kind)
    model(X)
    for name, _ in dense.named_parameters():
        for each in (model, dense):
            owner, _, last = name.rpartition(".")
            module = each.get_submodule(owner)
            setattr(module, last, nn.Parameter(2 * getattr(module, last).detach()))
        torch.testing.assert_close(model(X), dense(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_under_autocast_results_have_the_dense_model_s_type(kind: Callable[[], nn.Module]) -> None:
    layer = made_sparse(model_of(kind)).get_submodule("blocks.0.down")
    dense = model_of(kind).get_submodule("blocks.0.down")
    hidden = sparse(3, 96, ratio=0.2)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(hidden).dtype == dense(hidden).dtype == torch.bfloat16


@torch.no_grad()
def test_a_weight_may_be_computed_afterwards() -> None:
    model, dense = made_sparse(model_of(Plain)), model_of(Plain)
    for each in (model, dense):
        nn.utils.parametrizations.weight_norm(each.get_submodule("blocks.0.down"))
        each.get_submodule("blocks.0.down").parametrizations.weight.original0.mul_(3)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(model(X), dense(X), rtol=1e-5, atol=1e-5)
    with pytest.raises(ActratioError, match="remove its parametrization"):
        densify(model)
    nn.utils.parametrize.remove_parametrizations(model.get_submodule("blocks.0.down"), "weight")
    densify(model)
    torch.testing.assert_close(model(X), dense(X), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_weights_that_are_not_a_layer_s_own_are_left_alone() -> None:
    model = model_of(Plain)
    nn.utils.spectral_norm(model.get_submodule("blocks.0.down"))
    tied = model.get_submodule("blocks.1")
    tied.down.weight = nn.Parameter(tied.up.weight.t())  # type: ignore[operator, union-attr]
    expected = model.eval()(X)
    made_sparse(model)
    assert [plan.why for plan in plans(model)] == [
        "its weight is computed, as by a parametrization",
        "its weight shares memory with another parameter or another process",
    ]
    torch.testing.assert_close(model(X), expected)
    assert tied.down.weight.data_ptr() == tied.up.weight.data_ptr()  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_weights_that_are_loaded_in_the_place_of_others_are_laid_out_anew(kind: Callable[[], nn.Module]) -> None:
    model, dense = made_sparse(model_of(kind)), model_of(kind)
    dense.blocks[0].down.weight.mul_(2)  # type: ignore[index, union-attr, operator]
    model.load_state_dict({name: each.clone() for name, each in dense.state_dict().items()}, assign=True)
    torch.testing.assert_close(model(X), dense(X), rtol=1e-5, atol=1e-5)
    assert model.get_submodule("blocks.0.down").weight.t().is_contiguous()  # type: ignore[operator, union-attr]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_traced_and_transformed_models_compute_the_same(kind: Callable[[], nn.Module]) -> None:
    model, dense = made_sparse(model_of(kind)).requires_grad_(False), model_of(kind).requires_grad_(False)
    with torch.no_grad():
        model(X)
        traced = torch.jit.trace(model, X)  # type: ignore[no-untyped-call]
        torch.testing.assert_close(traced(2 * X), dense(2 * X), rtol=1e-4, atol=1e-5)
    gradient = torch.func.grad(lambda x: model(x).sum())(X)
    torch.testing.assert_close(gradient, torch.func.grad(lambda x: dense(x).sum())(X), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.vmap(model)(X), dense(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_models_under_autocast_compute_the_same(kind: Callable[[], nn.Module]) -> None:
    model, dense = made_sparse(model_of(kind)), model_of(kind)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        fast = torch.compile(model, backend="aot_eager")
        torch.testing.assert_close(fast(X), dense(X), rtol=0.02, atol=0.02)
    torch._dynamo.reset()


def test_models_of_inference_mode_can_be_trained_and_random_numbers_stay() -> None:
    model = model_of(Gated)
    found = measure(model, [X])
    torch.manual_seed(5)
    with torch.inference_mode():
        sparsify(model, found)
        sparsify(model, found, crossover=ALWAYS)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))
    model(X).sum().backward()
    with torch.inference_mode():
        densify(model)
    model(X).sum().backward()
    with torch.inference_mode():
        sparsify(model, found, crossover=ALWAYS)
    model(X).sum().backward()  # to the gradients that are there


def test_a_model_that_is_moved_away_lets_its_weights_go() -> None:
    model = made_sparse(model_of(Gated))
    with torch.no_grad():
        model(X)
    model.to("meta")
    assert all(vars(module)["_product"] is None for module in model.modules() if "_product" in vars(module))


def test_what_sparsify_refuses_is_left_dense() -> None:
    model = model_of(Gated)
    with pytest.raises(ActratioError, match="nope is not a linear layer"):
        made_sparse(model, also={"nope": 0.5})
    assert {type(module) for module in model.modules()} == {type(module) for module in model_of(Gated).modules()}


def test_compiled_code_does_not_keep_weights_alive() -> None:
    rows = torch.randn(64, 32)
    alive = weakref.ref(rows)
    with torch.no_grad():
        torch.ops.actratio.sparse_down(torch.ones(1, 64), rows, None, None, list(ALWAYS.ratios))
    del rows
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_by_neurons_begin_at_a_large_page(dtype: torch.dtype) -> None:
    rows = rand(700, 900).to(dtype).t()
    laid = neuron_major(rows)
    assert torch.equal(laid, rows)
    assert laid.is_contiguous()
    assert laid.data_ptr() % (1 << 21) == 0


@torch.no_grad()
def test_biases_and_thresholds_that_lie_otherwise_are_read_as_they_are() -> None:
    for name, bias in (("down", torch.rand(16, 2)[:, 0]), ("down", torch.rand(1)), ("up", torch.rand(96, 3)[:, 1])):
        model, dense = made_sparse(model_of(Gated)), model_of(Gated)
        for each in (model, dense):
            each.get_submodule(f"blocks.0.{name}").bias = nn.Parameter(bias)
        torch.testing.assert_close(model(X), dense(X), rtol=1e-5, atol=1e-5)
    cut = {f"blocks.{number}": torch.tensor(0.3).expand(96) for number in range(2)}
    same = {name: limit.clone() for name, limit in cut.items()}
    found, expected = made_sparse(model_of(Plain), thresholds=cut)(X), made_sparse(model_of(Plain), thresholds=same)(X)
    assert torch.equal(found, expected)


@torch.no_grad()
def test_weights_that_lie_otherwise_at_the_same_place_are_read_as_they_are() -> None:
    for kind in (Plain, Gated):
        model, dense = made_sparse(model_of(kind)), model_of(kind)
        model(X)
        hidden = sparse(3, 96, ratio=0.3)
        layer, other = model.get_submodule("blocks.0.down"), dense.get_submodule("blocks.0.down")
        for each in (layer, other):
            each.weight.data, each.bias.data = each.weight.data[:8], each.bias.data[:8]  # type: ignore[union-attr, operator]
        torch.testing.assert_close(layer(hidden), other(hidden), rtol=1e-5, atol=1e-5)
    square = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    made = made_sparse(copy.deepcopy(square))
    made(X)
    for each in (made, square):
        each[2].weight.data = each[2].weight.data.t()  # type: ignore[index]
    torch.testing.assert_close(made(X), square(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["up", "down"])
@torch.no_grad()
def test_forward_functions_that_are_put_in_are_called(name: str) -> None:
    model, dense = made_sparse(model_of(Gated)), model_of(Gated)
    for each in (model, dense):
        layer = each.get_submodule(f"blocks.0.{name}")
        layer.forward = lambda x, old=layer.forward: 2 * old(x)
    torch.testing.assert_close(model(X), dense(X), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_activation_that_changes_the_batch_reads_nothing_else() -> None:
    model, dense = made_sparse(model_of(Gated)), model_of(Gated)
    for each in (model, dense):
        each.get_submodule("blocks.0.act").register_forward_hook(lambda _m, _a, out: out[:1])
    torch.testing.assert_close(model(X), dense(X), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("kind", KINDS)
def test_tangents_of_forward_mode_go_through(kind: Callable[[], nn.Module]) -> None:
    model, dense = made_sparse(model_of(kind)).requires_grad_(False), model_of(kind).requires_grad_(False)
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        x = torch.autograd.forward_ad.make_dual(X, torch.ones_like(X))
        mine, theirs = (torch.autograd.forward_ad.unpack_dual(each(x)).tangent for each in (model, dense))
    assert mine is not None
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_weights_that_are_views_of_a_vector_stay_so() -> None:
    model, dense = made_sparse(model_of(Plain)), model_of(Plain)
    flat = nn.utils.parameters_to_vector(dense.parameters())
    nn.utils.vector_to_parameters(flat, model.parameters())
    model(X)
    nn.utils.vector_to_parameters(flat.clone().mul_(2), dense.parameters())
    flat.mul_(2)
    torch.testing.assert_close(model(X), dense(X), rtol=1e-4, atol=1e-4)


def test_weights_loaded_in_inference_mode_can_be_trained() -> None:
    model = made_sparse(model_of(Plain))
    model.load_state_dict({name: each.clone() for name, each in model_of(Plain).state_dict().items()}, assign=True)
    with torch.inference_mode():
        model(X)
    model(X).sum().backward()


class Named(Gated):
    """With names that others may have thought of."""

    def __init__(self) -> None:
        super().__init__()
        self.kind, self.dense, self.leave = "mlp", nn.Identity(), 1


def test_names_of_others_are_left_to_them() -> None:
    model, dense = made_sparse(model_of(Named)), model_of(Named)
    for each in (model.train(), model.eval(), copy.deepcopy(model), densify(model)):
        torch.testing.assert_close(each(X), dense(X), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_default_device_is_not_the_output_s() -> None:
    model, dense = made_sparse(model_of(Plain)), model_of(Plain)
    model(X)
    with torch.device("meta"):
        found = model(X)
    torch.testing.assert_close(found, dense(X), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_thresholds_of_one_mlp_do_not_cut_another_one() -> None:
    model = model_of(lambda: Plain(nn.GELU()))
    model.get_submodule("blocks.1").down = model.get_submodule("blocks.0").down
    expected = model(X)
    made_sparse(model, thresholds={"blocks.0": torch.full((96,), 0.3)})
    assert {plan.kind for plan in plans(model)} == {"dense"}
    assert torch.equal(model(X), expected)


# ---- Which is faster.


class Timed:
    """A contest of two layers, whose times are made up."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, faster: Callable[[int, float], bool], slower: Callable[[float], bool]) -> None:
        self.faster, self.slower, self.sparse = faster, slower, [nn.Module()]
        vars(self.sparse[0])["_crossover"] = None

    def is_faster(self, draws: list[Tensor]) -> bool:
        return self.faster(len(draws[0]), float((torch.stack(draws) != 0).float().mean()))

    def is_slower(self, draws: list[Tensor]) -> bool:
        crossover: Any = vars(self.sparse[0])["_crossover"]
        return self.slower(crossover.max_active(len(draws[0]), 1000) / (1000 * len(draws[0])))


def crossover_of(
    faster: Callable[[int, float], bool], slower: Callable[[float], bool], ratio: float = 1.0
) -> tuple[float, ...]:
    contest: Any = Timed(faster, slower)
    return autotune_crossover(contest, 1000, ratio).ratios


def test_the_crossover_is_the_largest_ratio_that_is_faster() -> None:
    assert crossover_of(lambda _, ratio: ratio < 0.3, lambda _: False) == (0.25,) * 6
    assert crossover_of(lambda *_: True, lambda _: True) == (1.0,) * 6  # nothing is ever left to the dense product
    assert crossover_of(lambda batch, ratio: ratio < 0.7 / batch, lambda _: False) == (0.5, 0.25, 0.1, 0.03, 0.03, 0.0)


def test_a_layer_that_is_slower_where_it_is_dense_is_left_alone() -> None:
    # Looking what is active costs too much: it is not looked.
    assert crossover_of(lambda batch, ratio: batch == 1 or ratio < 0.3, lambda most: most > 0) == (1.0,) + (0.0,) * 5
    # It is never dense at the ratio that was measured.
    assert crossover_of(lambda _, ratio: ratio < 0.3, lambda _: True, 0.2) == (0.25,) * 6
    # Being dense in another class costs too much: it stays what it was.
    assert crossover_of(lambda batch, ratio: batch == 1, lambda _: True) == NEVER.ratios


@pytest.mark.parametrize("kind", ["down", "gated", "cut"])
def test_dense_and_sparse_layers_are_timed(kind: str) -> None:
    torch.manual_seed(0)
    up = nn.Linear(6, 40) if kind == "gated" else None
    contest = LayerTimer(nn.Linear(40, 6), up, kind == "cut", 2)
    with torch.no_grad():
        dense, fast = contest.times([sparse(3, 40, ratio=0.2)], 3, cold=True)
        assert dense > 0
        assert fast > 0
        hidden = sparse(3, 40, ratio=0.5)
        torch.testing.assert_close(next(contest._sparse)(hidden), next(contest._dense)(hidden))
