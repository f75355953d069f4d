"""Fine-tuning of small models: what is reached, what is refused, and going on after a stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import actratio
from actratio.errors import DataError, RunError, SiteError
from actratio.relufication import Evaluation, FineTuning, relufy
from actratio.relufication.penalty import hidden_l1, hidden_outputs, typical_sizes
from actratio.sites.mlps import resolve
from actratio.statistics.estimate import Estimate

TUNING = FineTuning(target=0.2, steps=60, lr=3e-3, evaluations=12)


class StoppedError(Exception):
    pass


def make_llama(activation: str = "silu") -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, hidden_act=activation,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def counting_text(sequences: int = 40) -> list[dict[str, Tensor]]:
    """Return sequences that count up modulo 16 from different numbers, which a small model soon learns."""
    ids = (torch.arange(sequences).unsqueeze(1) + torch.arange(12)) % 16
    return [{"input_ids": part} for part in ids.split(4)]


def test_target_is_reached_within_the_bound(tmp_path: Path) -> None:
    model = make_llama()
    result = relufy(model, counting_text(), TUNING)
    assert result.after is not None
    assert result.after.ratio <= TUNING.target
    assert result.after.loss <= result.before.loss * 1.05
    assert (result.function, result.before.step, result.before.ratio) == ("silu", 0, pytest.approx(1.0, abs=1e-3))
    assert "The target of 20% was reached." in result.verdicts[0]
    measured = actratio.measure(model, counting_text()[-1:], tensors=["hidden"], criteria=["nonzero"])
    nonzero = sum(int(row.counts.active.sum()) for row in measured)
    assert nonzero / (4 * 12 * 2 * 64) == pytest.approx(result.after.ratio, abs=1e-12)
    assert result.readings[-1].step == TUNING.steps

    model.save_pretrained(tmp_path)
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.hidden_act == "relu"
    prompt = torch.tensor([[3, 4, 5]])
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0}
    expected = model.generate(prompt, **options)
    assert expected[0, 3:].tolist() == [6, 7, 8, 9, 10, 11, 12, 13]
    assert torch.equal(loaded.generate(prompt, **options), expected)


def test_a_bound_that_is_not_met_keeps_nothing() -> None:
    model = make_llama()
    result = relufy(model, counting_text(), replace(TUNING, steps=4, lr=1e-9, loss=0.0, activation="relu2"))
    assert (result.kept, result.after) == (None, None)
    assert result.verdicts[0].startswith("No model was kept: with relu2, the loss was ")


def test_stopped_training_ends_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    model = make_llama()
    expected = relufy(model, counting_text(), TUNING)
    for last in (31, 44):

        def stop(step: int, loss: float, ratio: float, last: int = last) -> None:
            if step == last:
                raise StoppedError

        with pytest.raises(StoppedError):
            relufy(make_llama(), counting_text(), TUNING, folder=tmp_path / "training", progress=stop)
    other, steps = make_llama(), []
    result = relufy(
        other,
        counting_text(),
        TUNING,
        folder=tmp_path / "training",
        progress=lambda step, loss, ratio: steps.append(step),
    )
    assert steps == list(range(41, 61))
    assert (result.evaluations, result.kept, result.after) == (expected.evaluations, expected.kept, expected.after)
    assert result.readings == expected.readings
    weights = other.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    with pytest.raises(RunError, match=r"other settings \(lr\)"):
        relufy(make_llama(), counting_text(), replace(TUNING, lr=1e-3), folder=tmp_path / "training")
    with pytest.raises(RunError, match=r"other settings \(text\)"):
        relufy(make_llama(), counting_text(80), TUNING, folder=tmp_path / "training")
    (tmp_path / "training" / "state.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError, match="is damaged"):
        relufy(make_llama(), counting_text(), TUNING, folder=tmp_path / "training")


def test_training_alone_keeps_the_function() -> None:
    model = make_llama()
    result = relufy(model, counting_text(), replace(TUNING, activation="keep", target=1.0, steps=10))
    assert model.config.hidden_act == "silu"
    assert {item.strength for item in result.evaluations} == {0.0}
    assert result.after is not None
    assert result.after.loss < result.before.loss


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "gemma", "gpt_neox", "phi"])
@pytest.mark.parametrize("function", ["relu", "relu2"])
def test_models_get_the_function(
    model_type: str, function: str, tiny_causal_lm: Callable[[str], Any], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = tiny_causal_lm(model_type).eval()
    relufy(model, counting_text(), replace(TUNING, activation=function, steps=1, loss=1000.0))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(8).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    measured = actratio.measure(loaded, [{"input_ids": ids}], criteria=["nonzero"])
    assert all(0.1 < float(row.counts.activation_ratio) < 0.9 for row in measured)


def test_models_that_are_refused(tiny_causal_lm: Callable[[str], Any], tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="has no down projection of its own"):
        relufy(tiny_causal_lm("mixtral"), counting_text(), TUNING)
    with pytest.raises(SiteError, match="load the model in float32"):
        relufy(make_llama().to(torch.bfloat16), counting_text(), TUNING)
    with pytest.raises(SiteError, match="is not a module, so it can't be replaced"):
        relufy(tiny_causal_lm("bloom"), counting_text(), TUNING)
    model = tiny_causal_lm("mpt")  # its GELU is no setting
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(SiteError, match=r"can't say that its MLPs have relu.*nothing was changed"):
        relufy(model, counting_text(), TUNING)
    assert {name: type(module) for name, module in model.named_modules()} == before
    with pytest.raises(DataError, match="makes 8 full sequences of 12 tokens, and 10 are needed"):
        relufy(make_llama(), counting_text(8), TUNING)
    model = make_llama()
    model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(SiteError, match="gradient is not finite at step 1"):
        relufy(model, counting_text(), TUNING, folder=tmp_path / "training")
    assert not (tmp_path / "training").exists()


def test_padded_sequences_are_left_out() -> None:
    batches = counting_text()
    mask = torch.ones(4, 12, dtype=torch.int64)
    mask[2, 7:] = 0
    batches[0] = {**batches[0], "attention_mask": mask}
    batches.append({"input_ids": torch.arange(9).unsqueeze(0)})  # the last one is shorter
    short = [{"input_ids": torch.cat([batch["input_ids"] for batch in counting_text()])[[0, 1, *range(3, 40)]]}]
    tuning = replace(TUNING, steps=2)
    assert relufy(make_llama(), batches, tuning).evaluations == relufy(make_llama(), short, tuning).evaluations


def test_penalty_by_hand() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.act, self.down = nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            down: Tensor = self.down(self.act(self.up(x)))
            return down

    model = Plain()
    model.up.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    (mlp,) = resolve(model, actratio.find_sites(model, torch.ones(1, 2)))
    with hidden_outputs([mlp]) as hidden:
        model(torch.tensor([[3.0, 3.0], [0.0, 6.0], [-30.0, 0.0]]))  # |h| of 3, 3, 0; 0, 6, 0; 0, 0, 30
    name = mlp.site.name
    assert typical_sizes(hidden) == {name: 2.0}  # the median of 2, 2 and 10
    assert float(hidden_l1(hidden, {name: 2.0}).detach()) == pytest.approx((6 + 6 + 30) / 9 / 2)
    assert typical_sizes({name: torch.zeros(2, 3)}) == {name: 1.0}


def test_sentences_say_what_was_missed() -> None:
    result = relufy(make_llama(), counting_text(), replace(TUNING, steps=1, loss=100.0))
    missed = replace(
        result,
        after=Evaluation(1, 2 * result.before.loss, 0.4, 0.0),
        increase=Estimate(100.0, 90.0, 110.0),
        tuning=replace(result.tuning, loss=5.0),
    )
    assert "40.0% of the neuron outputs are not zero" in missed.verdicts[0]
    assert missed.verdicts[0].endswith("The target of 20% was missed.")
    assert missed.verdicts[1].endswith(
        "nats per token (+100.00%, 95% interval +90.00 to +110.00%), which is more than the 5% that is accepted on the text that chose the model."
    )


def test_increase_of_the_loss_is_that_on_the_text_that_checks(tmp_path: Path) -> None:
    """Also if the training was stopped and goes on, when the given model is known by what was saved only."""
    first = relufy(make_llama(), counting_text(), TUNING, folder=tmp_path / "state")
    again = relufy(make_llama(), counting_text(), TUNING, folder=tmp_path / "state")
    assert first.after is not None
    assert first.increase is not None
    assert first.increase.value == pytest.approx(100 * (first.after.loss / first.before.loss - 1))
    assert first.increase.low < first.increase.value < first.increase.high
    assert again.increase == first.increase


def test_model_that_has_the_zeros_already_is_refused() -> None:
    model = make_llama()
    relufy(model, counting_text(), TUNING)
    with pytest.raises(
        SiteError, match=r"% of the neuron outputs are not zero already, and the target is 90\.0%; skip these zeros"
    ):
        relufy(model, counting_text(), replace(TUNING, target=0.9))


def test_state_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relufy(make_llama(), counting_text(), TUNING, folder=tmp_path / "state")
    monkeypatch.setattr("actratio.relufication.finetuning._FORMAT", 3)
    with pytest.raises(RunError, match=r"was written by another version of actratio; remove .*state and train again"):
        relufy(make_llama(), counting_text(), TUNING, folder=tmp_path / "state")
