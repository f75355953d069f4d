"""The study of activation functions: its parts, its rules and its findings."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from actratio import ActratioError
from actratio.data import load_dataset
from actratio.data.antibodies import has_antibody_tokens, published_antibodies, sample_antibodies
from actratio.data.variants import take_examples
from actratio.errors import DataError, SiteError
from actratio.sites.mlps import resolve
from actratio.sparse.text import next_token_logits, next_token_loss
from actratio.statistics.estimate import mean_interval
from actratio.statistics.rules import operating_characteristics
from actratio.statistics.seeds import over_seeds
from actratio.statistics.verdict import FAILED, MET, NO, UNDECIDED, YES
from actratio.studies import ActivationStudy
from actratio.studies.activation.analysis import activation_findings
from actratio.studies.activation.character import (
    ARMS,
    CharacterModel,
    Characters,
    CharacterTrainer,
    Size,
    count_active,
)
from actratio.studies.activation.claims import planned_family
from actratio.studies.activation.contrasts import impacts, impacts_at_equal_loss, switches
from actratio.studies.activation.intervening import ALL_LAYERS, intervene, plan_interventions
from actratio.studies.activation.judging import (
    Judgement,
    judge_impact,
    judge_inactive,
    judge_mean,
    judge_switch,
    linearised_costs,
    settle,
)
from actratio.studies.activation.pretrained import Reading, make_scorer, run_pretrained, text_blocks
from actratio.studies.activation.rows import unit_frame
from actratio.studies.activation.rules import RULES
from actratio.studies.activation.scoring import LanguageScorer, fit_probe
from actratio.studies.activation.trained import MLP_ARMS, run_character, run_mlp, switch_steps
from actratio.studies.interventions import WAYS

TINY = Size(width=8, layers=2, heads=2, context=16, batch=2, neurons=12)
PLAY = "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer. " * 12


class Memory:
    """A checkpoint in memory that can stop the unit after some saves."""

    def __init__(self, saved: dict[str, Tensor] | None = None, stop_after: int = 10**9) -> None:
        self.saved, self.left, self.done = saved, stop_after, 0.0

    def load(self) -> dict[str, Tensor] | None:
        return self.saved

    def save(self, make_arrays: Callable[[], dict[str, Tensor]]) -> None:
        self.saved = {name: array.clone() for name, array in make_arrays().items()}
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def advance(self, share: float) -> None:
        self.done += share

    def unusable(self, error: Exception) -> Exception:
        return error


def assert_resumes_bit_for_bit(run: Callable[[Memory], dict[str, Tensor]], stops: tuple[int, ...]) -> None:
    whole = Memory()
    expected = run(whole)
    assert whole.done == pytest.approx(1.0)
    for stop in stops:
        cut = Memory(stop_after=stop)
        with pytest.raises(KeyboardInterrupt):
            run(cut)
        resumed = Memory(cut.saved)
        found = run(resumed)
        assert set(found) == set(expected)
        for name, array in expected.items():
            assert found[name].numpy().tobytes() == array.numpy().tobytes(), name
        assert resumed.done == pytest.approx(1.0)


# Rules


def test_linearised_costs_average_to_the_ratio_and_their_interval_covers_it() -> None:
    rng, hits, draws = np.random.default_rng(0), 0, 400
    for _ in range(draws):
        loss = rng.gamma(4.0, 0.5, 80)
        size = rng.lognormal(-0.125, 0.5, 80)
        increase = 0.3 * loss * size + 0.05 * rng.normal(size=80)
        costs = linearised_costs(loss, loss + increase)
        assert costs.mean() == pytest.approx(increase.mean() / loss.mean())
        hits += mean_interval(costs.tolist()).contains(0.3)
    assert 0.91 <= hits / draws <= 0.98


@pytest.mark.parametrize(
    ("rule", "truth", "expected", "least"),
    [
        ("inactive", "cost 0.2%", YES, 0.8),
        ("inactive", "cost 5%", UNDECIDED, 0.95),
        ("inactive", "cost 15%", NO, 0.8),
        ("least", "costs 50% and 5%", YES, 0.95),
        ("least", "costs 50% and 50%", UNDECIDED, 0.95),
        ("least", "costs 5% and 50%", NO, 0.95),
        ("mean", "recovers 90% of 50%", YES, 0.95),
        ("mean", "recovers half of 50%", UNDECIDED, 0.95),
        ("mean", "recovers 20% of 50%", NO, 0.95),
        ("mean", "recovers 90% of 0", UNDECIDED, 0.95),
        ("impact", "ratio 1.1", UNDECIDED, 0.95),
        ("impact", "ratio 0.5", NO, 0.95),
        ("switch", "arms 0.5 apart, stays", NO, 0.95),
        ("switch", "arms equal", UNDECIDED, 0.95),
        # Added with the results: what the rules can do with the losses of the probe, and with the spreads that were observed.
        ("inactive, for a probe", "cost 0.2%", UNDECIDED, 0.95),
        ("inactive, for a probe", "cost 50%", NO, 0.95),
        ("least, for a probe", "costs 50% and 50%", UNDECIDED, 0.95),
        ("mean, for a probe", "recovers half of 50%", UNDECIDED, 0.95),
        ("impact", "ratio 1, spread 0.12", UNDECIDED, 0.95),
        ("impact", "ratio 1.3, spread 0.12", UNDECIDED, 0.75),
        ("switch", "arms 0.97 apart, spread 0.025, stays", UNDECIDED, 0.95),
        ("switch", "arms 0.9 apart, spread 0.025, moves all the way", UNDECIDED, 0.95),
    ],
)
def test_operating_characteristics(rule: str, truth: str, expected: str, least: float) -> None:
    found = next(candidate for candidate in RULES if candidate.name == rule)
    only = replace(found, truths={truth: found.truths[truth]})
    row = operating_characteristics(only, draws=100).iloc[0]
    key = {YES: "yes", NO: "no", UNDECIDED: "undecidable"}[expected]
    assert row[key] >= least


def test_no_impact_and_a_whole_move_are_found_when_seeds_agree() -> None:
    same = np.array([0.01, -0.02, 0.0, 0.015, -0.01])
    apart = np.log(0.5) + same
    assert settle([judge_impact(same)], 13) == [YES]
    assert settle([judge_switch(same, apart)], 13) == [YES]
    assert settle([judge_switch(same, same)], 13) == [UNDECIDED]  # arms that don't differ show no move
    assert settle([judge_switch(apart, apart)], 13) == [NO]


def test_a_rule_that_lacks_data_decides_nothing() -> None:
    one = np.array([0.5])
    for judgement in (judge_inactive(one), judge_impact(one), judge_switch(one, one), judge_mean(one, one)):
        assert settle([judgement]) == [UNDECIDED]
    assert settle([]) == []


def test_settle_is_holms_correction() -> None:
    strong, weak = Judgement(YES, 0.004), Judgement(NO, 0.02)
    assert settle([strong, weak]) == [YES, NO]  # 0.008 and 0.02
    assert settle([strong, weak], family=5) == [YES, UNDECIDED]  # 0.02 and 0.08
    assert settle([strong, weak], family=13) == [UNDECIDED, UNDECIDED]


# Scoring and intervening


def test_the_language_scorer_gives_the_loss_of_each_document(tiny_gpt2: Callable[..., Any]) -> None:
    model = tiny_gpt2("gelu_new")
    documents = [torch.arange(5, 5 + length) for length in (7, 9, 7, 8)]
    scorer = LanguageScorer(lambda ids: next_token_logits(model, {"input_ids": ids}), documents, documents, 1)
    scores = scorer.score()
    for document, loss in zip(documents, scores["loss"].tolist(), strict=True):
        assert loss == pytest.approx(next_token_loss(model, [{"input_ids": document.unsqueeze(0)}]), rel=1e-5)
    given = LanguageScorer(lambda ids: next_token_logits(model, {"input_ids": ids}), documents, documents, 3).score()
    logits = model(documents[0].unsqueeze(0)).logits[0, 2:-1]
    expected = torch.nn.functional.cross_entropy(logits, documents[0][3:])
    assert given["loss"][0].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_probe_is_scikit_learns_and_finds_planted_classes(classes: int, randn: Callable[..., Tensor]) -> None:
    from sklearn.linear_model import LogisticRegression

    labels = torch.arange(120) % classes
    embeddings = randn(120, 5) + 2 * torch.nn.functional.one_hot(labels, 5)
    probe = fit_probe(embeddings, labels)
    assert (probe.logits(embeddings).argmax(1) == labels).float().mean() > 0.8
    oracle = LogisticRegression(C=probe.penalty, max_iter=2000).fit(embeddings.double().numpy(), labels.numpy())
    expected = torch.from_numpy(oracle.predict_proba(embeddings.double().numpy())).float()
    torch.testing.assert_close(probe.logits(embeddings).softmax(1), expected, atol=1e-3, rtol=1e-3)
    with pytest.raises(DataError, match="too few"):
        fit_probe(embeddings[:4], torch.tensor([0, 0, 0, 1]))


def test_layers_are_chosen_evenly() -> None:
    layers = {intervention.layer for intervention in plan_interventions(range(30))}
    assert sorted(layers) == [ALL_LAYERS, 0, 5, 11, 17, 23, 29]
    assert sorted({intervention.layer for intervention in plan_interventions([0, 1])}) == [ALL_LAYERS, 0, 1]
    assert len(plan_interventions([0])) == 4 * len(WAYS) + len(WAYS)


def test_interventions_drop_equally_many_and_resume(tiny_gpt2: Callable[..., Any]) -> None:
    model = tiny_gpt2("gelu_new", initializer_range=0.2, vocab_size=64)
    documents = [torch.randint(64, (12,), generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    scorer = LanguageScorer(lambda ids: model(ids).logits, documents[:2], documents[2:], 1)
    mlps = resolve(model)
    kept: list[dict[str, Tensor]] = []
    whole = intervene(mlps, scorer, None, kept.append)
    dropped = whole["dropped"][1:].view(-1, len(WAYS))
    assert torch.equal(dropped[:, 0], dropped[:, 1])
    assert torch.equal(dropped[:, 0], dropped[:, 2])
    assert bool((whole["loss"][0] > 0).all())
    assert whole["loss"].shape == (1 + len(plan_interventions([0, 1])), 2)
    for stop in (0, 1, 2, 3, 9):  # in the middle of a group, the counts by sign are taken again
        resumed = intervene(mlps, scorer, kept[stop], lambda _: None)
        assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_blocks_of_text_are_different_and_too_short_a_text_is_refused() -> None:
    def tokenizer(text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": list(range(len(text)))}

    scored, calibration = text_blocks(tokenizer, "x" * 128 * 30, 5, 2)
    starts = [int(block[0]) for block in (*scored, *calibration)]
    assert len(set(starts)) == 7
    assert {len(block) for block in (*scored, *calibration)} == {128}
    with pytest.raises(DataError, match="6 are needed"):
        text_blocks(tokenizer, "x" * 128 * 3, 4, 2)


def letters(folder: Path) -> Any:
    """A tokenizer with IgLM's tokens."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    conditions = ["[CAMEL]", "[HUMAN]", "[MOUSE]", "[RABBIT]", "[RAT]", "[RHESUS]", "[HEAVY]", "[LIGHT]"]
    vocabulary = {token: place for place, token in enumerate([*special, *"ACDEFGHIKLMNPQRSTVWY", *conditions])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\[[A-Z]+\]|."), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", eos_token="[CLS]", sep_token="[SEP]"
    )


