"""Models with int8 weights compute what models with the dequantised weights do, and are saved as they are."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.pytorch_utils import Conv1D

from actratio import ActratioError, find_sites, measure
from actratio.models.source import INT8_FILE
from actratio.sites.linear import rows_of
from actratio.sparse import autotune, calibrate, conversion, densify, load_sparse, plans, sparsify
from actratio.sparse.converted import is_marked, mark_weights
from actratio.sparse.crossover import ALWAYS, NEVER, Crossover
from actratio.sparse.int8 import Int8Linear, install_int8
from actratio.sparse.kernels.int8_weights import MAX_BATCH
from actratio.sparse.planning import int8_unsupported_reason
from actratio.sparse.saved import save_sparse
from actratio.sparse.saved_int8 import int8_layers, load_int8, save_int8
from actratio.sparse.zeros import measure_zeros
from tests.sparse.calibration_text import token_batches
from tests.sparse.models import Gated, Plain, X, dense_model, sparse_model

KINDS: list[Callable[[], nn.Module]] = [Plain, Gated]


@pytest.fixture(autouse=True)
def _small_weights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "_SMALLEST", 1)


def converted(kind: Callable[[], nn.Module], crossover: Crossover = ALWAYS) -> nn.Module:
    return sparse_model(dense_model(kind), weights="int8", crossover=crossover)


def dequantized(kind: Callable[[], nn.Module]) -> nn.Module:
    """Return the dense model with the rounded weights."""
    return densify(converted(kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("crossover", [ALWAYS, NEVER])
@pytest.mark.parametrize("x", [X, X[0, 0], X.transpose(0, 1), X[:0], X.repeat(40, 1, 1)])
@torch.no_grad()
def test_int8_model_matches_the_rounded_dense_model(
    kind: Callable[[], nn.Module], crossover: Crossover, x: Tensor
) -> None:
    model = converted(kind, crossover)
    assert all(type(module).__name__ == "Int8Linear" for module in model.modules() if isinstance(module, nn.Linear))
    torch.testing.assert_close(model(x), dequantized(kind)(x), rtol=1e-5, atol=1e-5)
    if x.numel():
        error = (model(x) - dense_model(kind)(x)).abs().max() / x.abs().max()
        assert 0 < error < 0.02
    assert len(X.repeat(40, 1, 1).flatten(0, 1)) > MAX_BATCH  # so both products are compared


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_int8_model_keeps_its_scales_in_other_dtypes(kind: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    model, x = converted(kind).to(dtype), X.to(dtype)
    assert all(layer.weight_scale.dtype == torch.float32 for layer in int8_layers(model).values())
    torch.testing.assert_close(model(x), dequantized(kind).to(dtype)(x), rtol=0.03, atol=0.03)
    back = model.float()
    torch.testing.assert_close(back(X), dequantized(kind)(X), rtol=0.02, atol=0.02)  # biases were rounded


@pytest.mark.parametrize("kind", KINDS)
def test_int8_model_passes_gradients_on(kind: Callable[[], nn.Module]) -> None:
    results = []
    for model in (converted(kind), dequantized(kind)):
        x = X.clone().requires_grad_()
        model(x).square().sum().backward()
        results.append(x.grad)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_int8_weights_with_thresholds() -> None:
    def kind() -> nn.Module:
        return Plain(nn.GELU())

    thresholds = {f"blocks.{number}": torch.full((96,), 0.1) for number in range(2)}
    model = sparse_model(dense_model(kind), thresholds=thresholds, weights="int8")
    rounded = densify(copy.deepcopy(model))
    for x in (X, X.repeat(40, 1, 1)):
        expected = x
        for block in rounded.blocks:  # type: ignore[union-attr]
            h = block.act(block.up(expected))
            expected = expected + block.down(torch.where(h.abs() <= 0.1, 0, h))
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    assert {item.kind for item in plans(model)} == {"down"}


@torch.no_grad()
def test_copies_and_pickles_stay_int8(tmp_path: Path) -> None:
    model = converted(Gated)
    torch.save(model, tmp_path / "model.pt")
    for other in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        assert torch.equal(other(X), model(X))
        assert len(int8_layers(other)) == 6
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for layer in int8_layers(model).values():
        layer.weight.data.zero_()
    assert not torch.equal(model(X), other(X))
    model.load_state_dict(state)
    assert torch.equal(model(X), other(X))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_float_weights_are_rounded_when_they_are_loaded(kind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(5)
    other = kind().eval()
    layers = other.state_dict()
    model = converted(kind)
    block = model.get_submodule("blocks.0")
    block.load_state_dict(layers)
    expected = densify(sparse_model(other, weights="int8"))
    torch.testing.assert_close(block(X), expected(X), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_weight_that_is_put_in_place_is_used_as_it_is() -> None:
    model = converted(Plain)
    for name in ("up", "down"):
        layer = model.get_submodule(f"blocks.0.{name}")
        layer.weight = nn.Parameter(torch.ones(layer.weight.shape))
        x = torch.randn(3, layer.weight.shape[1])
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_scales_that_are_put_in_place_are_used(kind: Callable[[], nn.Module]) -> None:
    model = converted(kind)
    model(X)
    for layer in int8_layers(model).values():
        layer.weight_scale = 2 * layer.weight_scale
    found = model(X)
    torch.testing.assert_close(found, densify(model)(X), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_densify_keeps_a_weight_that_was_put_in_place() -> None:
    for kind in KINDS:
        model = converted(kind)
        layer = model.get_submodule("blocks.0.down")
        layer.weight = nn.Parameter(torch.randn(16, 96))
        expected, weight = model(X), layer.weight.clone()
        densify(model)
        assert torch.equal(layer.weight, weight)
        torch.testing.assert_close(model(X), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_inputs_of_integers_fail_like_those_of_a_dense_layer() -> None:
    layer = nn.Linear(16, 96, bias=False)
    install_int8(layer)
    for dtype in (torch.int8, torch.int64):
        with pytest.raises(RuntimeError, match="dtype"):
            layer(torch.ones(2, 16, dtype=dtype))


@torch.no_grad()
def test_a_head_takes_the_scales_of_an_embedding_that_is_loaded_and_tied_again() -> None:
    model, other, ids = tied_llama(), tied_llama(), torch.tensor([[1, 2, 7]])
    for parameter in other.parameters():
        parameter.data *= 1.5
    sparsify(model, weights="int8", crossover=ALWAYS)
    model(ids)
    state = {name: value for name, value in other.state_dict().items() if name != "lm_head.weight"}
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    expected = densify(sparsify(other, weights="int8", crossover=ALWAYS))(ids).logits
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [lambda: nn.Linear(20, 16), lambda: Conv1D(16, 20)])
@pytest.mark.parametrize("by_neurons", [True, False])
@torch.no_grad()
def test_weights_are_the_same_by_neurons_and_by_outputs(kind: Callable[[], nn.Module], by_neurons: bool) -> None:
    """An output that is much larger than the others doesn't make them coarse."""
    layer: Any = kind()
    rows_of(layer)[:, 3] *= 1000
    other, expected, x = copy.deepcopy(layer), layer(torch.eye(20)), torch.randn(5, 20)
    install_int8(layer, by_neurons=by_neurons)
    install_int8(other, by_neurons=not by_neurons)
    assert layer.weight_scale.shape == (16,)
    assert torch.equal(layer.weight, other.weight)
    found = layer(torch.eye(20))
    assert bool(((found - expected).abs() <= 0.501 * layer.weight_scale).all())
    torch.testing.assert_close(layer(x), other(x), rtol=1e-5, atol=1e-4)
    layer.weight_scale *= 2
    other.load_state_dict(layer.state_dict())
    for rows in (1, 5, MAX_BATCH + 5):
        x = torch.randn(rows, 20)
        for same in (other, copy.deepcopy(other)):
            torch.testing.assert_close(same(x), layer(x), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("kind", [lambda: nn.Linear(20, 16), lambda: Conv1D(16, 20)])
@pytest.mark.parametrize("by_neurons", [True, False])
@pytest.mark.parametrize("int8", [True, False])
@torch.no_grad()
def test_weights_that_are_assigned_are_stored_as_the_kernel_reads_them(
    kind: Callable[[], nn.Module], by_neurons: bool, int8: bool
) -> None:
    """Whatever their layout was, and whether they are int8 already."""
    layer, other, x = kind(), kind(), torch.randn(3, 20)
    install_int8(layer, by_neurons=by_neurons)
    if int8:
        install_int8(other, by_neurons=not by_neurons)
    expected = other(x)
    layer.load_state_dict(other.state_dict(), assign=True)
    assert is_stored(layer, by_neurons)  # before the first call: compiled code can't do it
    torch.testing.assert_close(layer(x), expected, rtol=0.05, atol=0.05)
    state: Any = layer
    assert state._product is not None
    layer.weight = nn.Parameter(layer.weight.detach().t().contiguous().t(), requires_grad=False)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), expected, rtol=0.05, atol=0.05)
    assert is_stored(layer, by_neurons)
    assert not layer.weight.is_inference()


