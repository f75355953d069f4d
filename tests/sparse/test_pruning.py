"""Dead neurons are taken out, and the model computes the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from actratio import ActratioError, measure
from actratio.sparse import prune
from actratio.sparse.saved import check_folder
from tests.cli.test_measure import words
from tests.sparse.test_speed import made, run


def tiny(kind: str) -> Any:
    import transformers

    torch.manual_seed(0)
    size = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    configs: dict[str, Any] = {
        "opt": lambda: transformers.OPTConfig(**size, ffn_dim=64, word_embed_proj_dim=32, activation_function="relu"),
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=64, n_embd=32, n_layer=2, n_head=4, activation_function="relu"
        ),
        "llama": lambda: transformers.LlamaConfig(**size, intermediate_size=64, hidden_act="relu", mlp_bias=True),
    }
    return transformers.AutoModelForCausalLM.from_config(configs[kind]()).eval()


def silence(model: Any, number: int) -> None:
    """Let the first neurons of each layer, one more in the second, never fire."""
    for layer, block in enumerate(_ups(model)):
        count = number + layer
        weight = block.weight.data if isinstance(block, nn.Linear) else block.weight.data.t()
        weight[:count] = 0
        block.bias.data[:count] = -1


def _ups(model: Any) -> list[Any]:
    return [
        module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in ("fc1", "gate_proj") or name.endswith("mlp.c_fc")
    ]


IDS = {"input_ids": torch.arange(3, 11).view(1, 8)}


@pytest.mark.parametrize("kind", ["opt", "gpt2", "llama"])
def test_a_smaller_model_computes_the_same_and_loads_with_transformers(kind: str, tmp_path: Path) -> None:
    import transformers

    model = tiny(kind)
    silence(model, 5)
    with torch.no_grad():
        wanted = model(**IDS).logits
    found = measure(model, [IDS])
    dead = [int(row.counts.dead) for row in found if row.tensor == "activation"]
    done = prune(model, found, [IDS])
    before = done[0].before
    assert [each.dead for each in done] == dead
    assert all(each.certain == 5 + layer for layer, each in enumerate(done))
    assert {each.width for each in done} == {before - min(dead)}
    with torch.no_grad():
        torch.testing.assert_close(model(**IDS).logits, wanted, rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**IDS).logits, wanted, rtol=1e-4, atol=1e-5)
    assert sum(each.numel() for each in again.parameters()) == sum(each.numel() for each in model.parameters())


def encoder_decoder(kind: str) -> Any:
    import transformers

    torch.manual_seed(0)
    both = {
        f"{part}_{name}": value
        for part in ("encoder", "decoder")
        for name, value in (("layers", 2), ("attention_heads", 4))
    }
    size: Any = {"vocab_size": 64, "d_model": 32, "max_position_embeddings": 64, "activation_function": "relu", **both}
    if kind == "bart":
        config: Any = transformers.BartConfig(**size, encoder_ffn_dim=64, decoder_ffn_dim=48)
        return transformers.BartForConditionalGeneration(config).eval()
    if kind == "neo":
        config = transformers.GPTNeoConfig(
            vocab_size=64, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global"], 2]], activation_function="relu"
        )  # fmt: skip
        return transformers.GPTNeoForCausalLM(config).eval()
    if kind == "composite":
        parts = [
            transformers.BertConfig(
                vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, hidden_act="relu",
                **({"is_decoder": True, "add_cross_attention": True} if decodes else {}),
            )
            for decodes in (False, True)
        ]  # fmt: skip
        return transformers.EncoderDecoderModel(
            transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*parts)
        ).eval()
    config = transformers.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
    model = transformers.BloomForCausalLM(config).eval()
    for block in model.transformer.h:
        block.mlp.gelu_impl = nn.ReLU()
    return model


@pytest.mark.parametrize("kind", ["bart", "neo", "composite"])
def test_each_width_of_a_configuration_follows(kind: str, tmp_path: Path) -> None:
    model = encoder_decoder(kind)
    for name, module in model.named_modules():
        if name.endswith(("fc1", "mlp.c_fc", "intermediate.dense")):
            module.weight.data[:5] = 0
            module.bias.data[:5] = -1
    inputs = dict(IDS) if kind == "neo" else {**IDS, "decoder_input_ids": IDS["input_ids"]}
    with torch.no_grad():
        wanted = model(**inputs).logits
    done = prune(model, measure(model, [inputs]))  # those that cannot fire
    assert all(each.certain == 5 and each.width == each.before - 5 for each in done)
    assert len(done) == (2 if kind == "neo" else 4)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, wanted, rtol=1e-4, atol=1e-5)


def test_a_configuration_that_cannot_say_it_is_refused() -> None:
    model = encoder_decoder("bloom")
    for block in model.transformer.h:
        block.mlp.dense_h_to_4h.weight.data[:5] = 0
        block.mlp.dense_h_to_4h.bias.data[:5] = -1
    shapes = [each.shape for each in model.parameters()]
    with pytest.raises(ActratioError, match="would not load again"):
        prune(model, measure(model, [IDS]))
    assert [each.shape for each in model.parameters()] == shapes


def test_mlps_that_were_not_measured_keep_the_width_of_all(tmp_path: Path) -> None:
    model = tiny("opt")
    silence(model, 5)
    found = measure(model, [IDS], sites="model.decoder.layers.0*")
    assert [each.width for each in prune(model, found, [IDS])] == [64]
    assert model.config.ffn_dim == 64


def test_without_a_check_those_that_cannot_fire_go_alone() -> None:
    model = tiny("llama")
    silence(model, 3)
    done = prune(model, measure(model, [IDS]))
    assert any(each.dead > each.certain for each in done)
    assert {each.width for each in done} == {61}


def test_neurons_that_fire_elsewhere_put_the_model_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
    found = measure(model, [torch.tensor([[1.0, -1.0]])])
    other = torch.tensor([[-1.0, 1.0]])
    wanted = model(other)
    with pytest.raises(ActratioError, match="some fire there"):
        prune(model, found, [other])
    assert torch.equal(model(other), wanted)
    assert model[0].out_features == 2
    (done,) = prune(model, found, [torch.tensor([[2.0, -1.0]])])
    assert (done.before, done.width, done.dead, done.certain) == (2, 1, 1, 0)
    assert model[0].weight.shape == (1, 2)
    assert model[2].weight.shape == (1, 1)


def test_a_model_without_zeros_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 1))
    assert prune(model, measure(model, [torch.rand(3, 2)]), [torch.rand(3, 2)]) == []


def test_the_command_writes_a_smaller_model(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    config = transformers.OPTConfig(
        vocab_size=30522, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=64, word_embed_proj_dim=16,
        activation_function="relu", max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.OPTForCausalLM(config).eval()
    command = [
        "prune",
        tmp_path / "model",
        "--tokenizer",
        words(),
        "--text",
        text,
        "--length",
        16,
        "--out",
        tmp_path / "out",
    ]
    model.save_pretrained(tmp_path / "model")
    silence(model, 5)
    model.save_pretrained(tmp_path / "model")
    assert run(monkeypatch, *command, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    least = min(row["dead"] for row in said["rows"])
    assert [row["certain"] for row in said["rows"]] == [5, 6]
    assert all(row["width"] == 64 - least for row in said["rows"])
    smaller = transformers.AutoModelForCausalLM.from_pretrained(said["path"]).eval()
    assert sum(each.numel() for each in smaller.parameters()) == said["settings"]["parameters"]
    with torch.no_grad():
        torch.testing.assert_close(smaller(**IDS).logits, model(**IDS).logits, rtol=1e-4, atol=1e-5)
    assert run(monkeypatch, *command) == 0  # again, over what was there
    assert "parameters became" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    assert run(monkeypatch, *command[:-1], tmp_path / "other") == 2
    assert "holds something else" in capsys.readouterr().err
    assert run(monkeypatch, *command, "--length", 500) == 2
    assert "and 4 are needed" in " ".join(capsys.readouterr().err.split())


def test_a_model_whose_neurons_all_fire_is_told_so(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made().save_pretrained(tmp_path / "model")  # of GELU
    command = [
        "prune",
        tmp_path / "model",
        "--tokenizer",
        words(),
        "--text",
        text,
        "--length",
        16,
        "--out",
        tmp_path / "out",
    ]
    assert run(monkeypatch, *command) == 0
    assert "no neuron can be removed" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "out").exists()


def test_a_refusal_leaves_the_configuration_too() -> None:
    model = tiny("opt")
    for up in _ups(model):
        up.weight.data.mul_(50)
        up.bias.data.fill_(-1)
    found = measure(model, [IDS])
    other = {"input_ids": torch.arange(11, 63).view(1, 52)}
    with torch.no_grad():
        wanted = model(**other).logits
    with pytest.raises(ActratioError, match="some fire there"):
        prune(model, found, [other])
    assert model.config.ffn_dim == 64
    with torch.no_grad():
        assert torch.equal(model(**other).logits, wanted)


def test_those_that_can_fire_stay_rather_than_those_that_cannot() -> None:
    model = tiny("opt")
    first, second = _ups(model)
    for up, number in ((first, 7), (second, 0)):
        up.bias.data.fill_(1)
        up.bias.data[number] = -1
        up.weight.data[number] = 0
    first.bias.data[3] = -1  # did not fire, and could
    done = prune(model, measure(model, [IDS]), [IDS])
    assert [(each.dead, each.certain, each.width) for each in done] == [(2, 1, 63), (1, 1, 63)]
    assert first.bias.tolist() == [1.0] * 3 + [-1.0] + [1.0] * 59
    assert bool(first.weight.any(1).all())


class Odd(nn.Module):
    """An MLP whose hidden state is read, or made, by more than its own layers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.up, self.act, self.down = kind, nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 4)
        self.other = nn.LayerNorm(12) if kind == "norm" else nn.Linear(12, 4)
        self.second = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.act(self.up(x))
        if self.kind == "norm":
            h = self.other(h)
        out: torch.Tensor = x + self.down(h)
        if self.kind == "two readers":
            out = out + self.other(h)
        if self.kind == "two MLPs":
            out = out + self.second(self.act(self.up(out)))
        return out


