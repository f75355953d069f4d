"""Audits of small models from transformers whose answer is known. Only the clock is set: a machine's noise decides nothing here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actratio.auditing import Audit, audit
from actratio.sparse import conversion, layer_times
from actratio.sparse.autotune import LayerTimer
from actratio.sparse.contention import CPUWait
from actratio.sparse.converted import Converted
from actratio.sparse.rehearsal import RehearsalTimes, StandIn
from actratio.sparse.timing import PassTimes
from actratio.statistics.estimate import Estimate
from tests.auditing.speedups import set_speedups

HIDDEN, WIDTH, LAYERS, VOCABULARY = 32, 128, 2, 64
SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS}


def batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(VOCABULARY, (2, 16), generator=generator)} for _ in range(8)]


def opt() -> Any:
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    config = OPTConfig(
        **SIZES, ffn_dim=WIDTH, num_attention_heads=4, max_position_embeddings=64, word_embed_proj_dim=HIDDEN
    )
    return OPTForCausalLM(config).eval()


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, intermediate_size=WIDTH, num_attention_heads=4)).eval()


def mixture(function: str = "relu") -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        **SIZES, intermediate_size=WIDTH, num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
        num_experts_per_tok=2, hidden_act=function,
    )  # fmt: skip
    return MixtralForCausalLM(config).eval()


def plant(model: Any, always: int, never: int) -> None:
    """Let the first neurons of each MLP fire on every token, and the last ones on none."""
    for layer in model.model.decoder.layers:
        layer.fc1.bias.data[:always] = 100.0
        layer.fc1.bias.data[WIDTH - never :] = -100.0


def set_clock(monkeypatch: pytest.MonkeyPatch, gain: float) -> None:
    """Let other products be ``gain`` times as fast as dense ones, which take all of a forward pass."""

    class Rehearsal:
        def __init__(self, model: nn.Module, stand_ins: Sequence[StandIn], *_: Any, **options: Any) -> None:
            self.modules = [stand_in.module for stand_in in stand_ins]

        def run(self, seconds: float, least: int) -> RehearsalTimes:
            return RehearsalTimes(gain, 1.0, dict.fromkeys(self.modules, 1 / len(self.modules) / gain))

    def times(timer: LayerTimer, draws: Sequence[Tensor], rounds: int, **kinds: Any) -> list[float]:
        return [1.0, *(1 / gain for _ in list(timer.forms)[1:])]

    def parts(model: nn.Module, modules: Sequence[nn.Module], batch: int, **options: Any) -> PassTimes:
        return PassTimes(1.0, dict.fromkeys(modules, 1 / len(modules)), 0.0)

    def speedup(dense: nn.Module, other: nn.Module, batch: int, **options: Any) -> Estimate:
        is_faster = any(isinstance(module, Converted) for module in other.modules())
        return Estimate(gain, gain - 0.01, gain + 0.01) if is_faster else Estimate(1.0, 0.99, 1.01)

    monkeypatch.setattr(LayerTimer, "times", times)
    monkeypatch.setattr(LayerTimer, "speeds", lambda self, draws: [gain] * (len(self.forms) - 1))
    monkeypatch.setattr(layer_times, "time_in_forward_pass", parts)
    monkeypatch.setattr(layer_times, "Rehearsal", Rehearsal)
    set_speedups(monkeypatch, speedup)
    monkeypatch.setattr(CPUWait, "share", lambda self: 0.0)


def exact_way(found: Audit) -> Any:
    (way,) = [way for way in found.ways if way.exact]
    return way


def test_planted_zeros_are_counted_and_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the neurons always fires, and the others never do."""
    set_clock(monkeypatch, 3.0)
    model = opt()
    always = 13
    plant(model, always, WIDTH - always)
    found = audit(model, batches())
    assert found.figures["nonzero_ratio"] == pytest.approx(always / WIDTH)
    assert found.figures["dead_ratio"] == pytest.approx(1 - always / WIDTH)
    assert [layer.dead for layer in found.layers] == [WIDTH - always] * LAYERS
    way = exact_way(found)
    assert (way.options, way.computed) == ("--target zeros --dense", pytest.approx(always / WIDTH))
    assert way.main.measured == Estimate(3.0, 2.99, 3.01)
    assert found.decision.way == way
    assert found.decision.sentences[0].startswith("Do this: skip zeros")