def is_stored(layer: nn.Module, by_neurons: bool) -> bool:
    """Return whether an int8 weight is stored in the order in which its kernel reads it."""
    return (rows_of(layer) if by_neurons else rows_of(layer).t()).is_contiguous()


@torch.no_grad()
def test_a_weight_in_memory_that_others_use_stays_there() -> None:
    layer, memory = nn.Linear(20, 16), torch.ones(40, 32, dtype=torch.int8)
    install_int8(layer)
    view = memory[:20, :16].t()
    layer.weight = nn.Parameter(view, requires_grad=False)
    x = torch.randn(3, 20)
    expected = x.sum(-1, keepdim=True) * layer.weight_scale + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert layer.weight.data_ptr() == memory.data_ptr()


@pytest.mark.parametrize("speed", [2.0, 0.5])
@torch.no_grad()
def test_another_layer_gets_int8_weights_whether_skipping_pays_off_or_not(
    speed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[bool] = []

    def speeds(self: autotune.LayerTimer, draws: list[Tensor]) -> list[float]:
        timed.append(self.key["int8"])
        return [speed] * (len(self.forms) - 1)

    monkeypatch.setattr(autotune, "cached_speeds", lambda key: None)
    monkeypatch.setattr(autotune, "keep_speeds", lambda key, speeds: None)
    monkeypatch.setattr(autotune.LayerTimer, "speeds", speeds)
    model = sparse_model(dense_model(Plain), weights="int8", crossover=None, also={"blocks.0.up": 0.2})
    assert int8_layers(model)["blocks.0.up"]._by_neurons == (speed > 1)
    assert all(timed)


def test_models_that_share_a_configuration_are_marked_apart(tiny_gpt2: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_gpt2("relu")
    config = model.config
    other = type(model)(config)
    sparsify(model, weights="int8", crossover=ALWAYS)
    assert is_marked(model.config)
    assert not is_marked(config)
    holders = [module for module in model.modules() if "config" in vars(module)]
    assert len(holders) > 2
    assert all(module.config is model.config for module in holders)
    other.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_a_configuration_inside_another_one_stays_shared() -> None:
    import transformers

    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    wrapper = nn.Sequential(transformers.BertModel(config).eval())
    wrapper.config = transformers.EncoderDecoderConfig(encoder=config.to_dict(), decoder=config.to_dict())
    wrapper.config.encoder = config
    mark_weights(wrapper, "int8")
    assert wrapper.config.encoder is wrapper[0].config
    assert wrapper[0].config is wrapper[0].encoder.layer[0].attention.self.config is not config
    assert not is_marked(config)


def test_models_inside_another_one_are_marked_too() -> None:
    import transformers

    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, hidden_act="relu"
    )  # fmt: skip
    wrapper = nn.Sequential(transformers.BertModel(config).eval())
    install_int8(wrapper[0].encoder.layer[0].output.dense)
    mark_weights(wrapper, "int8")
    assert is_marked(wrapper[0].config)
    densify(wrapper)
    assert not is_marked(wrapper[0].config)


def test_transformers_refuses_what_save_pretrained_writes(tmp_path: Path, tiny_gpt2: Callable[..., Any]) -> None:
    import transformers

    model = tiny_gpt2("relu")
    sparsify(model, weights="int8", crossover=ALWAYS)
    model.save_pretrained(tmp_path / "int8")
    with pytest.raises(ValueError, match="quant_method"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "int8")
    densify(model).save_pretrained(tmp_path / "rounded")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "rounded").eval()
    (batch,) = token_batches(1)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_a_quarter_of_the_bytes_is_left() -> None:
    before = sum(tensor.nbytes for tensor in dense_model(lambda: Gated(512)).state_dict().values())
    after = sum(tensor.nbytes for tensor in converted(lambda: Gated(512)).state_dict().values())
    assert 0.25 < after / before < 0.45  # the model is narrow: one scale for 16 weights


