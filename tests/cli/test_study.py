"""The command ``study``."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from actratio.laws.law import LAWS
from tests.cli.conftest import Actratio

SMALL = ["--architectures", "16-10,24-8-10", "--seeds", "2", "--epochs", "2"]


def test_study_prints_the_table_and_the_paths_of_what_it_wrote(tmp_path: Path, actratio: Actratio) -> None:
    done = actratio("study", "mlp", *SMALL, cwd=tmp_path)
    assert "training ratio" in done.stdout
    assert "not decidable from this" in done.stdout
    assert "√N" in done.stdout
    folder = tmp_path / "runs" / "mlp-digits"
    assert (folder / "results.parquet").is_file()
    assert (folder / "report.html").is_file()
    assert len(list((folder / "figures").glob("*.svg"))) == len(list((folder / "figures").glob("*.png"))) == 6
    assert "runs/mlp-digits/results.parquet" in done.stdout
    assert "2 seeds, 2 epochs, without biases, on cpu" in done.stderr
    assert "2 trainings; results in" in done.stderr
    assert "100% done" in done.stderr  # without a terminal


def test_a_study_of_constants_ends_and_its_figures_say_that_nothing_varies(tmp_path: Path, actratio: Actratio) -> None:
    rows = "".join(f"1,2,{'ab'[row % 2]}\n" for row in range(40))
    (tmp_path / "constant.csv").write_text(f"x,y,label\n{rows}")
    done = actratio(
        "study", "mlp", "--datasets", "constant.csv", "--architectures", "8-2,16-2", *SMALL[2:], cwd=tmp_path
    )
    assert "Warning" not in done.stderr
    assert "no observations are left to fit" in done.stdout
    page = (tmp_path / "runs" / "mlp-constant.csv" / "report.html").read_text()
    assert page.count("Nothing varies: every value is 0.") >= 2


def test_json_is_alone_on_stdout_and_csv_has_the_article_s_columns(
    tmp_path: Path, actratio: Actratio, actratio_process: Actratio
) -> None:
    done = actratio_process("study", "mlp", *SMALL, "--json", "--csv", "--out", "here", cwd=tmp_path)
    content = json.loads(done.stdout)
    assert set(content) == {"settings", "rows", "path", "laws", "verdicts", "sentences", "afterwards"}
    assert content["path"] == "here"
    frame = pd.read_parquet(tmp_path / "here" / "results.parquet")
    assert len(content["rows"]) == len(frame)
    assert content["rows"][0]["activation_ratio"] == frame["activation_ratio"].iloc[0]
    assert content["laws"][0]["dataset"] == "digits"
    assert [law["law"] for law in content["laws"][0]["laws"]] == list(LAWS)
    article = pd.read_csv(tmp_path / "here" / "article.csv")
    assert article.columns[:3].tolist() == ["Dataset", "Model", "Epoch"]
    tidy = pd.read_csv(tmp_path / "here" / "results.csv")
    assert "activation_ratio" in tidy.columns
    fitted = json.loads(actratio("fit", "here/article.csv", "--json", cwd=tmp_path).stdout)
    again = json.loads(actratio("fit", "here", "--json", cwd=tmp_path).stdout)
    ours, theirs = (fit["laws"][0]["laws"][0]["parameters"]["F"]["value"] for fit in (fitted, again))
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_a_study_of_one_width_is_shown_without_laws(tmp_path: Path, actratio: Actratio) -> None:
    done = actratio(
        "study", "mlp", "--architectures", "16-10", "--seeds", "2", "--epochs", "1", "--out", "run", cwd=tmp_path
    )
    assert "no law was fitted: all observations have the width 16" in " ".join(done.stdout.split())
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_file_with_a_comma_in_its_name_is_one_data_set(tmp_path: Path, actratio: Actratio) -> None:
    rows = [f"{i % 7},{i % 5},{i % 2}" for i in range(40)]
    (tmp_path / "a,b.csv").write_text("\n".join(["x,y,label", *rows]))
    arguments = ["--datasets", "a,b.csv", "--architectures", "4-2,3-2", "--seeds", "1", "--epochs", "1", "--out", "run"]
    assert "a,b.csv" in actratio("study", "mlp", *arguments, cwd=tmp_path).stdout
