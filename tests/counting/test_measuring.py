"""Measuring: against counts made without our finder and hooks, on hand-made modules and tiny models of transformers'."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from actratio import ActratioError, Measurement, Probe, find_sites, load, measure
from actratio.counting.counts import SiteCounts
from actratio.counting.criteria import Positive
from actratio.counting.kernels.reference import count
from actratio.errors import SiteError
from actratio.sites.parts import SEQUENCES, TOKENS
from tests.sites.test_find import Blocks, D, ParallelExperts
from tests.test_models import tiny

IDS = torch.tensor([[0, 0, 0, 5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16, 17, 18, 19]])
LEFT = (IDS > 0).long()
BATCH = {"input_ids": IDS, "attention_mask": LEFT}


def same(a: SiteCounts, b: SiteCounts) -> bool:
    """Alike in all that a kernel counts; the rest comes from the forward pass."""
    names = SiteCounts.kernel_fields(co_activation=True)
    pairs = [(getattr(a, name), getattr(b, name)) for name in names]
    return all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in pairs)


def recorded(model: nn.Module, module: str, batch: dict[str, Tensor], *, inputs: bool = False) -> Tensor:
    """What one module gives (or reads) in a forward pass, by a plain hook."""
    found: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        found.append((args[0] if inputs else output).clone())

    handle = model.get_submodule(module).register_forward_hook(hook)
    with torch.no_grad():
        model.eval()(**batch)
    handle.remove()
    (one,) = found
    return one


def kept(x: Tensor, mask: Tensor) -> tuple[Tensor, list[int], Tensor]:
    """Rows that are no padding, how many each sequence has, and which are first."""
    first = mask.bool() & (mask.cumsum(1) == 1)
    return x.reshape(*mask.shape, -1)[mask.bool()], mask.sum(1).tolist(), first[mask.bool()]


@pytest.mark.parametrize("side", ["left", "right", "none"])
@pytest.mark.parametrize(
    ("kind", "site", "act", "down"),
    [
        ("gpt2", "transformer.h.1.mlp", "transformer.h.1.mlp.act", "transformer.h.1.mlp.c_proj"),
        ("llama", "model.layers.1.mlp", "model.layers.1.mlp.act_fn", "model.layers.1.mlp.down_proj"),
        ("opt", "model.decoder.layers.1", "model.decoder.layers.1.activation_fn", "model.decoder.layers.1.fc2"),
        ("phi3", "model.layers.0.mlp", "model.layers.0.mlp.activation_fn", "model.layers.0.mlp.down_proj"),
    ],
)
def test_padding_is_never_counted(kind: str, site: str, act: str, down: str, side: str) -> None:
    model = tiny(kind)
    mask = {"left": LEFT, "right": LEFT.flip(1), "none": torch.ones_like(LEFT)}[side]
    batch = {"input_ids": IDS, "attention_mask": mask}
    found = measure(model, [batch])
    x, lengths, first = kept(recorded(model, act, batch), mask)
    assert same(found.counts(site), count(x > 0, lengths, first))
    if kind in ("llama", "phi3"):
        h, _, _ = kept(recorded(model, down, batch, inputs=True), mask)
        assert same(found.counts(site, "hidden"), count(h > 0, lengths, first))


def test_functional_gated_mlps_are_counted() -> None:
    model = tiny("lfm2")
    mlp = model.model.layers[1].feed_forward
    x = recorded(model, "model.layers.1.feed_forward.w1", BATCH, inputs=True)
    a = F.silu(mlp.w1(x))
    found = measure(model, [BATCH])
    for tensor, values in (("activation", a), ("hidden", a * mlp.w3(x))):
        rows, lengths, first = kept(values, LEFT)
        assert same(found.counts("model.layers.1.feed_forward", tensor), count(rows > 0, lengths, first))


def by_hand(model: Any, batch: dict[str, Tensor], layer: int) -> dict[int, Tensor]:
    """h of every expert for the tokens that are routed to it and are no padding, recomputed from a Mixtral's weights."""
    block = model.model.layers[layer].mlp
    x = recorded(model, f"model.layers.{layer}.mlp.gate", batch, inputs=True).reshape(-1, block.experts.hidden_dim)
    scores = F.linear(x, block.gate.weight).softmax(-1)
    chosen = scores.topk(block.gate.top_k).indices
    real = batch["attention_mask"].bool().flatten()
    found = {}
    for expert in range(len(block.experts.down_proj)):
        mine = x[(chosen == expert).any(-1) & real]
        gate, up = F.linear(mine, block.experts.gate_up_proj[expert]).chunk(2, -1)
        found[expert] = F.silu(gate) * up
    return found


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_experts_count_the_tokens_that_are_routed_to_them(implementation: str) -> None:
    model = tiny("mixtral")
    model.set_experts_implementation(implementation)
    found = measure(model, [BATCH])
    tokens = 0
    for layer in range(2):
        for expert, h in by_hand(model, BATCH, layer).items():
            counts = found.counts(f"model.layers.{layer}.mlp.experts.{expert}", "hidden")
            assert counts.passed == int(LEFT.sum())  # routed to it or not, without padding
            assert counts.tokens == len(h)
            assert torch.equal(counts.active, (h > 0).sum(0))
            tokens += len(h)
    assert tokens == 2 * 2 * int(LEFT.sum())  # layers, experts a token