def test_small_weights_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "_SMALLEST", 16 * 96 + 1)
    assert {type(module) for module in converted(Plain).modules() if isinstance(module, Int8Linear)} == {
        type(converted(Plain).get_submodule("blocks.0.down"))
    }


def test_unknown_weights_are_refused() -> None:
    model = dense_model(Plain)
    with pytest.raises(ActratioError, match="weights='int4' is not known; use 'int8'"):
        sparsify(model, weights="int4")
    assert int8_unsupported_reason(torch.device("cpu")) is None
    assert int8_unsupported_reason(torch.device("meta")) == "there is no kernel for int8 weights on meta"


def test_a_model_with_weights_that_are_not_finite_stays_as_it_is() -> None:
    model = dense_model(Plain)
    model.get_submodule("blocks.1.down").weight.data[3, 5] = torch.nan  # type: ignore[operator, union-attr, index]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ActratioError, match=r"the weight of blocks\.1\.down has numbers that are not finite"):
        sparse_model(model, weights="int8")
    assert not int8_layers(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(9.0), before[name].nan_to_num(9.0))


@pytest.mark.parametrize("dense", [False, True])
@torch.no_grad()
def test_torch_reads_the_weights_of_its_encoder_layers_as_they_are(dense: bool) -> None:
    """In evaluation mode, ``nn.TransformerEncoderLayer`` gives the weights to a function of its own."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 48, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(16, 20)).eval()
    expected = model[0](X)
    sparsify(model, measure(model, [X], criteria=["nonzero"]), weights="int8", dense=dense, crossover=ALWAYS)
    assert list(int8_layers(model)) == ["1"]
    torch.testing.assert_close(model[0](X), expected)
    for layer in model[0].layers:
        layer.norm2.register_forward_hook(lambda *_: None)  # torch then calls the layers one by one
    torch.testing.assert_close(model[0](X), expected)


def test_encoder_layers_of_torch_cannot_have_thresholds() -> None:
    """They would be ignored in evaluation mode and applied in training."""
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 48, batch_first=True), 1).eval()
    measurement = measure(model, [X], criteria=["nonzero"])
    with pytest.raises(ActratioError, match=r"layers\.0 cannot have thresholds: torch multiplies by the weights"):
        sparsify(model, measurement, thresholds={"layers.0": torch.ones(48)}, crossover=ALWAYS)
    assert {type(module) for module in model.modules() if isinstance(module, nn.Linear)} == {
        nn.Linear,
        nn.modules.linear.NonDynamicallyQuantizableLinear,
    }


class Tied(nn.Module):
    """Two layers that share one weight, one of them a down projection."""

    def __init__(self, down_first: bool) -> None:
        super().__init__()
        names = ["down", "other"] if down_first else ["other", "down"]
        for name in names:
            self.add_module(name, nn.Linear(96, 16))
        self.up, self.act, self.back = nn.Linear(16, 96), nn.ReLU(), nn.Linear(16, 96)
        self.other.weight = self.down.weight

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.down(self.act(self.up(x)))
        out: Tensor = self.other(self.back(x))
        return out


@pytest.mark.parametrize("down_first", [True, False])
@pytest.mark.parametrize("also", [None, {"other": 0.5}])
@torch.no_grad()
def test_layers_that_share_a_weight_keep_it(down_first: bool, also: dict[str, float] | None) -> None:
    torch.manual_seed(0)
    model = Tied(down_first).eval()
    before = model.down.weight.clone()
    sparsify(model, measure(model, [X], criteria=["nonzero"]), weights="int8", crossover=ALWAYS, also=also)
    assert set(int8_layers(model)) == {"up", "back"}
    assert [item.kind for item in plans(model)] == ["down"]
    rounded = copy.deepcopy(model)
    densify(rounded)
    torch.testing.assert_close(model(X), rounded(X), rtol=1e-5, atol=1e-5)
    assert rounded.down.weight is rounded.other.weight
    assert torch.equal(rounded.down.weight, before)


def tied_llama() -> Any:
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        hidden_act="relu", tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@torch.no_grad()
def test_an_embedding_shares_the_int8_weight_of_the_head() -> None:
    model, ids = tied_llama(), torch.tensor([[1, 2, 7]])
    before = sum(parameter.nbytes for parameter in model.parameters())
    sparsify(model, weights="int8", crossover=ALWAYS)
    assert model.model.embed_tokens.weight is model.lm_head.weight
    assert sum(parameter.nbytes for parameter in model.parameters()) < 0.27 * before
    logits = model(ids).logits
    assert len(model.generate(ids, max_new_tokens=3, min_new_tokens=3, do_sample=False)[0]) == 6
    assert model.bfloat16()(ids).logits.dtype == torch.bfloat16
    model.float()
    copied = copy.deepcopy(model)
    for other in (copied, model):
        densify(other)
        assert type(other.model.embed_tokens) is nn.Embedding
        assert other.model.embed_tokens.weight is other.lm_head.weight
        torch.testing.assert_close(other(ids).logits, logits, rtol=0.02, atol=0.02)  # norms were rounded


@torch.no_grad()
def test_a_shared_embedding_is_saved_once(tmp_path: Path) -> None:
    model, ids = tied_llama(), torch.tensor([[1, 2, 7]])
    thresholds = {"model.layers.0.mlp": torch.full((64,), 0.01)}
    sparsify(model, thresholds=thresholds, weights="int8", crossover=ALWAYS)
    save_int8(tmp_path, model)
    names = load_file(tmp_path / INT8_FILE)
    assert "lm_head.weight" in names
    assert "model.embed_tokens.weight" not in names
    loaded = load_int8(tmp_path, device="cpu", crossover=ALWAYS)
    assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.fixture
def saved(tmp_path: Path, tiny_gpt2: Callable[..., Any]) -> tuple[Path, nn.Module]:
    """Return the folder of a saved int8 model, and the model."""
    model = tiny_gpt2()
    calibration = calibrate(model, token_batches(8), ratio=0.4)
    sparsify(model, calibration, weights="int8", crossover=ALWAYS)
    save_sparse(tmp_path / "int8", model, None, calibration, {}, weights="int8")
    return tmp_path / "int8", model


@torch.no_grad()
def test_saved_int8_model_is_loaded_as_it_was(saved: tuple[Path, nn.Module]) -> None:
    folder, model = saved
    loaded = load_sparse(folder, device="cpu", crossover=ALWAYS)
    assert not loaded.training
    for name, layer in int8_layers(model).items():
        other = loaded.get_submodule(name)
        assert torch.equal(other.weight, layer.weight)
        assert torch.equal(other.weight_scale, layer.weight_scale)
        assert (other._thresholds is None) == (layer._thresholds is None)
        assert layer._thresholds is None or torch.equal(other._thresholds, layer._thresholds)
    (batch,) = token_batches(1)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    in_bfloat16 = load_sparse(folder, device="cpu", dtype="bfloat16", crossover=ALWAYS)
    torch.testing.assert_close(in_bfloat16(**batch).logits.float(), model(**batch).logits, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("saved_by_neurons", [True, False])
@torch.no_grad()
def test_int8_weights_are_loaded_where_other_products_are_faster(
    saved_by_neurons: bool, tmp_path: Path, tiny_gpt2: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine decides for itself whether skipping zeros pays off; the weights stay the same."""
    monkeypatch.setattr(autotune, "cached_speeds", lambda key: None)
    monkeypatch.setattr(autotune, "keep_speeds", lambda key, speeds: None)

    def let_skipping_pay_off(pays_off: bool) -> None:
        speed = 2.0 if pays_off else 0.5
        monkeypatch.setattr(autotune.LayerTimer, "speeds", lambda self, draws: [speed] * (len(self.forms) - 1))

    model = tiny_gpt2("relu")
    zeros = measure_zeros(model, token_batches(8))
    let_skipping_pay_off(saved_by_neurons)
    sparsify(model, zeros, weights="int8")
    save_sparse(tmp_path / "int8", model, None, zeros, {}, weights="int8")
    let_skipping_pay_off(not saved_by_neurons)
    loaded = load_sparse(tmp_path / "int8", device="cpu")
    assert {item.kind for item in plans(model)} != {item.kind for item in plans(loaded)}
    for name, layer in int8_layers(model).items():
        other = loaded.get_submodule(name)
        assert other._by_neurons == (layer._by_neurons != ("mlp.c_proj" in name))
        assert torch.equal(other.weight, layer.weight)
        assert torch.equal(other.weight_scale, layer.weight_scale)
    (batch,) = token_batches(1)
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, rtol=1e-4, atol=1e-4)


