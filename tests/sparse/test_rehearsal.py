"""Forward passes in which other products stand in for the model's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actratio import measure, predict_speed
from actratio.sites.linear import is_linear
from actratio.sparse import autotune, conversion, layer_times, rehearsal, sparsify
from actratio.sparse.converted import Converted
from actratio.sparse.crossover import ALWAYS
from actratio.sparse.rehearsal import Rehearsal, RehearsedPasses, StandIn
from actratio.sparse.timing import ForwardPasses
from tests.sparse.calibration_text import token_batches
from tests.sparse.test_gated_gates import gemma

TinyGPT2 = Callable[..., Any]


def test_a_stand_in_computes_its_products_in_turn() -> None:
    products = cycle([lambda x: 2 * x, lambda x: 3 * x])
    first, second = (StandIn(nn.Identity(), "", products) for _ in range(2))
    x = torch.ones(1, 1, 4)
    assert [float(stand_in(x).mean()) for stand_in in (first, second, first)] == [2.0, 3.0, 2.0]


def test_a_stand_in_may_have_inputs_of_its_own() -> None:
    """What comes before the product gets the module's input, and its result isn't used."""
    seen: list[Tensor] = []
    inputs = [torch.full((2, 1, 4), 5.0), torch.full((2, 1, 4), 7.0)]
    stand_in = StandIn(nn.Identity(), "", cycle([lambda x: x]), cycle(inputs), lambda x: seen.append(x) or x)
    x = torch.ones(2, 1, 3)
    assert torch.equal(stand_in(x), inputs[0])
    assert torch.equal(stand_in(x), inputs[1])
    assert all(tensor is x for tensor in seen)
    assert len(seen) == 2


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (6,), (1, 4), (5, 1)])
def test_inputs_get_the_shape_that_the_module_is_called_with(shape: tuple[int, ...]) -> None:
    """An expert gets another number of tokens in every pass."""
    stand_in = StandIn(nn.Identity(), "", cycle([lambda x: x]), cycle([torch.arange(8.0).view(2, 1, 4)]))
    out = stand_in(torch.zeros(*shape, 3))
    assert out.shape == (*shape, 4)
    rows = out.reshape(-1, 4)
    assert all(torch.equal(row, torch.arange(4.0) + 4 * (number % 2)) for number, row in enumerate(rows))


def test_products_are_in_place_only_while_passes_are_timed(tiny_gpt2: TinyGPT2) -> None:
    """The context in the KV cache is read by the model itself."""
    model = tiny_gpt2("relu").eval()
    layers = [module for module in model.modules() if is_linear(module)]
    called: list[int] = []

    def product(layer: Any, x: Tensor) -> Tensor:
        called.append(x.shape[1])
        return type(layer).forward(layer, x)

    ids = torch.arange(6)[None]
    before = model(ids).logits
    stand_ins = [StandIn(layer, "", cycle([lambda x, layer=layer: product(layer, x)])) for layer in layers]
    passes = RehearsedPasses(model, stand_ins, 1)
    passes.seconds()
    assert not called
    for _ in range(7):  # the context is read again after 16 steps
        with passes.in_a_row(3):
            for _ in range(3):
                passes.seconds()
    assert called == [1] * len(called)
    assert len(called) == 21 * len(layers)
    assert not any("forward" in vars(module) for module in model.modules())
    with pytest.raises(KeyboardInterrupt), passes.in_a_row(1):  # noqa: PT012
        passes.seconds()
        raise KeyboardInterrupt
    assert not any("forward" in vars(module) for module in model.modules())
    assert torch.equal(model(ids).logits, before)


def test_other_products_are_timed_in_turns_with_those_of_the_model(
    tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A linear layer takes 8 seconds, what stands in for it 2, and a look at the clock 1."""
    model = tiny_gpt2("relu").eval()
    layers = [module for module in model.modules() if is_linear(module)]
    now = 0.0

    def look() -> float:
        nonlocal now
        now += 1
        return now

    def slow(seconds: float, forward: Callable[..., Tensor], *arguments: Any) -> Tensor:
        nonlocal now
        now += seconds
        return forward(*arguments)

    products = cycle([lambda x, layer=layer: slow(2, type(layer).__base__.forward, layer, x) for layer in layers])
    for layer in layers:
        forward = type(layer).forward
        layer.__class__ = type("Slow", (type(layer),), {"forward": lambda self, x, f=forward: slow(8, f, self, x)})
    monkeypatch.setattr(rehearsal.time, "perf_counter", look)
    times = Rehearsal(model, [StandIn(layer, "", products) for layer in layers], 1).run(0.0, 2)
    count = len(layers)
    assert times.dense_seconds == 8 * count + 1
    assert times.gain == (8 * count + 1) / (2 * count + 1)
    assert times.parts == dict.fromkeys(layers, 3.0)


