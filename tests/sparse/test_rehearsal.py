"""Forward passes in which other products stand in for the model's own."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actratio import measure, predict_speed
from actratio.sites.linear import is_linear
from actratio.sites.mlps import resolve
from actratio.sparse import autotune, conversion, layer_times, rehearsal, sparsify
from actratio.sparse.converted import Converted
from actratio.sparse.crossover import ALWAYS
from actratio.sparse.rehearsal import Rehearsal, RehearsedPasses, StandIn
from actratio.sparse.timing import ForwardPasses
from tests.sparse.calibration_text import token_batches
from tests.sparse.test_gated_gates import gemma

TinyGPT2 = Callable[..., Any]


def set_relu(llama: Any) -> None:
    for block in llama.model.layers:
        block.mlp.act_fn = nn.ReLU()


def noted_stand_ins(monkeypatch: pytest.MonkeyPatch) -> list[StandIn]:
    """Return a list to which predictions from now on add their stand-ins."""
    made: list[StandIn] = []

    class Noted(Rehearsal):
        def __init__(self, model: nn.Module, stand_ins: list[StandIn], *arguments: Any, **options: Any) -> None:
            made.extend(stand_ins)
            super().__init__(model, stand_ins, *arguments, **options)

    monkeypatch.setattr(layer_times, "Rehearsal", Noted)
    return made


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


def test_a_product_may_read_what_was_computed_before_it() -> None:
    stand_in = StandIn(nn.Identity(), "", cycle([lambda x: 2 * x]), before=lambda x: x + 1)
    assert stand_in(torch.ones(1)) == 4


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (6,), (1, 4), (5, 1), (0,), (1, 0)])
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
    own = vars(layers[0])["forward"] = layers[0].forward  # as some libraries do it
    with pytest.raises(KeyboardInterrupt), passes.in_a_row(1):  # noqa: PT012
        passes.seconds()
        raise KeyboardInterrupt
    assert vars(layers[0]).pop("forward") == own
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
    timed = Rehearsal(model, [StandIn(layer, "", products) for layer in layers], 1)
    times = timed.run(0.0, 2)
    count = len(layers)
    assert times.dense_seconds == 8 * count + 1
    assert times.gain == (8 * count + 1) / (2 * count + 1)
    assert times.parts == dict.fromkeys(layers, 3.0)
    with monkeypatch.context() as patch:
        patch.setattr(RehearsedPasses, "parts", lambda self: pytest.fail("the parts are timed again"))
        assert timed.run(0.0, 2) == times


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
        set_relu(model)
    measurement = measure(model, [{"input_ids": torch.arange(20)[None]}], criteria=["nonzero"])
    converted = sparsify(copy.deepcopy(model), measurement, dense=weights is None, weights=weights)
    expected = {name for name, module in converted.named_modules() if isinstance(module, Converted)}
    expected = {name for name in expected if not name.endswith("embed_tokens")}  # shares its weight with the head
    projections = {name for name in expected if name.rpartition(".")[2] in ("up_proj", "down_proj")}
    names = {id(module): name for name, module in model.named_modules()}
    made = noted_stand_ins(monkeypatch)
    predict_speed(model, measurement, dense=weights is None, weights=weights)
    replaced = [names[id(stand_in.module)] for stand_in in made]
    assert len(replaced) == len(set(replaced))
    assert set(replaced) | (projections if kind != "plain" else set()) >= expected
    assert set(replaced) <= expected
    computed: Counter[str] = Counter()
    for stand_in, name in zip(made, replaced, strict=True):
        products = stand_in._products
        stand_in._products = iter(lambda name=name, products=products: counted(computed, name, next(products)), None)
    called: list[str] = []
    for name, module in model.named_modules():
        if name.endswith("gate_proj") or name in projections - set(replaced):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    passes = RehearsedPasses(model, made, 1)
    called.clear()
    with passes.in_a_row(1):
        passes.seconds()
    # Gemma 3n calls these layers twice.
    assert computed == Counter(replaced) + Counter(name for name in replaced if name.endswith("modality_router"))
    mlps = [name for name, _ in model.named_modules() if name.endswith("mlp")]
    assert sorted(called) == ([] if kind == "plain" else sorted(f"{name}.gate_proj" for name in mlps))


def counted(computed: Counter[str], name: str, product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def compute(x: Tensor) -> Tensor:
        computed[name] += 1
        return product(x)

    return compute


@pytest.mark.parametrize("weights", [None, "int8"])
@pytest.mark.parametrize("kind", ["plain", "gated", "thresholds"])
def test_stand_ins_of_mlps_compute_the_product_of_made_up_activations(
    kind: str, weights: str | None, tiny_causal_lm: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune.LayerTimer, "speeds", lambda self, draws: [2.0] * (len(self.forms) - 1))
    monkeypatch.setattr(autotune, "cached_speeds", lambda key: None)
    model = tiny_causal_lm("llama" if kind == "gated" else "opt").eval()
    if kind == "gated":
        set_relu(model)
    texts = [{"input_ids": torch.arange(20)[None]}]
    measured: Any = measure(model, texts, criteria=["nonzero"])
    thresholds = None
    if kind == "thresholds":
        thresholds = {row.site.name: torch.full((row.site.width,), 0.01) for row in measured}
    made = noted_stand_ins(monkeypatch)
    predict_speed(model, measured, [3], thresholds=thresholds, weights=weights)
    mlp = resolve(model)[0]
    stand_in = next(stand_in for stand_in in made if stand_in._inputs is not None)
    draws = [next(stand_in._inputs) for _ in range(8)]  # type: ignore[arg-type]
    out = stand_in(torch.zeros(3, 1, mlp.gate.in_features if kind == "gated" else mlp.site.width))
    hidden = draws[0] * mlp.up(torch.ones(3, 1, mlp.up.in_features)) if kind == "gated" else draws[0]
    expected = mlp.down(hidden)
    assert 0 < float((draws[0] != 0).float().mean()) < 1
    torch.testing.assert_close(out, expected, atol=0.03 if weights else 1e-5, rtol=0.03 if weights else 1e-5)
    with torch.no_grad():
        assert all(draw.shape == (3, 1, mlp.site.width) for draw in draws)


@pytest.mark.parametrize(("kind", "prompt", "made_up"), [("plain", 32, 2), ("plain", 33, 0), ("gated", 33, 2)])
def test_long_calls_get_made_up_activations_if_they_may_skip(
    kind: str, prompt: int, made_up: int, tiny_causal_lm: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above 32 tokens, a layer with int8 weights reads all of them; a gated MLP may still skip neurons."""
    monkeypatch.setattr(autotune.LayerTimer, "speeds", lambda self, draws: [2.0] * (len(self.forms) - 1))
    monkeypatch.setattr(autotune, "cached_speeds", lambda key: None)
    model = tiny_causal_lm("llama" if kind == "gated" else "opt").eval()
    if kind == "gated":
        set_relu(model)
    measurement = measure(model, [{"input_ids": torch.arange(20)[None]}], criteria=["nonzero"])
    made = noted_stand_ins(monkeypatch)
    predict_speed(model, measurement, weights="int8", prompt=prompt)
    assert sum(stand_in._inputs is not None for stand_in in made) == made_up