def test_transformers_does_not_read_int8_weights_as_something_else(saved: tuple[Path, nn.Module]) -> None:
    import transformers

    with pytest.raises(ValueError, match="quant_method"):
        transformers.AutoModelForCausalLM.from_pretrained(saved[0])


@pytest.mark.parametrize(
    "damage",
    [
        "cut", "no metadata", "a float weight", "scales of another axis", "scales of another axis of a square", "missing scales",
        "scales of neurons",
    ],
)  # fmt: skip
def test_damaged_int8_weights_are_refused(saved: tuple[Path, nn.Module], damage: str) -> None:
    path = saved[0] / INT8_FILE
    tensors = load_file(path)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    name = "transformer.h.0.mlp.c_proj"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "no metadata":
        save_file(tensors, path)
    elif damage == "a float weight":
        save_file({**tensors, f"{name}.weight": tensors[f"{name}.weight"].float()}, path, metadata)
    elif damage.startswith("scales of another axis"):
        axes = json.loads(metadata["axes"])
        name = "transformer.h.0.attn.c_proj" if "square" in damage else name
        save_file(tensors, path, {**metadata, "axes": json.dumps({**axes, name: 1 - axes[name]})})
    else:
        scales = tensors.pop(f"{name}.weight_scale")
        if damage == "scales of neurons":
            tensors[f"{name}.neuron_scale"] = scales
        save_file(tensors, path, metadata)
    why = "an earlier version of actratio wrote it" if damage == "scales of neurons" else ""
    with pytest.raises(ActratioError, match=rf"int8\.safetensors cannot be read \({why}"):
        load_sparse(saved[0], device="cpu")