def test_model_without_zeros_has_nothing_exact_to_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, 1.0)
    found = audit(llama(), batches())
    assert found.figures["nonzero_ratio"] > 0.999
    assert found.figures["dead_ratio"] == 0
    assert (exact_way(found).name, exact_way(found).computed) == ("faster dense products", 1.0)
    assert not any("zeros" in way.name for way in found.ways)


def test_model_in_the_caches_stays_dense_although_it_has_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading fewer weights saves no time there, so every product takes as long as the dense one."""
    set_clock(monkeypatch, 1.0)
    monkeypatch.setattr(conversion, "_SMALLEST", 1)  # so that 8-bit weights are tried too
    model = opt()
    plant(model, 13, WIDTH - 13)
    found = audit(model, batches())
    assert found.decision.way is None
    assert found.figures["speedup"] == 1.0
    (sentence,) = found.decision.sentences
    assert sentence.startswith("Keep it dense: none of the ways tried is 1.1 times as fast.")
    assert all(way.main.expected == pytest.approx(1.0) for way in found.ways if way.command == "sparsify")


def test_dead_neurons_are_counted_in_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, 1.0)
    model = opt()
    for number, layer in enumerate(model.model.decoder.layers):
        layer.fc1.weight.data.zero_()
        layer.fc1.bias.data.fill_(1.0)
        layer.fc1.bias.data[: 10 + number] = -1.0
    found = audit(model, batches())
    assert [layer.dead for layer in found.layers] == [10, 11]
    assert found.figures["dead_ratio"] == 21 / (2 * WIDTH)
    assert found.figures["nonzero_ratio"] == pytest.approx(1 - 21 / (2 * WIDTH))
    (way,) = [way for way in found.ways if way.command == "prune"]
    assert way.name == "remove 20 dead neurons"  # the configuration has one width for both
    assert way.computed == 1 - 20 / (2 * WIDTH)


def test_experts_of_a_mixture_are_counted_by_the_tokens_that_reach_them(monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, 2.0)
    model = mixture()
    for layer in model.model.layers:
        layer.mlp.experts.gate_up_proj.data[:, :13] = 0.0  # of each expert, these gates are zero for any token
    found = audit(model, batches())
    experts = [layer for layer in found.layers if "experts" in layer.site]
    assert len(experts) == 4 * LAYERS
    assert all(layer.dead >= 13 for layer in experts)
    assert all(layer.nonzero is not None and 0 < layer.nonzero <= 1 - 13 / WIDTH for layer in experts)
    assert exact_way(found).options == "--target zeros --dense"
    assert found.decision.way == exact_way(found)
    assert found.tokens == 4 * 2 * 16  # of all tokens, not only those that reached one expert
    assert any("The MLPs cannot have thresholds: experts share one weight" in note for note in found.notes)


def test_experts_that_no_token_reached_are_no_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """With SiLU there are no zeros but those of gates that are zero."""
    set_clock(monkeypatch, 1.0)
    model = mixture("silu")
    for layer in model.model.layers:
        layer.mlp.gate.weight.data.zero_()  # the same two experts get all tokens
        layer.mlp.experts.gate_up_proj.data[:, :13] = 0.0
    found = audit(model, batches())
    experts = [layer for layer in found.layers if "experts" in layer.site]
    assert [layer.tokens for layer in experts].count(0) == len(experts) / 2
    assert all((layer.nonzero is None) == (layer.tokens == 0) for layer in experts)
    assert found.figures["nonzero_ratio"] == pytest.approx(1 - 13 / WIDTH, abs=0.001)
    assert found.figures["dead_ratio"] == 13 / WIDTH