def test_experts_have_the_same_counts_in_every_implementation() -> None:
    model = tiny("gpt_oss")
    tables = []
    for implementation in ("eager", "batched_mm", "grouped_mm"):
        model.set_experts_implementation(implementation)
        tables.append(measure(model, [BATCH]))
    for mine, second, third in zip(*(table.rows for table in tables), strict=True):
        assert same(mine.counts, second.counts)
        assert same(mine.counts, third.counts)


def test_experts_with_tokens_split_and_joined_again() -> None:
    torch.manual_seed(0)
    model = Blocks(ParallelExperts())
    experts = model.layers[0]
    assert isinstance(experts, ParallelExperts)
    x = torch.randn(2, 4, D)
    found = measure(model, [x])
    best = (torch.arange(8) * 7) % 3
    for number in range(4):
        gate, up = F.linear(x.view(-1, D)[best == number], experts.both[number]).chunk(2, -1)
        for tensor, values in (("activation", F.silu(gate)), ("hidden", F.silu(gate) * up)):
            counts = found.counts(f"layers.0.{number}", tensor)
            assert counts.tokens == len(values)
            assert torch.equal(counts.active, (values > 0).sum(0))


def test_tokens_not_routed_to_an_expert_are_not_counted() -> None:
    """An implementation that runs all experts on all tokens, those not routed scaled by zero."""
    found = measure(tiny("llama4_text"), [BATCH])
    tokens = [found.counts(f"model.layers.0.feed_forward.experts.{expert}").tokens for expert in range(4)]
    assert sum(tokens) == int(LEFT.sum())  # one expert a token
    ratios = [
        float(row.counts.activation_ratio) for row in found if row.site.role == "expert" and row.counts.tokens > 3
    ]
    assert min(ratios) > 0.3


class MLP(nn.Module):
    """ReLU between two linear layers whose numbers are known."""

    def __init__(self, function: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.up, self.down, self.function = nn.Linear(2, 3), nn.Linear(3, 2), function
        self.up.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
        self.up.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.function(self.up(x)))


X = torch.tensor([[1.0, 2.0], [1.0, -2.0], [-1.0, -1.0]])  # activations 1 2 0, 1 0 1, 0 0 2


@pytest.mark.parametrize(
    "function",
    [F.relu, nn.ReLU(), nn.ReLU(inplace=True), torch.relu_, lambda x: x.clamp_(min=0), lambda x: torch.relu(x).mul_(2)],
)
def test_measure_golden_case(function: Callable[[Tensor], Tensor]) -> None:
    found = measure(MLP(function), [X])
    (row,) = found.rows
    assert row.counts.tokens == 3
    assert row.counts.active.tolist() == [2, 1, 2]
    assert row.counts.first_tokens is None  # examples, no sequences
    frame = found.to_frame()
    assert frame["activation_ratio"].item() == pytest.approx(5 / 9)
    assert frame["active_mean"].item() == pytest.approx(5 / 3)


