"""The study of transformers: profiles over depth, the verdict on the article's description, the article's columns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from actratio import ActratioError
from actratio.statistics.rules import operating_characteristics
from actratio.statistics.verdict import NO, YES
from actratio.studies import ArchitecturesStudy, TransformerStudy
from actratio.studies.runner import Runner
from actratio.studies.transformer.analysis import profile_chart
from actratio.studies.transformer.description import description_verdict, late_layers_verdict
from actratio.studies.transformer.profiles import GPT_COLUMNS, Profile, article_table, depth_profiles, read_gpt
from actratio.studies.transformer.rules import RULES
from tests.conftest import ROOT


def test_study_transformer_measures_a_pretrained_encoder(
    minilm: Path, tmp_path: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("study", "transformer", "--models", minilm, "--out", tmp_path / "run", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["rows"]) == 6 * 4  # layers, prompts
    assert "the article's description" in printed["sentences"][0]
    (verdict,) = printed["verdicts"]
    assert (verdict["verdict"], verdict["estimate"], verdict["confirmatory"]) == (NO, 0, False)
    assert verdict["figure"] == "models of 1 in which all parts hold"
    table = pd.read_csv(tmp_path / "run" / "gpt.csv")
    assert tuple(table.columns) == GPT_COLUMNS
    assert (tmp_path / "run" / "report.html").is_file()
    first = next(row for row in printed["rows"] if row["layer"] == 0 and row["input"] == 0)
    assert table["activation_ratio"].iloc[0] == pytest.approx(first["activation_ratio"])


def test_study_transformer_refuses_a_model_that_changed_on_disk(
    tiny_gpt2: Callable[..., Any], minilm: Path, tmp_path: Path
) -> None:
    import transformers

    folder = tmp_path / "model"
    model = tiny_gpt2("relu")
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
    study = TransformerStudy(models=(str(folder),), prompts=("A king.",))
    Runner(study, tmp_path / "run")
    Runner(study, tmp_path / "run")  # unchanged, so accepted
    model.transformer.h[0].mlp.c_fc.weight.data.add_(1)
    model.save_pretrained(folder)
    with pytest.raises(ActratioError, match="other settings"):
        Runner(study, tmp_path / "run")


def profile_rows(ratios: list[float], model: str = "m") -> pd.DataFrame:
    rows = [(model, layer, number, ratio) for layer, ratio in enumerate(ratios) for number in range(2)]
    return pd.DataFrame(rows, columns=list(GPT_COLUMNS))


def test_depth_profiles_by_hand() -> None:
    (flat,) = depth_profiles(profile_rows([0.04, 0.1, 0.14, 0.14, 0.14, 0.14]))
    assert flat == Profile("m", 0.04, pytest.approx(0.14), pytest.approx(0.0, abs=1e-9))  # type: ignore[arg-type]
    assert "the article's description holds: 'starts near 4%' holds (4.0% in the first layer)" in flat.verdict
    (rising,) = depth_profiles(profile_rows([0.04, 0.1, 0.1, 0.12, 0.14, 0.16]))
    assert rising.plateau == pytest.approx(0.13)
    assert rising.drift == pytest.approx(0.06 / 0.13)
    assert "does not hold as a whole" in rising.verdict
    assert "'is then flat' does not hold (changes by +46%" in rising.verdict


def test_the_description_is_judged_over_all_models() -> None:
    described, other = [0.04, 0.1, 0.14, 0.14, 0.14, 0.17], [0.3] * 6
    for ratios, outcome, number in (([described], YES, 1), ([described, other], NO, 1), ([other], NO, 0)):
        table = pd.concat([profile_rows(layers, str(model)) for model, layers in enumerate(ratios)])
        verdict = description_verdict(depth_profiles(table), "measured")
        assert (verdict.verdict, verdict.estimate.value) == (outcome, number)
        assert not verdict.confirmatory
        late = late_layers_verdict(table, "measured")
        assert (late.verdict, late.estimate.value) == (outcome, number / len(ratios))


def test_one_of_the_seven_published_models_is_as_described() -> None:
    path = ROOT.parent / "shared" / "reference" / "gpt.csv"
    if not path.is_file():
        pytest.skip(f"the article's published measurements are not at {path}")
    measured = profile_rows([0.3] * 6).assign(
        tensor="activation", criterion="positive", active_mean=3.0, width=10, tokens=1
    )
    findings = TransformerStudy.analyse(measured, {"prompts": ["a", "b"]}, read_gpt(path))
    ours, published, late = findings.verdicts
    assert (ours.verdict, ours.estimate.value) == (NO, 0)
    assert (published.verdict, published.estimate.value) == (NO, 1)
    assert published.figure == "models of 7 in which all parts hold"
    assert late.verdict == NO
    assert late.estimate.value == pytest.approx(118 / 137)
    assert late.figure == "share of 137 layers"


def test_the_rule_says_yes_and_no_when_the_truth_is_clear() -> None:
    (rule,) = RULES
    shares = operating_characteristics(rule, 200).set_index("truth")
    assert shares.loc["seven models, all as described", "yes"] >= 0.8
    assert shares.loc["seven models, one with 25 to 40%", "no"] == 1
    assert shares.loc["seven models, one with a plateau of 16%, the band's end", "yes"] < 0.7


@pytest.mark.parametrize("study", [TransformerStudy, ArchitecturesStudy])
def test_a_bad_dtype_is_refused_before_a_folder_is_made(study: Any) -> None:
    with pytest.raises(ActratioError, match="there is no dtype 'fp8'; use one of auto, float32"):
        study(models=("minilm",), dtype="fp8")


def test_depth_profile_of_one_layer_has_no_drift() -> None:
    assert depth_profiles(profile_rows([0.3]))[0].drift == 0


def test_article_table_weights_experts_by_their_tokens() -> None:
    frame = pd.DataFrame(
        {
            "model": "m",
            "layer": 0,
            "input": 0,
            "width": 10,
            "tokens": [3, 1, 0],
            "active_mean": [2.0, 6.0, float("nan")],
            "tensor": "activation",
            "criterion": "positive",
        }
    )
    assert article_table(frame)["activation_ratio"].item() == pytest.approx((3 * 2 + 6) / 40)


def test_profile_chart_shows_published_points() -> None:
    path = ROOT.parent / "shared" / "reference" / "gpt.csv"
    if not path.is_file():
        pytest.skip(f"the article's published measurements are not at {path}")
    chart = profile_chart(profile_rows([0.1, 0.2], "some/gpt2"), read_gpt(path))
    assert [series.name for series in chart.series] == ["some/gpt2", "gpt2, published"]
    assert len(chart.series[1].x) == 12
    assert max(chart.series[1].x) == 1
    assert len(depth_profiles(read_gpt(path))) == 7


def test_points_of_the_profile_chart_are_named_by_their_layer() -> None:
    (series,) = profile_chart(profile_rows([0.1, 0.2, 0.3], "some/gpt2"), None).series
    assert series.x == [0, 0.5, 1]
    assert series.labels == ["layer 0", "layer 1", "layer 2"]


@pytest.mark.parametrize(("content", "words"), [(None, "is not a file"), ("a,b\n1,2\n", "must have the columns")])
def test_read_gpt_refuses_other_tables(content: str | None, words: str, tmp_path: Path) -> None:
    if content:
        (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ActratioError, match=words):
        read_gpt(tmp_path / "t.csv")


def test_encoder_decoders_are_measured(minilm: Path, tmp_path: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=30522,
        d_model=16,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        d_kv=8,
        pad_token_id=0,
        decoder_start_token_id=0,
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    transformers.AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path / "t5")
    runner = Runner(
        TransformerStudy(models=(str(tmp_path / "t5"),), prompts=("A king.",), device="cpu"), tmp_path / "run"
    )
    runner.execute()
    sites = set(runner.frame()["site"])
    assert any(site.startswith("encoder") for site in sites)
    assert any(site.startswith("decoder") for site in sites)


def test_a_model_that_cannot_be_loaded_is_told_before_a_folder_is_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ActratioError, match=r"holds no model: it has no config\.json"):
        Runner(TransformerStudy(models=(str(tmp_path / "empty"),)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