@torch.no_grad()
def test_measurement_of_an_int8_model_counts_what_it_computes() -> None:
    for kind in KINDS:
        found, expected = measure(converted(kind), [X]), measure(dequantized(kind), [X])
        assert [row.counts.active.tolist() for row in found] == [row.counts.active.tolist() for row in expected]


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "llama"])
def test_sites_of_an_int8_model_are_those_of_the_dense_model(
    model_type: str, tiny_causal_lm: Callable[[str], Any]
) -> None:
    model = tiny_causal_lm(model_type).eval()
    sites = find_sites(model, sites="*")
    batch = {"input_ids": torch.arange(20)[None]}
    sparsify(model, weights="int8", crossover=ALWAYS)
    assert any(name.endswith(("c_fc", "fc1", "up_proj")) for name in int8_layers(model))
    assert find_sites(model, sites="*") == sites
    found = measure(model, [batch])
    with pytest.raises(ActratioError, match=r"is quantised, and the criterion contribution\(τ\) needs the norms"):
        measure(model, [batch], criteria=["contribution(0.1)"])
    expected = measure(densify(model), [batch])
    assert [row.site for row in found] == [row.site for row in expected]
    for row, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            row.counts.active, other.counts.active, rtol=0, atol=1
        )  # sums are rounded differently
