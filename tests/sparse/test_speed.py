"""Thresholds, the prediction of speed, and the two commands."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actratio import ActratioError, cli, measure
from actratio.counting.counts import SiteCounts
from actratio.sparse import calibration as calibrate
from actratio.sparse import plans
from actratio.sparse.crossover import ALWAYS
from actratio.sparse.planning import Plan
from actratio.sparse.saved import load_sparse
from actratio.sparse.speed import LayerSpeed, _verdict, drawn, measured_above, needed_of, predict
from tests.cli.test_measure import words

VOCABULARY = 30522


def made(function: str = "gelu_new", **options: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    size = {
        "vocab_size": VOCABULARY,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_inner": 48,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**{**size, "activation_function": function, **options})
    ).eval()


def batches(number: int = 3, padded: bool = False) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    found = [{"input_ids": torch.randint(100, (2, 12), generator=generator)} for _ in range(number)]
    if padded:
        for batch in found:
            batch["attention_mask"] = torch.ones(2, 12, dtype=torch.long)
            batch["attention_mask"][1, 7:] = 0
    return found


def hidden_of(model: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    """What enters each down projection, tokens that are no padding alone."""
    seen: list[Tensor] = []
    mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool().flatten()
    handles = [
        block.mlp.c_proj.register_forward_pre_hook(lambda _m, args: seen.append(args[0].flatten(0, 1)[mask]))
        for block in model.transformer.h
    ]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("by", ["contribution", "magnitude"])
@pytest.mark.parametrize("padded", [False, True])
def test_the_error_of_a_threshold_is_that_of_the_outputs_that_it_drops(by: str, padded: bool) -> None:
    model, given = made(), batches(1, padded)
    found = calibrate.curves(model, given, by)
    for curve, h, block in zip(found, hidden_of(model, given[0]), model.transformer.h, strict=True):
        rows = block.mlp.c_proj.weight.detach()  # (width, features)
        weighed = h.abs() * (rows.norm(dim=1) if by == "contribution" else 1)
        for share in (0.25, 0.9):
            place = curve_place(share)
            tau = curve.thresholds[place]
            dropped = weighed <= tau
            assert float(dropped.float().mean()) == pytest.approx(share, abs=0.01)
            errors = (torch.where(dropped, h, 0) @ rows).norm(dim=1) / (h @ rows).norm(dim=1)
            assert curve.cett[place] == pytest.approx(float(errors.mean()), rel=1e-4)


def curve_place(share: float) -> int:
    return calibrate._SHARES.index(share)


def test_a_bound_on_the_error_is_kept_in_every_layer() -> None:
    found = calibrate.curves(made(), batches())
    chosen = calibrate.at_cett(found, 0.2, "contribution")
    assert all(error <= 0.2 for error in chosen.cett.values())
    assert all(share > 0 for share in chosen.dropped.values())
    for curve in found:
        following = curve.share_at(0.2) + 1
        assert curve.cett[following] > 0.2


def test_a_ratio_is_what_is_left() -> None:
    chosen = calibrate.at_ratio(calibrate.curves(made(), batches()), 0.3, "magnitude")
    assert list(chosen.dropped.values()) == pytest.approx([0.7, 0.7], abs=0.001)


def test_what_is_dropped_is_all_that_is_zero() -> None:
    model, given = made("relu"), batches(1)
    chosen = calibrate.at_ratio(calibrate.curves(model, given), 0.9, "contribution")
    zeros = [float((h == 0).float().mean()) for h in hidden_of(model, given[0])]
    assert list(chosen.tau.values()) == [0, 0]
    assert list(chosen.dropped.values()) == pytest.approx(zeros)


def test_a_threshold_drops_the_share_that_is_asked_for() -> None:
    (curve, _) = calibrate.curves(made(), batches(1))
    for share in (0.0, 0.123, 1.0):
        assert float((curve.ordered <= curve.threshold_at(share)).float().mean()) == pytest.approx(share, abs=0.001)


def test_the_loss_is_that_of_transformers() -> None:
    model = made()
    (batch,) = batches(1)
    with torch.no_grad():
        expected = float(model(**batch, labels=batch["input_ids"]).loss)
    assert calibrate.loss(model, [batch]) == pytest.approx(expected, rel=1e-5)
    (padded,) = batches(1, padded=True)
    labels = padded["input_ids"].masked_fill(padded["attention_mask"] == 0, -100)
    with torch.no_grad():
        expected = float(model(**padded, labels=labels).loss)
    assert calibrate.loss(model, [padded]) == pytest.approx(expected, rel=1e-5)


def test_a_loss_is_kept_and_the_model_is_as_it_was() -> None:
    model = made()
    given = batches()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = calibrate.curves(model, given)
    chosen = calibrate.at_loss(model, found, given, 0.5, "contribution")
    assert calibrate.loss_with(model, found, chosen, given) <= calibrate.loss(model, given) * 1.005
    assert plans(model) == []
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_dropping_by_sign_drops_what_is_not_above_zero() -> None:
    model, given = made(), batches()
    sign = calibrate.compare_sign(model, calibrate.curves(model, given), given)
    assert sign is not None
    hidden = [h for batch in given for h in hidden_of(model, batch)]
    assert sign.dropped == pytest.approx(float(torch.cat(hidden).le(0).float().mean()), abs=0.01)
    assert sign.dense == pytest.approx(calibrate.loss(model, given))
    assert math.isfinite(sign.by_sign)
    assert math.isfinite(sign.by_contribution)


def test_padding_is_not_counted_above_thresholds() -> None:
    model, given = made(), batches(1, padded=True)
    limits = {f"transformer.h.{number}.mlp": torch.full((48,), 0.001) for number in range(2)}
    found = measured_above(model, given, limits)
    for row, h in zip(found, hidden_of(model, given[0]), strict=True):
        assert row.counts.tokens == 19
        assert row.counts.active.tolist() == (h.abs() > 0.001).sum(0).tolist()


def test_neurons_above_a_threshold_are_counted_with_their_unions() -> None:
    model, given = made(), batches(1)
    chosen = calibrate.at_ratio(calibrate.curves(model, given), 0.3, "contribution")
    limits = calibrate.thresholds_of(model, chosen)
    found = measured_above(model, given, limits)
    for row, h in zip(found, hidden_of(model, given[0]), strict=True):
        above = h.abs() > limits[row.site.name]
        assert row.counts.active.tolist() == above.sum(0).tolist()
        pairs = above.view(2, 6, 2, -1).any(2)
        assert float(row.counts.union_ratio[1]) == pytest.approx(float(pairs.float().mean()))


# ---- Prediction.


def test_bytes_and_their_ideal_by_hand() -> None:
    model = made("relu")
    found = measure(model, batches())
    _, (speed,) = predict(model, found, [1])
    ratios = [float(row.counts.activation_ratio) for row in found]
    one = 16 * 48 * 4
    assert [each.dense_bytes for each in speed.layers] == [2 * one] * 2
    assert [each.sparse_bytes for each in speed.layers] == pytest.approx([one * (1 + ratio) for ratio in ratios])
    assert speed.ideal_mlp == pytest.approx(4 / (2 + sum(ratios)))
    others = 4 * sum(each.numel() for name, each in model.named_parameters() if "wpe" not in name) - 4 * one
    assert speed.ideal == pytest.approx((others + 4 * one) / (others + one * (2 + sum(ratios))), rel=1e-6)


def test_several_sequences_need_the_union() -> None:
    model = made("relu")
    found = measure(model, batches())
    _, (one, four) = predict(model, found, [1, 4])
    for row, single, several in zip(found, one.layers, four.layers, strict=True):
        assert single.needed == pytest.approx(float(row.counts.activation_ratio))
        idle = 1 - row.counts.active.double() / row.counts.tokens
        assert several.needed == pytest.approx(float((1 - idle**4).mean()))


def test_tokens_of_sequences_of_their_own_need_what_was_predicted() -> None:
    """Neurons that fire for whole sequences: successive tokens are alike, and four sequences are not."""
    torch.manual_seed(0)
    fires = (torch.rand(200, 1, 32) < 0.2).expand(200, 8, 32)
    counts = SiteCounts(1600, fires.flatten(0, 1).sum(0))
    real = fires[:, 0].reshape(50, 4, 32).any(1).float().mean()
    assert needed_of(counts, 4) == pytest.approx(float(real), abs=0.02)


@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize(("ratio", "share"), [(0.1, 0.15), (0.1, 0.9), (0.3, 0.3), (1.0, 1.0)])
def test_what_is_timed_has_the_ratio_and_the_union(batch: int, ratio: float, share: float) -> None:
    needed = share * (1 - (1 - ratio / share) ** batch)
    draws = torch.stack(drawn(20000, batch, ratio, needed)) != 0
    assert float(draws.float().mean()) == pytest.approx(ratio, abs=0.01)
    assert float(draws.any(1).float().mean()) == pytest.approx(needed, abs=0.01)


def test_experts_are_read_where_tokens_are_routed_to_them() -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_local_experts=4,
        num_key_value_heads=4,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config).eval()
    found = measure(model, [{"input_ids": torch.arange(16).view(1, 16)}])
    _, (one, many) = predict(model, found, [1, 1000])
    expert = 3 * 32 * 64 * 4
    assert {each.held_bytes for each in one.layers} == {expert}
    assert sum(each.dense_bytes for each in one.layers) == pytest.approx(2 * 2 * expert)  # two of four, in two layers
    assert sum(each.dense_flops for each in one.layers) == pytest.approx(2 * 2 * 2 * expert / 4)
    reached = sum(1 for row in {row.site.name: row for row in found}.values() if row.counts.tokens)
    assert sum(each.dense_bytes for each in many.layers) == pytest.approx(reached * expert)
    assert one.verdict == "no: experts that share one weight are left as they are"


def test_a_measurement_that_does_not_say_is_refused() -> None:
    model = made("relu")
    with pytest.raises(ActratioError, match=r"does not say how many neurons of transformer\.h\.0\.mlp are zero"):
        predict(model, measure(model, batches(), criteria=["above(0.1)"]), [1])


def layer(kind: str, needed: float, dense: float, sparse: float) -> LayerSpeed:
    site: Any = None
    return LayerSpeed(Plan(site, kind, needed, "it has no true zeros"), needed, 1.0, 8, 8, 8, 8, 8, dense, sparse)


@pytest.mark.parametrize(
    ("batch", "layers", "ideal", "expected", "words"),
    [
        (1, [layer("down", 0.1, 2.0, 1.0)], 1.5, 1.3, "yes: about 1.30 times as fast"),
        (1, [layer("dense", 1.0, 0.0, 0.0)], 1.0, 1.0, "no: it has no true zeros"),
        (1, [layer("down", 0.9, 1.0, 1.0)], 1.1, 1.0, "no: a token needs 90% of the neurons"),
        (8, [layer("down", 0.9, 1.0, 1.0)], 1.1, 1.0, "no: 8 sequences together need 90% of the neurons"),
        (1, [layer("down", 0.1, 1.0, 1.2)], 1.5, 0.9, "no: it would be slower, about 0.90 times as fast"),
        (1, [layer("down", 0.1, 1.0, 0.5)], 1.05, 1.04, "no: the MLPs are 50% of the weights"),
        (1, [layer("down", 0.1, 1.0, 0.8)], 1.5, 1.02, "no: reading fewer weights saves little time here"),
        (1, [layer("down", 0.1, 1.0, 0.2)], 1.5, 1.02, "no: all but the MLPs takes most of the time"),
    ],
)
def test_verdicts(batch: int, layers: list[LayerSpeed], ideal: float, expected: float, words: str) -> None:
    assert _verdict(batch, layers, ideal, expected, 0.5).startswith(words)


def test_a_model_without_zeros_is_told_no() -> None:
    model = made()
    _, (speed,) = predict(model, measure(model, batches()), [1])
    assert speed.expected == 1
    assert not speed.faster
    assert "no: newgelu has no true zeros" in speed.verdict


def test_a_model_that_does_not_decode_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(ActratioError, match="cannot be timed while it decodes"):
        predict(model, measure(model, [torch.rand(2, 4)]), [1])


# ---- Commands.


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["actratio", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_speed_of_a_model_and_of_its_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "relu"
    made("relu").save_pretrained(folder)
    assert run(monkeypatch, "speed", folder, "--tokenizer", words(), "--batch", "1,2", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["batch"] for row in rows] == [1, 2]
    assert run(monkeypatch, "measure", folder, "--tokenizer", words(), "--out", tmp_path / "m", "--json") == 0
    capsys.readouterr()
    assert run(monkeypatch, "speed", tmp_path / "m") == 0
    said = capsys.readouterr().out
    assert "batch 1: " in said
    assert "GB/s" in said


def test_sparsify_writes_a_model_that_transformers_and_we_load(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    folder, out = tmp_path / "gelu", tmp_path / "sparse"
    made().save_pretrained(folder)
    command = [
        "sparsify",
        folder,
        "--tokenizer",
        words(),
        "--text",
        text,
        "--length",
        16,
        "--target",
        "ratio=0.4",
        "--out",
        out,
    ]
    assert run(monkeypatch, *command, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["dropped"] for row in said["rows"]] == pytest.approx([0.6, 0.6], abs=0.01)
    assert any("Dropping every output that is not above zero" in verdict for verdict in said["verdicts"])
    dense = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    sparse = load_sparse(out, device="cpu", crossover=ALWAYS)
    (batch,) = batches(1)
    with torch.no_grad():
        assert torch.equal(dense(**batch).logits, made()(**batch).logits)
        assert not torch.equal(sparse(**batch).logits, dense(**batch).logits)
    assert [plan.kind for plan in plans(sparse)] == ["down", "down"]
    held = json.loads((out / "thresholds.json").read_text())
    assert set(held["tau"]) == {"transformer.h.0.mlp", "transformer.h.1.mlp"}
    assert run(monkeypatch, *command) == 0  # again, over what was there
    assert "CETT" in capsys.readouterr().out
    assert run(monkeypatch, "speed", out, "--tokenizer", words(), "--json") == 0  # with its thresholds
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert 0.2 < row["needed"] < 0.6


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--target", "speed=2"], "there is no target 'speed=2'"),
        (["--target", "ratio=1.5"], "there is no target 'ratio=1.5'"),
        (["--by", "luck"], "cannot be dropped by 'luck'"),
        (["--batch", "0"], "not a list of sizes"),
        (["--length", "500"], "and 4 are needed"),
    ],
)
def test_what_sparsify_cannot_do_is_one_sentence(
    options: list[str],
    sentence: str,
    tmp_path: Path,
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, out = tmp_path / "gelu", tmp_path / "sparse"
    made().save_pretrained(folder)
    command = ["sparsify", folder, "--tokenizer", words(), "--text", text, "--length", 16, "--out", out]
    assert run(monkeypatch, *command, *options) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


@pytest.mark.parametrize(
    ("kind", "sentence"), [("bert", "does not predict the next tokens"), ("long", "does not predict the next tokens"), ("nan", "not finite")]
)  # fmt: skip
def test_models_that_cannot_be_calibrated_are_refused(
    kind: str,
    sentence: str,
    tmp_path: Path,
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import transformers

    folder, out = tmp_path / "model", tmp_path / "sparse"
    if kind == "bert":
        config = transformers.BertConfig(
            vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
        model: Any = transformers.BertModel(config)
    else:
        model = made(n_positions=12 if kind == "long" else 64)
        if kind == "nan":
            model.transformer.h[0].mlp.c_fc.bias.data.fill_(math.nan)
    model.save_pretrained(folder)
    command = ["sparsify", folder, "--tokenizer", words(), "--text", text, "--length", 16, "--out", out]
    assert run(monkeypatch, *command) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
    if kind == "bert":
        assert run(monkeypatch, "speed", folder, "--tokenizer", words()) == 2
        assert "cannot be timed while it decodes" in " ".join(capsys.readouterr().err.split())


def test_a_measurement_reads_no_text(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made("relu").save_pretrained(tmp_path / "relu")
    assert (
        run(monkeypatch, "measure", tmp_path / "relu", "--tokenizer", words(), "--out", tmp_path / "m", "--json") == 0
    )
    capsys.readouterr()
    assert run(monkeypatch, "speed", tmp_path / "m", "--text", text) == 2
    assert "for which no text is read" in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_is_no_sparse_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ActratioError, match=r"has no thresholds\.json"):
        load_sparse(tmp_path)
    good: dict[str, Any] = {"format": 1, "by": "magnitude", "tau": {"a": 0.1}, "cett": {}, "dropped": {}}
    bad = [
        "{", "[]", {**good, "by": "luck"}, {**good, "tau": {}}, {**good, "tau": {"a": None}}, {**good, "tau": {"a": math.nan}},
        {**good, "tau": {"a": "0.1"}}, {**good, "format": 2},
    ]  # fmt: skip
    for each in bad:
        (tmp_path / "thresholds.json").write_text(each if isinstance(each, str) else json.dumps(each))
        with pytest.raises(ActratioError, match="is damaged"):
            load_sparse(tmp_path)
    made().save_pretrained(tmp_path)
    (tmp_path / "thresholds.json").write_text(json.dumps(good))
    with pytest.raises(ActratioError, match="has a threshold for a, which the model has not"):
        load_sparse(tmp_path)
