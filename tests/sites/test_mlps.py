"""Resolving MLPs: their modules, their weights by neuron, and why one is unsupported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from actratio import ActratioError, find_sites
from actratio.sites.mlps import resolve


def llama(**options: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    size = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**size, **options)).eval()


def test_resolve_gives_the_modules_of_gated_mlps() -> None:
    model = llama()
    for mlp, block in zip(resolve(model), model.model.layers, strict=True):
        assert (mlp.gate, mlp.up, mlp.activation, mlp.down) == (
            block.mlp.gate_proj, block.mlp.up_proj, block.mlp.act_fn, block.mlp.down_proj,
        )  # fmt: skip
        assert mlp.inputs == (mlp.gate, mlp.up)
        assert mlp.unsupported_reason is None
        assert torch.equal(mlp.rows, block.mlp.down_proj.weight.t())
        assert mlp.rows.data_ptr() == block.mlp.down_proj.weight.data_ptr()


def test_resolve_gives_the_modules_of_plain_mlps(tiny_gpt2: Callable[..., Any]) -> None:
    model = tiny_gpt2()
    for mlp, block in zip(resolve(model), model.transformer.h, strict=True):
        assert (mlp.gate, mlp.up, mlp.activation, mlp.down) == (None, block.mlp.c_fc, block.mlp.act, block.mlp.c_proj)
        assert mlp.inputs == (mlp.up,)
        assert mlp.rows.shape == (48, 16)  # a Conv1D's weight is (width, features) already


def test_gated_mlp_that_computes_more_has_no_gate() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.up, self.down, self.act = nn.Linear(4, 12), nn.Linear(4, 12), nn.Linear(12, 4), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = 2 * self.down(self.act(self.gate(x)) * self.up(x))
            return out

    model = Scaled()
    (mlp,) = resolve(model, find_sites(model, torch.randn(3, 4)))
    assert (mlp.gate, mlp.up, mlp.inputs) == (None, None, ())
    assert (mlp.activation, mlp.down) == (model.act, model.down)
    assert mlp.unsupported_reason is None


def test_unsupported_reason_of_experts() -> None:
    import transformers

    config = transformers.MixtralConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, num_local_experts=2,
        num_key_value_heads=4,
    )  # fmt: skip
    mlps = resolve(transformers.MixtralForCausalLM(config).eval())
    assert [mlp.unsupported_reason for mlp in mlps] == ["experts share one weight, which is not supported"] * 2


def test_unsupported_reason_of_a_down_projection_that_is_not_linear() -> None:
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 4))
    sites = find_sites(model, torch.randn(3, 4))
    nn.utils.spectral_norm(model[2])

    class Subclass(nn.Linear):
        pass

    computed = resolve(model, sites)[0]
    assert computed.unsupported_reason == "its weight is computed, as by a parametrization"
    model[2] = Subclass(12, 4)
    assert resolve(model, sites)[0].unsupported_reason == "its down projection is not a linear layer"


def test_unsupported_reason_of_shared_memory() -> None:
    shared = "its weight shares memory with another parameter or another process"
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 4))
    sites = find_sites(model, torch.randn(3, 4))
    assert resolve(model, sites)[0].unsupported_reason is None
    model[2].weight = nn.Parameter(model[0].weight.detach().t())
    assert resolve(model, sites)[0].unsupported_reason == shared
    model[2].weight = nn.Parameter(torch.randn(4, 12).share_memory_())
    assert resolve(model, sites)[0].unsupported_reason == shared


def test_resolve_refuses_sites_of_another_model_and_models_without_mlps() -> None:
    sites = find_sites(llama())
    with pytest.raises(ActratioError, match=r"has no site model\.layers\.0\.mlp; give a measurement of this model"):
        resolve(nn.Sequential(nn.Linear(2, 2)), sites)
    with pytest.raises(ActratioError, match="Linear has no MLP"):
        resolve(nn.Linear(2, 2), [])
    with pytest.raises(ActratioError, match="does not say what it reads"):
        resolve(nn.Linear(2, 2))