@pytest.mark.parametrize("weights", [None, "int8"])
@pytest.mark.parametrize("kind", ["plain", "gated", "own gate"])
def test_all_products_that_would_change_are_stood_in_for(
    kind: str, weights: str | None, tiny_causal_lm: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pass, each of them is computed once; the gates of gated MLPs are computed as well."""
    monkeypatch.setattr(conversion, "_SMALLEST", 1)
    monkeypatch.setattr(autotune.LayerTimer, "speeds", lambda self, draws: [2.0] * (len(self.forms) - 1))
    monkeypatch.setattr(autotune, "cached_speeds", lambda key: None)
    model = gemma() if kind == "own gate" else tiny_causal_lm("opt" if kind == "plain" else "llama").eval()
    if kind == "gated":
        for block in model.model.layers:
            block.mlp.act_fn = nn.ReLU()
    measurement = measure(model, [{"input_ids": torch.arange(20)[None]}], criteria=["nonzero"])
    converted = sparsify(copy.deepcopy(model), measurement, dense=weights is None, weights=weights)
    expected = {name for name, module in converted.named_modules() if isinstance(module, Converted)}
    expected = {name for name in expected if not name.endswith("embed_tokens")}  # shares its weight with the head
    projections = {name for name in expected if name.rpartition(".")[2] in ("up_proj", "down_proj")}
    names = {id(module): name for name, module in model.named_modules()}
    made: list[StandIn] = []

    class Noted(Rehearsal):
        def __init__(self, model: nn.Module, stand_ins: list[StandIn], *arguments: Any, **options: Any) -> None:
            made.extend(stand_ins)
            super().__init__(model, stand_ins, *arguments, **options)

    monkeypatch.setattr(layer_times, "Rehearsal", Noted)
    predict_speed(model, measurement, dense=weights is None, weights=weights)
    replaced = [names[id(stand_in.module)] for stand_in in made]
    assert len(replaced) == len(set(replaced))
    assert set(replaced) | (projections if kind != "plain" else set()) >= expected
    assert set(replaced) <= expected
    passes = RehearsedPasses(model, made, 1)
    called: list[str] = []
    for module in model.modules():
        if id(module) in names:
            module.register_forward_hook(lambda module, *_: called.append(names[id(module)]))
    with passes.in_a_row(1):
        passes.seconds()
    assert {name for name in called if name in set(replaced)} == set(replaced)
    if kind != "plain":
        assert not {name for name in called if name.endswith(("up_proj", "down_proj"))} & projections
        assert {name for name in called if name.endswith("gate_proj")} >= {
            f"{name}.gate_proj" for name in replaced if name.endswith("mlp")
        }


def test_a_rehearsal_computes_what_the_converted_model_does(tiny_gpt2: TinyGPT2) -> None:
    """With the products of the converted model itself."""
    model = tiny_gpt2("relu").eval()
    measurement = measure(model, token_batches(), criteria=["nonzero"])
    converted = sparsify(copy.deepcopy(model), measurement, crossover=ALWAYS, dense=True)
    changed = [(model.get_submodule(name), module) for name, module in converted.named_modules() if is_linear(module)]
    stand_ins = [StandIn(module, "", cycle([other.forward])) for module, other in changed]
    logits: list[Tensor] = []
    for some in (model, converted):
        some.register_forward_hook(lambda module, inputs, out: logits.append(out.logits))
    options: dict[str, Any] = {"prompt": 5, "text": torch.arange(30)}
    for passes in (RehearsedPasses(model, stand_ins, 2, **options), ForwardPasses(converted, 2, **options)):
        with passes.in_a_row(1):
            passes.seconds()
    rehearsed, real = logits
    torch.testing.assert_close(rehearsed, real)
    assert all(module.__dict__["_product"] is not None for _, module in changed)