def test_antibodies_are_sampled_and_published_ones_are_kept_apart(
    tiny_gpt2: Callable[..., Any], tmp_path: Path
) -> None:
    model, tokenizer = tiny_gpt2("gelu_new", vocab_size=33, bos_token_id=2, eos_token_id=2), letters(tmp_path)
    assert has_antibody_tokens(tokenizer)
    state = torch.get_rng_state()
    first, again = (sample_antibodies(model, tokenizer, 4, 0) for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), state)
    heavy, light, human = tokenizer.convert_tokens_to_ids(["[HEAVY]", "[LIGHT]", "[HUMAN]"])
    assert [row[:2] for row in first] == [[heavy, human], [light, human]] * 2
    for row in first:
        assert len(row) <= 150
        assert 2 not in row[:-1]
        assert not {0, 1, *range(25, 33)} & set(row[2:])
    published = published_antibodies(tokenizer)
    assert [len(row) - 3 for row in published] == [120, 107, 121, 107]
    assert all(1 not in row for row in published)  # every letter is known
    _, kinds = make_scorer(model, tokenizer, Reading("", None, 4))
    assert kinds.tolist() == [2] * 4 + [3] * 4


def test_an_encoder_reads_banking77_with_a_probe(minilm: Path, real_data: Path) -> None:
    from actratio.models import load_model, load_tokenizer

    model = load_model(str(minilm), dtype="fp32", device="cpu")
    scorer, kinds = make_scorer(model, load_tokenizer(str(minilm)), Reading("", real_data, 50))
    scores = scorer.score()
    assert kinds.tolist() == [0] * 50
    assert scores["loss"].mean() < 0.5 * math.log(77)
    assert scores["accuracy"].mean() > 0.5
    assert scores["distance"].max() < 1e-5
    with torch.no_grad():
        model.encoder.layer[0].output.dense.weight.zero_()
    assert scorer.score()["distance"].min() > 1e-3