@pytest.mark.parametrize("kind", ["norm", "two readers", "two MLPs"])
def test_a_model_that_fails_without_them_is_as_it_was(kind: str) -> None:
    torch.manual_seed(0)
    model = Odd(kind)
    model.up.weight.data[3:6] = 0
    model.up.bias.data[3:6] = -1
    x = torch.randn(3, 4)
    found = measure(model, [x])
    with torch.no_grad():
        wanted = model(x)
    with pytest.raises(ActratioError, match="it is as it was"):
        prune(model, found, [x])
    with torch.no_grad():
        assert torch.equal(model(x), wanted)


def test_a_refusal_leaves_mlps_in_a_row() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 2))
    found, other = measure(model, [torch.randn(1, 4)]), torch.randn(50, 4)
    with torch.no_grad():
        wanted = model(other)
    with pytest.raises(ActratioError, match="some fire there"):
        prune(model, found, [other])
    with torch.no_grad():
        assert torch.equal(model(other), wanted)


def test_a_model_without_a_check_says_what_it_reads_or_is_refused() -> None:
    model = Odd("")
    model.up.weight.data[3:6] = 0
    model.up.bias.data[3:6] = -1
    with pytest.raises(ActratioError, match="does not say what it reads"):
        prune(model, measure(model, [torch.randn(3, 4)]))


def test_a_place_that_cannot_be_written_is_refused_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "real")
    for place in (tmp_path / "file" / "x", tmp_path / "link", Path(".")):
        with pytest.raises(ActratioError, match="choose a"):
            check_folder(place, "pruned.json")
