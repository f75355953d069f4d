"""Dead neurons are taken out, and the model computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from actratio import ActratioError, measure
from actratio.sparse import prune


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
    (done,) = prune(model, found)
    assert (done.before, done.width, done.dead, done.certain) == (2, 1, 1, 0)
    assert model[0].weight.shape == (1, 2)
    assert model[2].weight.shape == (1, 1)


def test_a_model_that_needs_all_of_its_neurons_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 1))
    with pytest.raises(ActratioError, match="no neuron can be removed"):
        prune(model, measure(model, [torch.rand(3, 2)]))