def test_models_that_are_neither_are_refused() -> None:
    class Odd(torch.nn.Module):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return input_ids

    from actratio.studies.activation.scoring import sentence_embeddings

    with pytest.raises(SiteError, match="neither"):
        sentence_embeddings(Odd(), [torch.tensor([1, 2])])


# Trained models


def test_arms_have_the_parameters_that_their_names_say() -> None:
    def parameters(arm: str) -> int:
        model = CharacterModel(65, arm, Size(), 0)
        return sum(parameter.numel() for parameter in model.blocks[0].mlp.parameters())

    assert parameters("gelu") == parameters("relu") == parameters("swiglu, equal parameters")
    assert parameters("swiglu") == 1.5 * parameters("relu")


@pytest.mark.parametrize("arm", list(ARMS))
def test_the_character_model_reads_no_character_before_its_time_and_starts_at_one_half(arm: str) -> None:
    model = CharacterModel(20, arm, TINY, 0).eval()
    ids = torch.randint(20, (3, 16), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[:, 9:] = (other[:, 9:] + 1) % 20
    with torch.no_grad():
        assert torch.allclose(model(ids)[:, :9], model(other)[:, :9], atol=1e-6)
        assert not torch.allclose(model(ids)[:, 9:], model(other)[:, 9:], atol=1e-6)
    loss, _ = count_active(CharacterModel(20, arm, Size(), 0), torch.randint(20, (8, 65)))
    assert loss == pytest.approx(math.log(20), abs=0.1)
    _, ratios = count_active(CharacterModel(20, arm, Size(), 0), torch.randint(20, (8, 65)))
    assert float(ratios.mean()) == pytest.approx(0.5, abs=0.03)


def test_the_character_model_learns_and_its_seed_decides_everything() -> None:
    text = Characters.of(PLAY, TINY.context)

    def losses(seed: int) -> list[float]:
        model = CharacterModel(len(text.vocabulary), "gelu", TINY, seed)
        trainer = CharacterTrainer(model, text, TINY, 200, seed)
        found = []
        for _ in range(2):
            trainer.train(60)
            found.append(float(count_active(model, text.train[:68].view(4, 17))[0]))
        return found

    first = losses(0)
    assert first[1] < first[0] < math.log(len(text.vocabulary))
    assert losses(0) == first
    assert losses(1) != first
    rates = [
        CharacterTrainer(CharacterModel(5, "relu", TINY, 0), text, TINY, 300, 0).rate(step) for step in (0, 99, 300)
    ]
    assert rates == pytest.approx([1e-5, 1e-3, 1e-4])
    with pytest.raises(DataError, match="more text"):
        Characters.of("short", 16)


def test_a_character_unit_resumes_and_its_relu_loses_nothing_by_sign() -> None:
    assert_resumes_bit_for_bit(lambda memory: run_character("swiglu", 1, PLAY, TINY, 8, memory, 2), (2, 4))
    arrays = run_character("relu", 0, PLAY, TINY, 4, Memory(), 2)
    by_sign = arrays["drop.way"] == WAYS.index("sign")
    torch.testing.assert_close(arrays["drop.loss"][by_sign], arrays["drop.loss"][0].expand(int(by_sign.sum())))
    assert arrays["ratio"].shape == (2, len(arrays["step"]))


def test_switched_mlps_resume_and_equal_their_own_arm_in_the_first_third() -> None:
    data = take_examples(load_dataset("digits"), 320)

    def run(arm: str, memory: Memory) -> dict[str, Tensor]:
        return run_mlp(arm, data, 16, 2, 3, memory)

    switched = "relu, gelu, relu"
    assert_resumes_bit_for_bit(lambda memory: run(switched, memory), (1, 6, 9))
    plain, changed, other = (run(arm, Memory()) for arm in ("relu", switched, "gelu"))
    first, second = switch_steps(15)
    assert (first, second) == (5, 10)
    before = plain["step"] <= first
    assert torch.equal(plain["active"][:, before], changed["active"][:, before])
    assert not torch.equal(plain["active"][:, ~before], changed["active"][:, ~before])
    assert not torch.equal(other["active"], plain["active"])
    assert set(MLP_ARMS[switched]) == {"relu", "gelu"}
    # The article's counts: over the batches since the last checkpoint.
    assert bool(plain["batch_active"][:, 0].isnan().all())
    assert bool((plain["batch_active"][:, 1:] <= 16).all())


# Findings


def settings(**changed: Any) -> dict[str, Any]:
    return {
        "parts": ["pretrained", "character", "mlp"],
        "models": ["minilm", "iglm"],
        "arms": ["relu", "leaky_relu", "gelu", "silu", "relu2"],
        "datasets": ["mnist", "fashion_mnist"],
        **changed,
    }


def pretrained_rows(model: str, costs: dict[str, float], documents: int = 60, layers: int = 2) -> pd.DataFrame:
    """The rows of a model in which each way costs what is planted."""
    rng = np.random.default_rng(0)
    dense = rng.gamma(8.0, 0.2, documents)
    plan = plan_interventions(range(layers))
    losses = [dense]
    for intervention in plan:
        cost = costs[intervention.way] * intervention.share * (1.0 if intervention.layer == ALL_LAYERS else 0.3)
        losses.append(dense * (1 + cost * rng.lognormal(-0.02, 0.2, documents)))
    arrays = {
        "layer": torch.tensor([ALL_LAYERS, *(intervention.layer for intervention in plan)]),
        "way": torch.tensor([-1, *(WAYS.index(intervention.way) for intervention in plan)]),
        "share": torch.tensor([0.0, *(intervention.share for intervention in plan)], dtype=torch.float64),
        "dropped": torch.tensor([0.0, *(0.75 * intervention.share for intervention in plan)], dtype=torch.float64),
        "loss": torch.from_numpy(np.stack(losses)).float(),
        "accuracy": torch.full((len(losses), documents), 0.5),
        "text": torch.tensor([2] * (documents - 4) + [3] * 4 if model == "iglm" else [0] * documents),
    }
    if model == "minilm":
        arrays["distance"] = torch.full((len(losses), documents), 0.1)
    return unit_frame({"part": "pretrained", "model": model}, arrays, 8)


def mlp_rows(dataset: str, ends: dict[str, float], seeds: int = 5, noise: float = 0.01) -> pd.DataFrame:
    """The rows of MLPs whose ratio goes from 0.5 to what is planted; switched arms have the ratio of the arm that they name."""
    steps = torch.tensor([0, 10, 20, 30])
    rng = np.random.default_rng(1)
    frames = []
    for arm, end in ends.items():
        path = torch.tensor([[0.5, (0.5 + end) / 2, end, end]] * seeds, dtype=torch.float64)
        path = path * torch.from_numpy(rng.normal(1, noise, (seeds, 4)))
        loss = torch.tensor([[2.0, 1.0, 0.5, 0.2]] * seeds, dtype=torch.float64)
        arrays = {
            "step": steps,
            "active": 100 * path,
            "dead": torch.zeros(seeds, 4, dtype=torch.int64),
            "batch_active": 100 * path,
            "train_loss": loss,
            "val_loss": loss,
            "val_accuracy": 1 - loss / 4,
        }
        frames.append(unit_frame({"part": "mlp", "arm": arm, "dataset": dataset}, arrays, 100))
    return pd.concat(frames, ignore_index=True)


def character_rows(ends: dict[str, float], seeds: int = 5) -> pd.DataFrame:
    plan = plan_interventions(range(2))
    frames = []
    for arm, end in ends.items():
        for seed in range(seeds):
            loss = 2.0 + 0.01 * seed
            arrays = {
                "step": torch.tensor([0, 5, 10]),
                "ratio": torch.tensor([[0.5, 0.4, end * (1 + 0.004 * seed)], [0.5, 0.45, end]], dtype=torch.float64),
                "train_loss": torch.tensor([4.0, 3.0, loss], dtype=torch.float64),
                "val_loss": torch.tensor([4.0, 3.0, loss], dtype=torch.float64),
                "drop.layer": torch.tensor([ALL_LAYERS, *(intervention.layer for intervention in plan)]),
                "drop.way": torch.tensor([-1, *(WAYS.index(intervention.way) for intervention in plan)]),
                "drop.share": torch.tensor([0.0, *(intervention.share for intervention in plan)], dtype=torch.float64),
                "drop.dropped": torch.tensor([0.0, *(0.7 for _ in plan)], dtype=torch.float64),
                "drop.loss": torch.tensor([loss, *(loss * 1.2 for _ in plan)], dtype=torch.float64),
                "drop.accuracy": torch.full((len(plan) + 1,), 0.4, dtype=torch.float64),
            }
            frames.append(unit_frame({"part": "character", "arm": arm, "seed": seed}, arrays, 8))
    return pd.concat(frames, ignore_index=True)


def whole_table() -> pd.DataFrame:
    harmful = {"sign": 0.5, "least": 0.05, "random": 0.9, "mean": 0.1}
    harmless = {"sign": 0.002, "least": 0.05, "random": 0.9, "mean": 0.0015}
    apart = {"relu": 0.2, "gelu": 0.4, "silu": 0.3, "relu, gelu, relu": 0.4, "gelu, relu, gelu": 0.4}
    return pd.concat(
        [
            pretrained_rows("minilm", harmful),
            pretrained_rows("iglm", harmless),
            character_rows({"relu": 0.2, "gelu": 0.2, "swiglu": 0.3}),
            mlp_rows("mnist", apart),
            mlp_rows("fashion_mnist", {**apart, "gelu": 0.215, "relu, gelu, relu": 0.2, "gelu, relu, gelu": 0.4}),
        ],
        ignore_index=True,
    )


def test_planted_truths_are_recovered_and_every_verdict_can_be_reached() -> None:
    findings = activation_findings(whole_table(), settings())
    found = {verdict.claim: verdict for verdict in findings.verdicts}
    confirmatory = {claim: verdict for claim, verdict in found.items() if verdict.confirmatory}
    assert len(confirmatory) == planned_family(settings()) == 13
    expected = {
        "MiniLM: outputs at or below 0 are inactive": (NO, 50),
        "MiniLM: dropping the least contributions costs less than dropping as many by sign": (YES, 45),
        "MiniLM: the mean instead of zero recovers at least half of the cost": (YES, 15),
        "IgLM: outputs at or below 0 are inactive": (YES, 0.2),
        "IgLM: dropping the least contributions costs less than dropping as many by sign": (NO, -4.8),
        "IgLM: the mean instead of zero recovers at least half of the cost": (NO, -0.05),
        "character model: GELU has no impact on the activation ratio": (YES, 1.0),
        "MLP on MNIST: GELU has no impact on the activation ratio": (NO, 2.0),
        "MLP on Fashion-MNIST: GELU has no impact on the activation ratio": (UNDECIDED, 1.075),
        "MLP on MNIST: switched from ReLU to GELU, the ratio moves to that of GELU": (YES, 1.0),
        "MLP on MNIST: switched from GELU to ReLU, the ratio moves to that of ReLU": (NO, 2.0),
        "MLP on Fashion-MNIST: switched from ReLU to GELU, the ratio moves to that of GELU": (UNDECIDED, 0.93),
        "MLP on Fashion-MNIST: switched from GELU to ReLU, the ratio moves to that of ReLU": (NO, 2.0),
    }
    assert set(confirmatory) == set(expected)
    for claim, (verdict, value) in expected.items():
        assert found[claim].estimate.value == pytest.approx(value, rel=0.08, abs=0.1 if value < 1 else 0), claim
        assert found[claim].verdict == verdict, claim
    equal = {claim: verdict.verdict for claim, verdict in found.items() if not verdict.confirmatory}
    assert equal == {
        "character model: GELU has no impact on the activation ratio at equal training loss": YES,
        "MLP on MNIST: GELU has no impact on the activation ratio at equal training loss": NO,
        "MLP on Fashion-MNIST: GELU has no impact on the activation ratio at equal training loss": YES,  # without Holm
    }
    # Predicted: not inactive, the least cost less, the mean recovers half, GELU has an impact, and a switch moves the ratio.
    became = {claim: verdict.prediction for claim, verdict in found.items() if verdict.predicted}
    assert set(became) == set(confirmatory)
    assert sorted(became.values()) == [FAILED] * 6 + [MET] * 5 + [UNDECIDED] * 2
    first, counted = findings.sentences[:2]
    assert first.startswith(
        "GELU's outputs at or below 0 are not inactive in general. With all of them set to zero, a linear probe"
    )
    assert (
        "In the antibody model IgLM, on sequences that it sampled itself, zeroing them costs 0.2% of the loss." in first
    )
    assert re.search(
        r"1\.00 times as many outputs above 0 in the character model \(1\.0\d times at equal training loss\)", first
    )
    assert counted.startswith("Of 13 confirmatory claims, 5 hold, 6 don't hold, and 2 can't be decided")
    assert counted.endswith("Predictions: 5 met, 6 failed, 2 undecided.")
    said = " ".join(findings.sentences)
    assert re.search(r"MiniLM: .* recovers (79|80|81)% of the cost\. Verdict on 'it recovers at least half': yes", said)
    assert "changes the accuracy by +0.0 (+0.0 … +0.0) percentage points" in said
    assert "minilm" not in said
    assert "fashion_mnist" not in said
    assert all(len(table.rows) <= 20 for table in findings.tables)
    assert len(findings.tables) == 6
    charts = {chart.key: chart for chart in findings.charts}
    assert charts["dropped-minilm"].title == "MiniLM: outputs ≤ 0 zeroed, loss +48.2%; least contributions, +4.9%"
    assert re.search(r"GELU's ratio ends at (1\.9|2\.0)\d times ReLU's", charts["training-mlp-mnist"].title)
    assert "switched from ReLU to GELU, the ratio is" in charts["training-mlp-mnist"].reading
    assert all(len(chart.title) <= 75 for chart in findings.charts)
    dose = next(series for series in charts["dropped-minilm"].series if series.name == "at or below 0, zeroed")
    assert dose.x == pytest.approx([0.0, 0.1875, 0.375, 0.5625, 0.75])
    assert dose.y[-1].value / dose.y[0].value == pytest.approx(1.5, rel=0.03)


def test_a_cost_between_the_bounds_is_called_so_and_fails_the_prediction() -> None:
    frame = pretrained_rows("iglm", {"sign": 0.06, "least": 0.05, "random": 0.9, "mean": 0.01})
    findings = activation_findings(frame, settings())
    (verdict,) = (verdict for verdict in findings.verdicts if "are inactive" in verdict.claim)
    assert (verdict.verdict, verdict.prediction) == (UNDECIDED, FAILED)
    assert "more than is harmless (1%), and less than was predicted (more than 10%)" in findings.sentences[0]
    assert "neither harmless (less than 1%) nor more than 10%" in " ".join(findings.sentences[1:])


def test_an_unstable_last_step_and_the_way_of_a_switch_are_looked_at_afterwards() -> None:
    arms = {"relu": 0.4, "gelu": 0.436, "relu, gelu, relu": 0.418, "gelu, relu, gelu": 0.42}
    frame = mlp_rows("mnist", arms, noise=0.003)
    assert "last step" not in " ".join(activation_findings(frame, settings()).afterwards)
    last = (frame["model"] == "relu") & (frame["step"] == 30)
    frame.loc[last, "activation_ratio"] = [0.3, 0.4, 0.5, 0.45, 0.35]
    findings = activation_findings(frame, settings())
    first, unstable, *ways = findings.afterwards
    assert first.startswith("Added on 27 November 2026")
    assert "MLP on MNIST: the last step is an unlucky place" in unstable
    assert "between 30% and 50%" in unstable
    assert len(ways) == 2
    assert re.search(
        r"from ReLU to GELU: the ratio moves (4|5)\d% \(.*\) of the way .* It neither stays nor arrives\.$", ways[0]
    )
    table = next(table for table in findings.tables if table.title.startswith("GELU against ReLU"))
    assert [row[1] for row in table.rows] == ["step 30", "step 20", "loss 0.2"]
    assert "Without a switch the two differ by 9%" in " ".join(findings.sentences)
    close = mlp_rows("mnist", {**arms, "gelu": 0.402}, noise=0.003)
    assert "can't be said, because the two arms differ by" in activation_findings(close, settings()).afterwards[-1]


@pytest.mark.parametrize(("draws", "error"), [(100, 0.05), pytest.param(400, 0.03, marks=pytest.mark.slow)])
def test_intervals_of_impacts_and_switches_cover_the_truth(draws: int, error: float) -> None:
    """Five seeds with a part in common to all arms, as their data and initial weights have.

    The standard deviation of the share of hits is 2.2% for 100 draws and 1.1% for 400.
    """
    rng = np.random.default_rng(0)
    log_ratio = {"relu": math.log(0.4), "gelu": math.log(0.5)}
    log_ratio |= {"relu, gelu, relu": math.log(0.45), "gelu, relu, gelu": math.log(0.45)}
    hits = dict.fromkeys(("steps", "loss", "switch", "way"), 0)
    steps, losses = np.array([0, 10, 20, 30]), np.array([2.0, 1.0, 0.5, 0.2])
    names = ["part", "dataset", "model", "seed", "step", "activation_ratio", "train_loss"]
    for _ in range(draws):
        shared = rng.normal(0, 0.05, 5)
        rows = pd.DataFrame(
            [
                ("mlp", "mnist", arm, seed, step, math.exp(value + shared[seed] + rng.normal(0, 0.03)), loss)
                for arm, value in log_ratio.items()
                for seed in range(5)
                for step, loss in zip(steps, losses, strict=True)
            ],
            columns=names,
        )
        hits["steps"] += over_seeds(next(impacts(rows))[2]).exp().contains(1.25)
        hits["loss"] += over_seeds(next(impacts_at_equal_loss(rows))[2]).exp().contains(1.25)
        found = next(switches(rows))
        hits["switch"] += over_seeds(found.to_other).exp().contains(0.9)
        hits["way"] += found.way.contains(math.log(0.45 / 0.4) / math.log(1.25))
    assert {name: count / draws for name, count in hits.items()} == pytest.approx(dict.fromkeys(hits, 0.95), abs=error)


def test_other_models_and_data_sets_are_exploratory() -> None:
    frame = pd.concat(
        [
            pretrained_rows("./my-model", {"sign": 0.5, "least": 0.05, "random": 0.9, "mean": 0.1}),
            mlp_rows("digits", {"relu": 0.2, "gelu": 0.4}),
        ],
        ignore_index=True,
    )
    own = settings(models=["./my-model"], datasets=["digits"], parts=["pretrained", "mlp"])
    findings = activation_findings(frame, own)
    assert planned_family(own) == 0
    assert len(findings.verdicts) == 5
    assert not any(verdict.predicted for verdict in findings.verdicts)
    assert not any(verdict.confirmatory for verdict in findings.verdicts)
    assert findings.verdicts[0].verdict == NO


@pytest.mark.parametrize(
    "keep",
    [
        lambda frame: frame[frame["part"] == "mlp"],
        lambda frame: frame[frame["part"] == "character"],
        lambda frame: frame[(frame["part"] == "character") & (frame["seed"] == 0) & (frame["model"] == "gelu")],
        lambda frame: frame[frame["model"] == "iglm"],
        lambda frame: frame[(frame["part"] == "pretrained") & (frame["way"].isin(["dense", "sign"]))],
        lambda frame: frame[(frame["part"] == "mlp") & (frame["model"] == "relu, gelu, relu")],
        lambda frame: frame[(frame["part"] == "mlp") & (frame["seed"] == 0)],
        lambda frame: frame[(frame["part"] != "mlp") | ~frame["model"].isin(["relu"])],
    ],
)
def test_incomplete_tables_are_analysed(keep: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    findings = activation_findings(keep(whole_table()), settings())
    assert findings.sentences
    assert findings.charts
    for chart in findings.charts:
        chart.table()
    # What is missing counts as undecided in the family, so that a part of a run decides no more than the whole.
    whole = {verdict.claim: verdict.verdict for verdict in activation_findings(whole_table(), settings()).verdicts}
    assert all(verdict.verdict in (UNDECIDED, whole[verdict.claim]) for verdict in findings.verdicts)


def test_a_network_without_active_neurons_does_not_crash() -> None:
    frame = mlp_rows("mnist", {"relu": 0.0, "gelu": 0.4, "relu, gelu, relu": 0.1})
    findings = activation_findings(frame, settings())
    assert not [verdict for verdict in findings.verdicts if verdict.verdict == YES]


# The study


def test_units_parts_and_quick(tmp_path: Path) -> None:
    study = ActivationStudy()
    names = [unit.name for unit in study.units()]
    assert len(names) == 2 * 7 + 4 * 5 + 2
    assert "character swiglu, equal parameters 4" in names
    assert "fashion_mnist gelu, relu, gelu" in names
    quick = study.quick()
    assert {unit.name for unit in quick.units()} < set(names)
    assert [unit.parameters["part"] for unit in ActivationStudy(parts=("pretrained",)).units()] == ["pretrained"] * 2
    assert not [unit for unit in ActivationStudy(arms=("relu", "silu")).units() if "gelu" in unit.name]
    assert study.folder_name() == "activation"
    assert ActivationStudy(parts=("mlp",)).folder_name() == "activation-mlp"
    assert ActivationStudy(parts=("pretrained",), models=("a/b",)).folder_name() == "activation-pretrained-b"
    assert len(study.announce()) == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"parts": ("all",)}, "there is no part 'all'"),
        ({"parts": ()}, "no part was given"),
        ({"models": ("a", "a")}, "'a' is given twice"),
        ({"arms": ("relu", "tanh")}, "there is no activation function 'tanh'"),
        ({"seeds": 0}, "the number of seeds is 0"),
    ],
)
def test_bad_input_is_explained(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ActratioError, match=message):
        ActivationStudy(**changed)


