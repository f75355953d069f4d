"""The commands as a user meets them: what they print, what they write, how they fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from actratio import cli
from actratio.studies import MlpStudy
from actratio.studies.runner import Runner
from tests.conftest import ROOT

SMALL = ["--architectures", "16-10,24-8-10", "--seeds", "2", "--epochs", "2"]


def actratio(*arguments: str, cwd: Path, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "actratio.cli", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert "Traceback" not in done.stderr
    if check is not None:
        assert done.returncode == check, done.stdout + done.stderr
    return done


def refused(*arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command in this process says on stderr when it ends with status 2 and nothing on stdout."""
    monkeypatch.setattr(sys, "argv", ["actratio", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 2, said
    assert said.out == ""
    return said.err


def test_study_prints_the_table_and_the_paths_of_what_it_wrote(tmp_path: Path) -> None:
    done = actratio("study", "mlp", *SMALL, cwd=tmp_path)
    assert "activation ratio" in done.stdout
    assert "√N" in done.stdout
    folder = tmp_path / "runs" / "mlp-digits"
    assert (folder / "results.parquet").is_file()
    assert (folder / "report.html").is_file()
    assert len(list((folder / "figures").glob("*.svg"))) == len(list((folder / "figures").glob("*.png"))) == 5
    assert "runs/mlp-digits/results.parquet" in done.stdout
    assert "2 seeds, 2 epochs, without biases, on cpu" in done.stderr
    assert "2 trainings; results in" in done.stderr


def test_json_is_one_object_alone_on_stdout(tmp_path: Path) -> None:
    done = actratio("study", "mlp", *SMALL, "--json", "--out", "here", cwd=tmp_path)
    content = json.loads(done.stdout)
    assert set(content) == {"settings", "rows", "path", "laws", "verdicts"}
    assert content["path"] == "here"
    frame = pd.read_parquet(tmp_path / "here" / "results.parquet")
    assert len(content["rows"]) == len(frame)
    assert content["rows"][0]["activation_ratio"] == frame["activation_ratio"].iloc[0]
    assert content["laws"][0]["dataset"] == "digits"
    assert [law["law"] for law in content["laws"][0]["laws"]] == ["sqrt", "power", "saturating", "logarithmic"]


def test_csv_has_the_article_s_columns(tmp_path: Path) -> None:
    actratio("study", "mlp", *SMALL, "--csv", "--out", "run", cwd=tmp_path)
    article = pd.read_csv(tmp_path / "run" / "article.csv")
    assert article.columns[:3].tolist() == ["Dataset", "Model", "Epoch"]
    tidy = pd.read_csv(tmp_path / "run" / "results.csv")
    assert "activation_ratio" in tidy.columns
    fitted = json.loads(actratio("fit", "run/article.csv", "--resamples", "0", "--json", cwd=tmp_path).stdout)
    again = json.loads(actratio("fit", "run", "--resamples", "0", "--json", cwd=tmp_path).stdout)
    ours, theirs = (each["laws"][0]["laws"][0]["parameters"]["F"]["value"] for each in (fitted, again))
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_fit_reads_any_table_of_widths(tmp_path: Path) -> None:
    pd.DataFrame({"width": [64, 256, 1024], "active_mean": [24.0, 48.0, 96.0]}).to_csv(tmp_path / "t.csv", index=False)
    done = actratio("fit", "t.csv", cwd=tmp_path)
    assert "F·√N" in done.stdout
    content = json.loads(actratio("fit", "t.csv", "--json", cwd=tmp_path).stdout)
    assert content["laws"][0]["laws"][0]["parameters"]["F"]["value"] == pytest.approx(3.0)
    assert len(content["rows"]) == 3


def test_what_fit_prints_is_as_before(tmp_path: Path) -> None:
    """The whole of it, against a file; to change it on purpose, write the new output there."""
    widths, active = [32, 64, 128, 256, 512, 1024], [20.0, 24.0, 36.0, 47.0, 70.0, 95.0]
    pd.DataFrame({"width": widths, "active_mean": active}).to_csv(tmp_path / "t.csv", index=False)
    printed = actratio("fit", "t.csv", "--resamples", "200", cwd=tmp_path).stdout
    assert printed == (ROOT / "tests" / "golden" / "fit.txt").read_text(encoding="utf-8")


def test_fit_of_the_article_s_csv_says_whether_the_root_law_holds(tmp_path: Path, published: Path) -> None:
    done = actratio("fit", str(published), "--resamples", "100", cwd=tmp_path)
    assert "mnist: √N" in done.stdout
    assert "fashion_mnist: √N" in done.stdout
    assert "the output layer (logits)" in done.stdout


def test_report_draws_a_study_again(tmp_path: Path) -> None:
    actratio("study", "mlp", *SMALL, "--out", "run", cwd=tmp_path)
    (tmp_path / "run" / "report.html").unlink()
    done = actratio("report", "run", cwd=tmp_path)
    assert "run/report.html" in done.stdout
    assert (tmp_path / "run" / "report.html").stat().st_size > 1_000_000


def test_datasets_lists_the_names(tmp_path: Path) -> None:
    done = actratio("datasets", cwd=tmp_path)
    names = [row["name"] for row in json.loads(actratio("datasets", "--json", cwd=tmp_path).stdout)["rows"]]
    assert names == ["digits", "mnist", "fashion_mnist", "kmnist", "emnist", "letter", "banking77"]
    assert all(name in done.stdout for name in names)


@pytest.mark.parametrize(
    "command", [[], ["study"], ["study", "mlp"], ["study", "transformer"], ["fit"], ["report"], ["datasets"]]
)
def test_every_command_has_help(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["actratio", *command, "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "Usage" in capsys.readouterr().out


def test_version(tmp_path: Path) -> None:
    assert actratio("--version", cwd=tmp_path).stdout.startswith("actratio ")


BAD_INPUT = {
    "unknown data set": (["study", "mlp", "--datasets", "minst"], "there is no data set 'minst'"),
    "no data folder": (["study", "mlp", "--datasets", "mnist", "--data-dir", "nowhere"], "nowhere does not exist"),
    "empty data folder": (["study", "mlp", "--datasets", "mnist", "--data-dir", "."], "mnist is not in ."),
    "hub without network": (["study", "mlp", "--datasets", "nobody/nothing"], "nobody/nothing could not be loaded"),
    "no data set": (["study", "mlp", "--datasets", ","], "--datasets ',' names nothing"),
    "a data set twice": (["study", "mlp", "--datasets", "digits,digits"], "given twice"),
    "not widths": (["study", "mlp", "--architectures", "512-wide-10"], "not whole numbers"),
    "wrong classes": (["study", "mlp", "--architectures", "64-32-7"], "10 classes"),
    "an image's width": (["study", "mlp", "--architectures", "784-32-10"], "28×28"),
    "no seeds": (["study", "mlp", "--seeds", "0"], "--seeds"),
    "unknown device": (["study", "mlp", "--device", "abacus"], "no device 'abacus'"),
    "no table": (["fit", "nothing.csv"], "nothing.csv is not a file"),
    "not a table": (["fit", "text.csv"], "no column width"),
    "not Parquet": (["fit", "text.parquet"], "cannot be read as a Parquet table"),
    "no study": (["report", "."], "holds no study"),
    "unknown option": (["study", "mlp", "--widths", "3"], "--widths"),
    "no architecture": (["study", "mlp", "--architectures", ""], "--architectures '' names nothing"),
    "a label that is known": (["study", "mlp", "--label", "species"], "omit --label"),
    "no published table": (["study", "mlp", "--published", "nothing.csv"], "nothing.csv is not a file"),
    "not a published table": (["study", "mlp", "--published", "widths.csv"], "the article's columns"),
    "no such split": (["fit", "widths.csv", "--split", "val"], "no column split"),
    "out is a file": (["study", "mlp", "--out", "text.csv"], "is a file"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_sentence_and_status_two(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, words = BAD_INPUT[name]
    (tmp_path / "text.csv").write_text("a,b\n1,2\n")
    (tmp_path / "text.parquet").write_text("no parquet")
    (tmp_path / "widths.csv").write_text("width,active_mean\n64,20\n128,30\n")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    said = refused(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert words in said
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.rglob("*")) == before  # nothing half-written


def test_bad_input_in_a_process_of_its_own(tmp_path: Path) -> None:
    done = actratio("study", "mlp", "--datasets", "minst", cwd=tmp_path, check=2)
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no data set 'minst'")


def test_cuda_without_a_gpu_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    arguments = ["study", "mlp", "--device", "cuda", "--out", str(tmp_path / "run")]
    assert "no GPU" in refused(*arguments, monkeypatch=monkeypatch, capsys=capsys)


def test_other_settings_in_the_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    Runner(MlpStudy(architectures=("16-10",), seeds=2), tmp_path / "run")
    arguments = ["study", "mlp", "--architectures", "16-10", "--seeds", "2", "--bias", "--out", out]
    assert "other settings (bias: False there, True here)" in refused(
        *arguments, monkeypatch=monkeypatch, capsys=capsys
    )


def test_control_c_ends_cleanly_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "actratio.cli", "study", "mlp", "--out", "run", "--epochs", "500"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
        # What a shell starts in the background ignores the interrupt, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run" / "settings.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "run the same command again to resume" in errors
    assert "Traceback" not in errors


def test_a_study_of_one_width_is_shown_without_laws(tmp_path: Path) -> None:
    done = actratio(
        "study", "mlp", "--architectures", "16-10", "--seeds", "2", "--epochs", "1", "--out", "run", cwd=tmp_path
    )
    assert "no law was fitted: all observations have the width 16" in " ".join(done.stdout.split())
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_log_without_a_terminal_shows_how_far_it_is(tmp_path: Path) -> None:
    done = actratio("study", "mlp", *SMALL, cwd=tmp_path)
    assert "100% done" in done.stderr


def test_a_file_with_a_comma_in_its_name_is_one_data_set(tmp_path: Path) -> None:
    rows = [f"{i % 7},{i % 5},{i % 2}" for i in range(40)]
    (tmp_path / "a,b.csv").write_text("\n".join(["x,y,label", *rows]))
    arguments = ["--datasets", "a,b.csv", "--architectures", "4-2,3-2", "--seeds", "1", "--epochs", "1", "--out", "run"]
    assert "a,b.csv" in actratio("study", "mlp", *arguments, cwd=tmp_path).stdout


@pytest.mark.parametrize(
    "content", ['{"settings": {}, "provenance": {}}', '{"settings": null, "provenance": null}', "[]", "{"]
)
def test_damaged_settings_are_refused(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.json").write_text(content)
    assert "is damaged" in refused("report", str(tmp_path), monkeypatch=monkeypatch, capsys=capsys)


def test_json_of_a_table_with_dates_and_infinities(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"width": [64, 128], "active_mean": [6.0, 9.0], "day": pd.Timestamp("2024-01-01"), "other": [np.inf, 1.0]}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    rows = json.loads(actratio("fit", "t.parquet", "--json", cwd=tmp_path).stdout)["rows"]
    assert rows[0]["other"] is None
    assert rows[0]["day"].startswith("2024-01-01")


def test_an_interrupt_while_drawing_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("actratio.laws.observations.read_observations", interrupted)
    monkeypatch.setattr(sys, "argv", ["actratio", "fit", "t.csv"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "run the same command again" in capsys.readouterr().err