def test_an_activation_multiplied_in_place_is_counted_before() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.up, self.down = (nn.Linear(2, 2) for _ in range(3))
            self.gate.weight.data, self.up.weight.data = torch.eye(2), -torch.eye(2)
            for linear in (self.gate, self.up):
                linear.bias.data.zero_()

        def forward(self, x: Tensor) -> Tensor:
            return self.down(F.relu(self.gate(x)).mul_(self.up(x)))

    found = measure(Gated(), [torch.tensor([[1.0, 1.0]])])
    assert found.counts(found.rows[0].site.name).active.tolist() == [1, 1]
    assert found.counts(found.rows[0].site.name, "hidden").active.tolist() == [0, 0]  # 1 · −1


def test_measure_several_criteria_in_one_pass() -> None:
    model = MLP()
    model.down.weight.data = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.0, 3.0]])  # norms 1, 0.5, 3
    found = measure(model, [X], criteria=["positive", "nonzero", "above(2)", "contribution(2)"])
    active = {row.criterion: row.counts.active.tolist() for row in found}
    assert active == {"positive": [2, 1, 2], "nonzero": [2, 1, 2], "above(2)": [0, 1, 1], "contribution(2)": [0, 0, 2]}


def test_measure_batches_of_different_sizes_and_pairs() -> None:
    whole = measure(MLP(), [X])
    parts = measure(MLP(), [(X[:2], torch.tensor([0, 1])), (X[2:], torch.tensor([1]))])
    assert torch.equal(whole.rows[0].counts.active, parts.rows[0].counts.active)
    assert parts.rows[0].counts.tokens == 3


def test_merge_save_and_load_give_the_whole(tmp_path: Path) -> None:
    model = tiny("mixtral")
    one = {"input_ids": IDS[:1], "attention_mask": LEFT[:1]}
    two = {"input_ids": IDS[1:], "attention_mask": LEFT[1:]}
    whole = measure(model, [one, two])
    measure(model, [two]).save(tmp_path / "b")
    merged = load(tmp_path / "b") | measure(model, [one])
    for mine, theirs in zip(whole.rows, merged.rows, strict=True):
        assert same(mine.counts, theirs.counts)
    for key, magnitudes in whole.magnitudes.items():
        assert torch.equal(magnitudes.counts, merged.magnitudes[key].counts)


def test_merge_refuses_different_models() -> None:
    with pytest.raises(ActratioError, match="do not merge"):
        measure(tiny("gpt2"), [BATCH]).merge(measure(tiny("llama"), [BATCH]))


def test_load_refuses_a_damaged_measurement(tmp_path: Path) -> None:
    measure(MLP(), [X]).save(tmp_path / "m")
    (tmp_path / "m" / "neurons.safetensors").write_bytes(b"nothing")
    with pytest.raises(ActratioError, match="is damaged"):
        load(tmp_path / "m")
    with pytest.raises(ActratioError, match="holds no measurement"):
        load(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(ActratioError, match="something else"):
        measure(MLP(), [X]).save(tmp_path / "other")


def test_measure_leaves_the_model_unchanged() -> None:
    model = tiny("llama").train()
    before = copy.deepcopy(model.state_dict())
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    measure(model, [BATCH])
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("kind", ["llama", "lfm2", "mixtral"])
def test_probe_does_not_change_outputs(kind: str) -> None:
    model = tiny(kind).eval()
    with torch.no_grad():
        before = model(**BATCH).logits
        with Probe(model, find_sites(model)):
            inside = model(**BATCH).logits
    assert torch.equal(inside, before)


def test_probe_removes_its_hooks_after_an_error() -> None:
    def fails(x: Tensor) -> Tensor:
        if len(x) > 3:
            raise RuntimeError("too many")
        return F.relu(x)

    model = MLP(fails)
    sites = find_sites(model, X)
    with Probe(model, sites) as probe:
        with pytest.raises(RuntimeError, match="too many"):
            model(torch.rand(4, 2))
        model(X)
    assert probe.counted[sites[0].name, "activation"].counts[probe.criteria[0]].active.tolist() == [2, 1, 2]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not nn.modules.module._global_forward_hooks


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_is_counted_once(reentrant: bool) -> None:
    model = tiny("llama").train()
    # Version 6 of transformers has the newer name alone, and older ones have the other.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    with Probe(model, find_sites(model), criteria=[Positive()]) as probe:
        model(**BATCH, labels=IDS).loss.backward()
    assert {c.tokens for counted in probe.counted.values() for c in counted.counts.values()} == {int(LEFT.sum())}


@pytest.mark.parametrize("when", ["before", "after"])
def test_compiled_models_are_measured(when: str) -> None:
    model = MLP()
    compiled = torch.compile(model, backend="eager")
    if when == "before":
        compiled(X)
    found = measure(compiled, [X])  # type: ignore[arg-type]
    assert found.rows[0].counts.active.tolist() == [2, 1, 2]
    assert torch.equal(compiled(X), model(X))


def test_a_site_that_does_not_run_is_an_error_with_its_name() -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = MLP(), MLP()

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x)) if x.max() < 50 else self.first(x)

    with pytest.raises(ActratioError, match="second was not called in a forward pass"):
        measure(Sometimes(), [X, X + 100])