def test_a_missing_text_is_explained() -> None:
    with pytest.raises(DataError, match=r"tinyshakespeare\.txt does not exist"):
        ActivationStudy(parts=("character",)).settings()
    with pytest.raises(DataError, match=r"tinyshakespeare\.txt does not exist"):
        ActivationStudy(parts=("pretrained",), models=("iglm", "./own")).settings()


def test_no_text_is_asked_for_if_nothing_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actratio.models.model_fingerprint", lambda name, revision: name)
    settings = ActivationStudy(parts=("pretrained",), models=("iglm",)).settings()
    assert settings["text"] == ActivationStudy(parts=("mlp",), datasets=("digits",)).settings()["text"]


def test_the_default_settings_are_the_planned_ones() -> None:
    study, planned = ActivationStudy(), ActivationStudy.planned
    own = {name: getattr(study, name) for name in planned if name != "text"}
    assert {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()} == {
        name: value for name, value in planned.items() if name != "text"
    }


def test_intervals_of_ratios_stay_between_0_and_1() -> None:
    frame = mlp_rows("mnist", {"relu": 0.2, "gelu": 0.4})
    last = (frame["model"] == "gelu") & (frame["step"] == 30)
    frame.loc[last, "activation_ratio"] = [0.01, 0.95, 0.9, 0.9, 0.9]
    findings = activation_findings(frame, settings())
    (row,) = (row for table in findings.tables for row in table.rows if row[1] == "GELU")
    assert "… 100.0%)" in row[2]


def test_a_pretrained_unit_resumes_bit_for_bit(tiny_gpt2: Callable[..., Any], minilm: Path, tmp_path: Path) -> None:
    import transformers

    tiny_gpt2("gelu_new").save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path)
    reading = Reading("Once upon a time there was a king. " * 60, None, 2)
    assert_resumes_bit_for_bit(lambda memory: run_pretrained(str(tmp_path), reading, memory), (7,))