def test_layers_that_stay_dense_get_the_faster_dense_product(
    tiny_gpt2: TinyGPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Skipping doesn't pay off, the other dense product does."""
    monkeypatch.setattr(
        autotune.LayerTimer,
        "speeds",
        lambda self, draws: [0.5 if "dense" in self.forms else 2.0] * (len(self.forms) - 1),
    )
    monkeypatch.setattr(autotune, "cached_speeds", lambda key: None)
    monkeypatch.setattr(autotune, "keep_speeds", lambda key, speeds: None)
    model = tiny_gpt2("relu").eval()
    measurement = measure(model, token_batches(), criteria=["nonzero"])
    converted = sparsify(copy.deepcopy(model), measurement, dense=True)
    expected = {name for name, module in converted.named_modules() if isinstance(module, Converted)}
    assert any(name.endswith("mlp.c_proj") for name in expected)
    made = noted_stand_ins(monkeypatch)
    predict_speed(model, measurement, dense=True)
    names = {id(module): name for name, module in model.named_modules()}
    assert {names[id(stand_in.module)] for stand_in in made} == expected


@pytest.mark.parametrize(("reads", "draws"), [(1, 8), (1 << 10, 4), (1 << 13, 1)])
def test_long_prompts_have_fewer_made_up_inputs(reads: int, draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are held in memory at once."""
    times: Any = layer_times.ModelTimes()
    products: Any = layer_times.MLPProducts.__new__(layer_times.MLPProducts)
    products._times = times
    timer: Any = autotune.linear_timer(nn.Linear(1024, 4), 1)
    monkeypatch.setattr(layer_times, "random_activations", lambda *arguments: [torch.zeros(1)] * arguments[-1])
    assert len(products._draws(timer, 1024, reads, 0.1, 0.2)) == draws


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