def test_a_module_that_is_called_twice_counts_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = MLP(nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.mlp(x) + self.mlp(-x)

    counts = measure(Twice(), [X]).rows[0].counts
    assert counts.tokens == 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_counts_are_exact(dtype: torch.dtype) -> None:
    model = MLP().to(dtype)
    x = torch.tensor([[1.0, 1.0]], dtype=dtype).repeat(3000, 1)
    assert measure(model, [x, x]).rows[0].counts.active.tolist() == [6000, 6000, 0]


def test_generate_counts_first_tokens_and_decoding_apart() -> None:
    model = tiny("llama").eval()
    with Probe(model, find_sites(model)) as probe, torch.no_grad():
        model.generate(input_ids=IDS, attention_mask=LEFT, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    (counts,) = probe.counted["model.layers.0.mlp", "activation"].counts.values()
    assert counts.tokens == int(LEFT.sum()) + 2 * 3  # the last token is not read
    assert counts.first_tokens == 2
    assert counts.decode_tokens == 2 * 3
    alone = measure(model, [{"input_ids": IDS, "attention_mask": LEFT}]).counts("model.layers.0.mlp")
    assert counts.decode_active is not None
    assert torch.equal(counts.active - counts.decode_active, alone.active)
    assert counts.prompt_ratio == float(alone.activation_ratio)
    assert alone.decode_ratio is None
    assert counts.decode_ratio == pytest.approx(int(counts.decode_active.sum()) / (6 * counts.width))


@pytest.mark.parametrize("mask", [LEFT, LEFT.flip(1)])
def test_chunked_feed_forward_counts_each_token_once(mask: Tensor) -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    whole = transformers.BertModel(config).eval()
    config.chunk_size_feed_forward = 3
    chunked = transformers.BertModel(config).eval()
    chunked.load_state_dict(whole.state_dict())
    batch = {"input_ids": IDS, "attention_mask": mask}
    # A batch of another length is cut into another number of pieces.
    batches = [batch, {"input_ids": IDS[:, :6], "attention_mask": torch.ones_like(IDS[:, :6])}]
    ours, theirs = measure(chunked, batches), measure(whole, batches)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.counts.tokens == other.counts.tokens == int(mask.sum()) + 12
        assert torch.equal(mine.counts.active, other.counts.active)
        assert mine.counts.first_tokens == other.counts.first_tokens == 4
        assert torch.equal(mine.counts.first_active, other.counts.first_active)  # type: ignore[arg-type]


def test_padding_of_text_does_not_apply_to_an_image_tower() -> None:
    import transformers

    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    text = transformers.CLIPTextConfig(vocab_size=64, **small)
    vision = transformers.CLIPVisionConfig(image_size=8, patch_size=4, **small)
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    # As many rows in either tower: 2 texts of 5 tokens, and 2 images of 4 patches and a class token.
    for images in (2, 3):
        pixels = torch.rand(images, 3, 8, 8)
        frame = measure(
            model, [{"input_ids": IDS[:, :5], "attention_mask": LEFT[:, :5], "pixel_values": pixels}]
        ).to_frame()
        tokens = dict(zip(frame["site"].str.split(".").str[0], frame["tokens"], strict=True))
        assert tokens == {"text_model": int(LEFT[:, :5].sum()), "vision_model": images * 5}


def test_speech_to_text_counts_frames_and_tokens() -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=64, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=40, num_mel_bins=8, max_source_positions=10,
        max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    batch = {
        "input_features": torch.rand(2, 8, 20), "decoder_input_ids": IDS[:, :3], "decoder_attention_mask": mask
    }  # fmt: skip
    assert measure(model, [batch]).to_frame()["tokens"].tolist() == [2 * 10, 4]


def test_padded_sound_is_refused() -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, conv_dim=(8,), conv_stride=(4,),
        conv_kernel=(4,), num_feat_extract_layers=1, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer", mask_time_prob=0.0,
    )  # fmt: skip
    model = transformers.Wav2Vec2Model(config)
    sound = torch.rand(2, 40)
    assert measure(model, [{"input_values": sound}]).to_frame()["tokens"].tolist() == [2 * 10]
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[1, 20:] = 0
    with pytest.raises(ActratioError, match="rows that are padding can't be found"):
        measure(model, [{"input_values": sound, "attention_mask": mask}])


class MixerBlock(nn.Module):
    """An MLP over patches, whose rows are channels, and one over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Sequential(nn.Linear(4, 7), nn.GELU(), nn.Dropout(0.1), nn.Linear(7, 4))
        self.channels = nn.Sequential(nn.Linear(D, 9), nn.GELU(), nn.Dropout(0.1), nn.Linear(9, D))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        return x + self.channels(x)


def test_an_mlp_mixer_has_two_mlps_a_block() -> None:
    torch.manual_seed(0)
    frame = measure(MixerBlock(), [torch.rand(3, 4, D)]).to_frame()
    assert frame[["width", "tokens"]].to_numpy().tolist() == [[7, 3 * D], [9, 3 * 4]]


def test_encoder_decoder_has_two_attention_masks() -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=64, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4)
    model = transformers.T5ForConditionalGeneration(config)
    decoder = torch.tensor([[1, 1, 0], [1, 1, 1]])
    batch = {**BATCH, "decoder_input_ids": IDS[:, 3:6], "decoder_attention_mask": decoder}
    frame = measure(model, [batch]).to_frame()
    assert frame["tokens"].tolist() == [int(LEFT.sum())] * 2 + [5] * 2


def test_vision_model_has_a_first_token_and_no_padding() -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=8, patch_size=4
    )
    model = transformers.ViTForImageClassification(config)
    found = measure(model, [{"pixel_values": torch.rand(3, 3, 8, 8)}])
    assert {row.counts.tokens for row in found} == {3 * 5}
    assert {row.counts.first_tokens for row in found} == {3}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batches": []}, "no batches"),
        ({"batches": [X], "sites": "nothing.*"}, "no site matches"),
        ({"batches": [X], "tensors": ["gate"]}, "no tensor 'gate'"),
        ({"batches": [X], "criteria": ["big"]}, "no criterion 'big'"),
        ({"batches": [3]}, "must be a tensor"),
        ({"batches": {"x": X}}, r"batches is a dict; give a list of batches, such as \[batch\]"),
        ({"batches": 3}, r"batches is a int; give a list of batches, such as \[batch\]"),
        ({"batches": [X], "sites": 3}, "sites is 3; give globs over their names"),
        ({"batches": [X], "sites": ["*", 3]}, r"sites is \['\*', 3\]; give globs over their names"),
        ({"batches": [X], "tensors": 3}, "tensors is 3; write activation or hidden"),
        ({"batches": [X], "criteria": 3}, "a criterion is 3; give text"),
        ({"batches": [X], "criteria": ["positive", None]}, "a criterion is None; give text"),
        ({"batches": [X], "model": "gpt2"}, "the model is of type str; give an nn.Module"),
    ],
)
def test_measure_refuses_bad_input(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ActratioError, match=words):
        measure(**{"model": MLP(), **arguments})


def test_measurement_repr() -> None:
    found: Measurement = measure(MLP(), [X], name="<b>mine</b>")
    assert "1 site, 3 tokens" in repr(found)
    assert "<b>mine" not in found._repr_html_()
    assert math.isclose(found.to_frame()["activation_ratio"].item(), 5 / 9)


def test_a_model_copied_inside_a_probe_is_not_counted() -> None:
    model = MLP()
    x = torch.tensor([[1.0, 1.0]])
    with Probe(model, find_sites(model, x)) as probe:
        model(x)
        copied = deepcopy(model)
        assert torch.equal(copied(x), model(x))
    copied(x)
    assert probe.tokens == 2
    assert not model._forward_hooks


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mixtral"])
def test_measure_registers_hooks_once_for_any_number_of_batches(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[str] = []
    for name in ("register_forward_hook", "register_forward_pre_hook"):
        original = getattr(nn.Module, name)

        def register(*args: Any, _original: Any = original, _name: str = name, **kwargs: Any) -> Any:
            registered.append(_name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(nn.Module, name, register)
    model = tiny(kind)
    measure(model, [BATCH])
    once = len(registered)
    assert once
    measure(model, [BATCH] * 5)
    assert len(registered) == 2 * once


def test_probe_can_be_entered_again_and_disabled() -> None:
    model = MLP()
    probe = Probe(model, find_sites(model, X))
    for _ in range(2):
        with probe:
            model(X)
        model(X)  # outside the block
    with probe:
        probe.enabled = False
        model(X)
    assert probe.tokens == 2 * len(X)


def test_measure_does_not_count_forward_passes_that_make_batches() -> None:
    model = MLP()

    def batches() -> Any:
        for _ in range(3):
            model(X)
            yield X

    assert measure(model, batches()).rows[0].counts.tokens == 3 * len(X)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("given", [{}, {"use_cache": True}])
def test_measure_builds_no_cache_unless_the_batch_asks_for_it(kind: str, given: dict[str, bool]) -> None:
    model, seen = tiny(kind), []

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        seen.append((kwargs["use_cache"], output.get("past_key_values") is not None))

    model.config.is_decoder = kind != "bert"
    measure(model, [BATCH])
    handle = model.register_forward_hook(hook, with_kwargs=True)
    cached = measure(model, [{**BATCH, **given}])
    if not given:
        measure(model, [IDS])  # a tensor is passed by the name of the first parameter
    handle.remove()
    assert all(use_cache == bool(given) for use_cache, _ in seen)
    assert given or not any(has_cache for _, has_cache in seen)
    assert same(cached.rows[0].counts, measure(model, [BATCH]).rows[0].counts)


def test_measure_traces_a_few_tokens_only(tiny_gpt2: Callable[..., Any]) -> None:
    model, read = tiny_gpt2(), []
    ids = torch.arange(4 * 64).view(4, 64) + 10
    model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    measure(model, [ids, ids])
    assert read == [(SEQUENCES, TOKENS), (4, 64), (4, 64)]


# ---- Batches that the model can't be called with.


@pytest.mark.parametrize("place", [0, 1])
def test_measure_reports_a_batch_that_the_model_fails_on(place: int, tiny_gpt2: Callable[..., Any]) -> None:
    batches = [{"input_ids": IDS[:, 3:]}, {"input_ids": IDS[:, 3:]}]
    batches[place] = {"input_ids": IDS.repeat(1, 4)}
    message = (
        r"GPT2LMHeadModel failed in the forward pass .*, called with input_ids of shape \(2, 36\) \(\w+Error: .+\); "
        "give inputs that it can be called with"
    )
    with pytest.raises(SiteError, match=message) as raised:
        measure(tiny_gpt2(n_positions=16), batches)
    assert isinstance(raised.value.__cause__, IndexError | RuntimeError)


@pytest.mark.parametrize("limit", [0, 3], ids=["while tracing", "while counting"])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory")])
def test_measure_raises_memory_errors_unchanged(limit: int, error: Exception) -> None:
    def fails(x: Tensor) -> Tensor:
        if len(x) > limit:
            raise error
        return F.relu(x)

    with pytest.raises(type(error)) as raised:
        measure(MLP(fails), [X, torch.rand(4, 2)])
    assert raised.value is error


@pytest.mark.parametrize("silent", [1, 2], ids=["every batch", "second batch"])
def test_measure_refuses_a_forward_pass_that_returns_nothing(silent: int) -> None:
    class ReturnsNothing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = MLP()

        def forward(self, x: Tensor) -> Tensor | None:
            y = self.mlp(x)
            return y if len(x) < 2 * silent else None

    batches = [X[:2], torch.rand(4, 2)]
    with pytest.raises(SiteError, match="ReturnsNothing's forward pass returned nothing"):
        measure(ReturnsNothing(), batches)


def test_measure_refuses_a_model_that_runs_without_its_hooks() -> None:
    class WithoutHooks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = MLP()

        def __call__(self, x: Tensor) -> Tensor:
            y: Tensor = self.mlp(x)
            return y

    with pytest.raises(SiteError, match="WithoutHooks ran without its hooks"):
        measure(WithoutHooks(), [X])


# ---- Probes that are entered twice or interrupted.


def test_a_probe_that_is_entered_twice_is_refused() -> None:
    model = MLP(nn.ReLU())
    probe = Probe(model, find_sites(model, X))
    with probe:
        with pytest.raises(SiteError, match="the probe is counting already; leave its block"), probe:
            pass
        model(X)
    assert probe.tokens == len(X)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with probe:
        model(X)
    assert probe.tokens == 2 * len(X)


@pytest.mark.parametrize("function", [F.relu, nn.ReLU()], ids=["followed", "direct"])
def test_an_interrupted_forward_pass_is_dropped(function: Callable[[Tensor], Tensor]) -> None:
    class Interrupted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp, self.interrupt = MLP(function), False

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.mlp(x)
            if self.interrupt:
                raise KeyboardInterrupt
            return y

    model = Interrupted()
    with Probe(model, find_sites(model, X)) as probe:
        model.interrupt = True
        with pytest.raises(KeyboardInterrupt):
            model(X)
        model.interrupt = False
        model(X)
        assert not probe._passes
    assert probe.tokens == len(X)


def test_an_interrupt_inside_a_followed_scope_ends_the_following() -> None:
    class InterruptedBelow(MLP):
        interrupt = False

        def forward(self, x: Tensor) -> Tensor:
            if self.interrupt:
                raise KeyboardInterrupt
            return super().forward(x)

    model = nn.Sequential(InterruptedBelow(), nn.Identity())
    with Probe(model, find_sites(model, X)) as probe:
        model[0].interrupt = True
        with pytest.raises(KeyboardInterrupt):
            model(X)
        model[0].interrupt = False
        model(X)
        assert not nn.modules.module._global_forward_hooks
    assert probe.tokens == len(X)


def test_the_encoder_is_counted_after_an_interrupted_forward_pass() -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=64, d_model=32, d_ff=48, d_kv=8, num_layers=1, num_heads=4)
    model = transformers.T5ForConditionalGeneration(config).eval()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with Probe(model, find_sites(model)) as probe, torch.no_grad():
        handle = model.lm_head.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            model(input_ids=IDS, decoder_input_ids=IDS[:, 4:6])
        handle.remove()
        model.get_encoder()(input_ids=IDS[:, 3:])
    assert probe.tokens == 2 * 6


def test_a_model_that_calls_itself_counts_every_forward_pass() -> None:
    class CallsItself(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = MLP()

        def forward(self, x: Tensor, again: bool = False) -> Tensor:
            y: Tensor = self.mlp(x)
            return self(y) if again else y

    model = CallsItself()
    with Probe(model, find_sites(model, X)) as probe:
        model(X, again=True)
    assert probe.tokens == 2 * len(X)
