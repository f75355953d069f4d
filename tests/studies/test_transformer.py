"""The study of transformers: the profile over depth, the article's columns, the verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from actratio import ActratioError
from actratio.studies import TransformerStudy
from actratio.studies.runner import Runner
from actratio.studies.transformer.analysis import profile_chart
from actratio.studies.transformer.profiles import GPT_COLUMNS, Profile, article_table, profiles, read_gpt
from tests.conftest import ROOT


def test_a_real_encoder_is_measured_over_its_depth(
    minilm: Path, tmp_path: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("study", "transformer", "--models", minilm, "--out", tmp_path / "run", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["rows"]) == 6 * 4  # layers, prompts
    assert "the article's description" in said["verdicts"][0]
    table = pd.read_csv(tmp_path / "run" / "gpt.csv")
    assert tuple(table.columns) == GPT_COLUMNS
    assert (tmp_path / "run" / "report.html").is_file()
    first = next(row for row in said["rows"] if row["layer"] == 0 and row["input"] == 0)
    assert table["activation_ratio"].iloc[0] == pytest.approx(first["activation_ratio"])


def test_a_model_that_changed_on_disk_is_not_taken_for_the_measured_one(
    tiny_gpt2: Callable[..., Any], minilm: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    model = tiny_gpt2("relu")
    model.save_pretrained(folder)
    study = TransformerStudy(models=(str(folder),), prompts=("A king.",))
    Runner(study, tmp_path / "run")
    Runner(study, tmp_path / "run")  # nothing changed
    model.transformer.h[0].mlp.c_fc.weight.data.add_(1)
    model.save_pretrained(folder)
    with pytest.raises(ActratioError, match="other settings"):
        Runner(study, tmp_path / "run")


def table(ratios: list[float], model: str = "m") -> pd.DataFrame:
    rows = [(model, layer, number, ratio) for layer, ratio in enumerate(ratios) for number in range(2)]
    return pd.DataFrame(rows, columns=list(GPT_COLUMNS))


def test_the_figures_by_hand() -> None:
    (found,) = profiles(table([0.04, 0.1, 0.14, 0.14, 0.14, 0.14]))
    assert found == Profile("m", 0.04, pytest.approx(0.14), pytest.approx(0.0, abs=1e-9))  # type: ignore[arg-type]
    assert "description holds;" in found.verdict
    (rising,) = profiles(table([0.04, 0.1, 0.1, 0.12, 0.14, 0.16]))
    assert rising.settled == pytest.approx(0.13)
    assert rising.drift == pytest.approx(0.06 / 0.13)
    assert "does not hold as a whole" in rising.verdict
    assert "'is flat then' does not hold" in rising.verdict


def test_one_layer_has_no_drift() -> None:
    assert profiles(table([0.3]))[0].drift == 0


def test_a_layer_s_experts_are_weighed_by_their_tokens() -> None:
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


def test_published_points_are_drawn_for_the_models_that_the_article_has() -> None:
    path = ROOT.parent / "shared" / "reference" / "gpt.csv"
    if not path.is_file():
        pytest.skip(f"the article's published measurements are not at {path}")
    chart = profile_chart(table([0.1, 0.2], "some/gpt2"), read_gpt(path))
    assert [series.name for series in chart.series] == ["some/gpt2", "gpt2, published"]
    assert len(chart.series[1].x) == 12
    assert max(chart.series[1].x) == 1
    assert len(profiles(read_gpt(path))) == 7


@pytest.mark.parametrize(("content", "words"), [(None, "is not a file"), ("a,b\n1,2\n", "must have the columns")])
def test_other_tables_are_refused(content: str | None, words: str, tmp_path: Path) -> None:
    if content:
        (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ActratioError, match=words):
        read_gpt(tmp_path / "t.csv")
