"""The tracker on models from transformers: padding, labels, mixtures, encoder-decoders."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from actratio.errors import ActratioError
from actratio.sites import find_sites
from actratio.tracking import Tracker

SMALL = {"num_attention_heads": 4, "num_hidden_layers": 2, "hidden_size": 32, "vocab_size": 100}


def llama() -> Any:
    config = transformers.LlamaConfig(**SMALL, intermediate_size=64, num_key_value_heads=2)
    return transformers.LlamaForCausalLM(config)


def opt() -> Any:
    config = transformers.OPTConfig(**SMALL, ffn_dim=64, word_embed_proj_dim=32, dropout=0.0)
    return transformers.OPTForCausalLM(config)


def mixtral() -> Any:
    config = transformers.MixtralConfig(**SMALL, intermediate_size=64, num_key_value_heads=2, num_local_experts=4)
    return transformers.MixtralForCausalLM(config)


def t5() -> Any:
    config = transformers.T5Config(
        d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8, vocab_size=100, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def batch(seed: int) -> dict[str, Tensor]:
    """Return four sequences of twelve tokens: 37 are not padding, and 31 of these have a label."""
    ids = torch.randint(5, 100, (4, 12), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[0, 8:] = 0
    mask[2, 5:] = 0
    labels = ids.clone()
    labels[mask == 0] = -100
    labels[1, :6] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def tracked(model: Any, checkpointing: bool = False, **options: Any) -> Any:
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.config.use_cache = False
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Tracker(model, 1, dead_limit=None, **options) as tracker:
        for step in range(2):
            for part in range(2):
                model(**batch(10 * step + part)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return tracker.to_frame()


@pytest.mark.parametrize("make", [llama, opt])
def test_padding_and_tokens_without_a_label_are_not_counted(make: Any) -> None:
    torch.manual_seed(0)
    model = make()
    inside = {}
    site = find_sites(model)[0]

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        inside[len(inside)] = output.detach()

    handle = model.get_submodule(site.module).register_forward_hook(keep)
    frame = tracked(model, sites=site.name)
    handle.remove()
    # The first call is the one that finds the sites.
    passes = [output for output in inside.values() if output.shape[:-1].numel() == 48][:2]
    expected = 0
    for part, output in enumerate(passes):
        kept = (batch(part)["attention_mask"] == 1) & (batch(part)["labels"] != -100)
        expected += int((output.reshape(4, 12, -1)[kept] > 0).sum())
    row = frame.iloc[0]
    assert row["tokens"] == 62
    assert round(row["active_mean"] * 62) == expected


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("make", [llama, opt, mixtral, t5])
def test_checkpointing_changes_no_count(make: Any) -> None:
    torch.manual_seed(0)
    plain = tracked(make())
    torch.manual_seed(0)
    again = tracked(make(), checkpointing=True)
    columns = ["step", "site", "tokens", "dead", "always_on"]
    assert again[columns].equals(plain[columns])


@pytest.mark.parametrize("compiles", [False, True])
def test_a_step_without_labels_has_nothing_to_count(compiles: bool) -> None:
    model = llama().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    forward = torch.compile(model, backend="aot_eager") if compiles else model
    logged: list[int] = []
    with Tracker(model, 1, dead_limit=None, on_reading=lambda values, step: logged.append(step)) as tracker:
        for step in range(3):
            inputs = batch(step)
            if step == 1:
                inputs["labels"][:] = -100
            loss = forward(**inputs).loss
            (loss if step != 1 else loss.nan_to_num()).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert tracker.to_frame().groupby("step")["tokens"].max().tolist() == [31, 0, 31]
    assert logged == [1, 3]


def test_each_token_is_routed_to_two_experts() -> None:
    frame = tracked(mixtral())
    assert set(frame["role"]) == {"expert"}
    assert (frame.groupby(["step", "layer"])["tokens"].sum() == 2 * 62).all()


def test_an_encoder_counts_its_tokens_and_a_decoder_its_labels() -> None:
    frame = tracked(t5())
    is_decoder = frame["site"].str.startswith("decoder")
    assert set(frame["tokens"][~is_decoder]) == {74}
    assert set(frame["tokens"][is_decoder]) == {62}


def test_a_decoder_without_labels_counts_all_its_tokens() -> None:
    model = t5().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = batch(0)
    with Tracker(model, 1, dead_limit=None) as tracker:
        output = model(inputs["input_ids"], inputs["attention_mask"], decoder_input_ids=inputs["input_ids"])
        output.logits.sum().backward()
        optimizer.step()
    frame = tracker.to_frame()
    is_decoder = frame["site"].str.startswith("decoder")
    assert set(frame["tokens"][~is_decoder]) == {37}
    assert set(frame["tokens"][is_decoder]) == {48}


def test_the_hidden_tensor_of_a_gated_mlp() -> None:
    frame = tracked(llama(), tensor="hidden")
    assert set(frame["tensor"]) == {"hidden"}
    assert frame["activation_ratio"].between(0.3, 0.7).all()


def test_masks_that_dont_say_what_is_padding_are_refused() -> None:
    config = transformers.Gemma3TextConfig(**SMALL, intermediate_size=64, num_key_value_heads=2, head_dim=8)
    model = transformers.Gemma3ForCausalLM(config).train()
    inputs = batch(0)
    full = torch.ones(12, 12).tril().bool() & inputs["attention_mask"].bool()[:, None, None]
    masks = {"full_attention": full, "sliding_attention": full}
    with (
        pytest.raises(ActratioError, match="does not say which tokens are padding"),
        Tracker(model, 1, dead_limit=None),
    ):
        model(input_ids=inputs["input_ids"], attention_mask=masks)


def test_padding_of_an_encoder_of_torch_is_not_counted() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1).train()
    padded = torch.zeros(2, 5, dtype=torch.bool)
    padded[1, 3:] = True
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    with Tracker(encoder, 1, dead_limit=None) as tracker:
        encoder(torch.rand(2, 5, 8), src_key_padding_mask=padded).sum().backward()
        optimizer.step()
    assert tracker.to_frame()["tokens"].tolist() == [8]
