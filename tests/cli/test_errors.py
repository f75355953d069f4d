"""Bad input and interrupts: one clear sentence and an exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actratio import cli
from actratio.studies import MlpStudy
from actratio.studies.runner import Runner
from tests.cli.conftest import Actratio, Refused

SMALL = ["--architectures", "16-10,24-8-10", "--seeds", "2", "--epochs", "2"]


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
    "no study": (["report", "."], "holds neither a study nor a measurement"),
    "unknown option": (["study", "mlp", "--widths", "3"], "--widths"),
    "no architecture": (["study", "mlp", "--architectures", ""], "--architectures '' names nothing"),
    "a label that is known": (["study", "mlp", "--label", "species"], "omit --label"),
    "no published table": (["study", "mlp", "--published", "nothing.csv"], "nothing.csv is not a file"),
    "not a published table": (["study", "mlp", "--published", "widths.csv"], "the article's columns"),
    "no such split": (["fit", "widths.csv", "--split", "val"], "no column split"),
    "out is a file": (["study", "mlp", "--out", "text.csv"], "is a file"),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_sentence_and_status_two(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    arguments, words = BAD_INPUT[name]
    (tmp_path / "text.csv").write_text("a,b\n1,2\n")
    (tmp_path / "text.parquet").write_text("no parquet")
    (tmp_path / "widths.csv").write_text("width,active_mean\n64,20\n128,30\n")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    said = refused(*arguments)
    assert words in said
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.rglob("*")) == before  # nothing half-written


def test_bad_input_in_a_process_of_its_own(tmp_path: Path, actratio_process: Actratio) -> None:
    done = actratio_process("study", "mlp", "--datasets", "minst", cwd=tmp_path, check=2)
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no data set 'minst'")


def test_cuda_without_a_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    arguments = ["study", "mlp", "--device", "cuda", "--out", str(tmp_path / "run")]
    assert "no GPU" in refused(*arguments)


def test_other_settings_in_the_folder_are_refused(tmp_path: Path, refused: Refused) -> None:
    out = str(tmp_path / "run")
    Runner(MlpStudy(architectures=("16-10",), seeds=2), tmp_path / "run")
    arguments = ["study", "mlp", "--architectures", "16-10", "--seeds", "2", "--bias", "--out", out]
    assert "other settings (bias: False there, True here)" in refused(*arguments)


@pytest.mark.parametrize(
    "content", ['{"settings": {}, "provenance": {}}', '{"settings": null, "provenance": null}', "[]", "{"]
)
def test_damaged_settings_are_refused(content: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "settings.json").write_text(content)
    assert "is damaged" in refused("report", str(tmp_path))


def test_an_interrupt_while_drawing_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("actratio.laws.observations.read_observations", interrupted)
    monkeypatch.setattr(sys, "argv", ["actratio", "fit", "t.csv"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert "run the same command again" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437"])
def test_output_in_an_encoding_without_some_characters(encoding: str, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("width,active_mean\n64,24\n256,48\n1024,96\n")
    command = [sys.executable, "-m", "actratio", "fit", str(table)]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"A grows as" in done.stdout
