"""The contract of a study, checked on every registered one.

To cover a new study, add a small version of it to ``SMALL``; ``test_every_study_is_covered`` fails until then.
"""

from __future__ import annotations

import json
import pickle
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from actratio import ActratioError
from actratio.files import read_table
from actratio.studies import (
    STUDIES,
    ActivationStudy,
    ArchitecturesStudy,
    FeaturesStudy,
    MlpStudy,
    Study,
    TasksStudy,
    TrainingStudy,
    TransformerStudy,
)
from actratio.studies import folder as folder_module
from actratio.studies.folder import RunFolder
from actratio.studies.runner import FinishedRun, Runner
from tests.conftest import ROOT
from tests.faults.processes import Command, run_actratio


@pytest.fixture(scope="module")
def models(tiny_gpt2: Callable[..., Any], minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Folders of two small models with a tokenizer."""
    import transformers

    folders = []
    for activation in ("relu", "gelu_new"):
        folder = tmp_path_factory.mktemp("models") / activation
        tiny_gpt2(activation).save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
        folders.append(str(folder))
    return folders[0], folders[1]


def king_text(models: tuple[str, str]) -> Path:
    """A text file beside the models."""
    path = Path(models[0]).parent / "king.txt"
    path.write_text("Once upon a time in a faraway land, there was a king who had a fox. " * 60, encoding="utf-8")
    return path


SMALL: dict[str, Callable[[tuple[str, str]], tuple[Study, list[str], dict[str, Any]]]] = {
    # A study of at least two units, the options of the command that runs it, and a field with another value.
    "mlp": lambda _: (
        MlpStudy(architectures=("40-10", "24-8-10"), seeds=2, epochs=4, device="cpu"),
        ["--architectures", "40-10,24-8-10", "--seeds", "2", "--epochs", "4", "--device", "cpu"],
        {"epochs": 5},
    ),
    "training": lambda _: (
        TrainingStudy(dataset="digits", widths=("8",), seeds=2, epochs=1, examples=64, networks=2, device="cpu"),
        [
            *[
                "--dataset",
                "digits",
                "--widths",
                "8",
                "--seeds",
                "2",
                "--epochs",
                "1",
                "--examples",
                "64",
                "--networks",
                "2",
                "--device",
                "cpu",
            ]
        ],
        {"examples": 65},
    ),
    "transformer": lambda models: (
        TransformerStudy(models=models, prompts=("A king.", "A fox and a hound."), device="cpu"),
        ["--models", ",".join(models), "--prompt", "A king.", "--prompt", "A fox and a hound.", "--device", "cpu"],
        {"prompts": ("A queen.",)},
    ),
    "features": lambda _: (
        FeaturesStudy(tests=("teachers", "capacity"), widths=("16", "32"), seeds=2, steps=40, dataset="digits"),
        ["--tests", "teachers,capacity", "--widths", "16,32", "--seeds", "2", "--steps", "40", "--dataset", "digits"],
        {"steps": 41},
    ),
    "tasks": lambda _: (
        TasksStudy(tasks=("segment", "digits"), widths=("8", "16", "32"), seeds=2, steps=40, device="cpu"),
        ["--tasks", "segment,digits", "--widths", "8,16,32", "--seeds", "2", "--steps", "40", "--device", "cpu"],
        {"steps": 41},
    ),
    "architectures": lambda models: (
        ArchitecturesStudy(models=models[:1], texts=(str(ROOT / "README.md"),), tokens=160, blocks=4, device="cpu"),
        [
            "--models",
            models[0],
            "--texts",
            str(ROOT / "README.md"),
            "--tokens",
            "160",
            "--blocks",
            "4",
            "--device",
            "cpu",
        ],
        {"seed": 1},
    ),
    "activation": lambda models: (
        ActivationStudy(
            parts=("pretrained", "mlp"), models=models[1:], datasets=("digits",), width=8, epochs=3, seeds=2, documents=2,
            arms=("relu", "gelu"), text=king_text(models),
        ),
        [
            "--parts", "pretrained,mlp", "--models", models[1], "--datasets", "digits", "--width", "8", "--epochs", "3", "--seeds", "2",
            "--documents", "2", "--arms", "relu,gelu", "--text", str(king_text(models)),
        ],
        {"epochs": 4},
    ),
}  # fmt: skip


@pytest.fixture(params=list(STUDIES))
def small(request: pytest.FixtureRequest, models: tuple[str, str]) -> tuple[Study, list[str], dict[str, Any]]:
    return SMALL[request.param](models)


@pytest.fixture
def study(small: tuple[Study, list[str], dict[str, Any]]) -> Study:
    return small[0]


def finished(study: Study, folder: Path) -> Runner:
    runner = Runner(study, folder)
    runner.execute()
    return runner


_FINISHED: dict[str, Path] = {}
_PROGRESS: dict[str, dict[str, float]] = {}
"""The finished run of each study, and what it reported of each unit."""


@pytest.fixture
def run(study: Study, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Return a finished run of the study in a folder of this test's own, which is a copy: each study runs once."""
    if study.name not in _FINISHED:
        folder = tmp_path_factory.mktemp("finished") / "run"
        reported: dict[str, float] = {}

        def progress(unit: str, cost: float) -> None:
            reported[unit] = reported.get(unit, 0) + cost

        Runner(study, folder).execute(progress)
        _FINISHED[study.name], _PROGRESS[study.name] = folder, reported
    shutil.copytree(_FINISHED[study.name], tmp_path / "run")
    return Runner(study, tmp_path / "run")


def contents(folder: Path) -> dict[str, bytes]:
    """Everything that a report writes: the page, the figures and the exported tables."""
    paths = [folder / "report.html", *folder.glob("*.csv"), *(folder / "figures").iterdir()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_every_study_is_covered() -> None:
    assert set(SMALL) == set(STUDIES)
    assert all(name == study.name for name, study in STUDIES.items())


def test_units_are_named_uniquely_and_can_be_sent_to_another_process(study: Study) -> None:
    units = study.units()
    assert len(units) >= 2
    assert len({unit.name for unit in units}) == len(units)
    assert all(unit.cost > 0 for unit in units)
    sent_study, sent_units = pickle.loads(pickle.dumps((study, units)))
    assert sent_units == units
    assert sent_study.settings() == study.settings()


class _Forgetful:
    """A checkpoint of a unit that runs without a folder, as in another process."""

    def load(self) -> None:
        return None

    def save(self, make_arrays: Callable[[], Any]) -> None:
        pass

    def advance(self, share: float) -> None:
        pass

    def unusable(self, error: Exception) -> Exception:
        return error


def test_units_are_independent_of_each_other_and_of_their_order(study: Study, run: Runner) -> None:
    for unit in reversed(run.units):
        again = pickle.loads(pickle.dumps(study)).run(unit, _Forgetful())
        arrays = run.folder.load_unit(unit.name)
        assert set(again) == set(arrays)
        for name, array in arrays.items():
            assert again[name].numpy().tobytes() == array.numpy().tobytes(), name  # NaN equals NaN


def test_the_table_has_the_declared_columns_and_the_settings(study: Study, run: Runner) -> None:
    frame, metadata = read_table(run.folder.table_path)
    assert set(study.columns) <= set(frame.columns)
    assert metadata["settings"] == json.loads(json.dumps(study.settings()))
    assert {"actratio", "torch", "date", "commit"} <= set(metadata["provenance"])
    pd.testing.assert_frame_equal(frame, run.frame(), check_exact=True)


def test_a_finished_study_is_not_computed_again(study: Study, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run.folder.table_path.read_bytes()
    monkeypatch.setattr(type(study), "run", None)  # computing a unit would fail
    assert finished(study, run.folder.path).folder.table_path.read_bytes() == before


def test_other_settings_are_refused_and_nothing_changes(
    small: tuple[Study, list[str], dict[str, Any]], run: Runner, tmp_path: Path
) -> None:
    study, _, change = small
    before = run.folder.table_path.read_bytes()
    with pytest.raises(ActratioError, match=rf"other settings \({next(iter(change))}"):
        Runner(replace(study, **change), tmp_path / "run")  # type: ignore[type-var]
    assert (tmp_path / "run" / "results.parquet").read_bytes() == before


def run_to_its_first_unit(arguments: list[object]) -> None:
    """Run ``actratio`` and wait after the first finished unit of the study, so that a kill always comes in the middle of it."""
    save = RunFolder.save_unit
    RunFolder.save_unit = lambda *given: (save(*given), time.sleep(600))  # type: ignore[assignment,method-assign]
    run_actratio(arguments)


# tests/faults kills a study at every file that it writes; these take longer.
@pytest.mark.parametrize(
    "small", ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in STUDIES if name != "mlp")], indirect=True
)
def test_kill_nine_and_resume_gives_the_identical_table(
    small: tuple[Study, list[str], dict[str, Any]], run: Runner, tmp_path: Path
) -> None:
    study, options, _ = small
    folder = tmp_path / "cut"
    arguments = ["study", study.name, *options, "--out", str(folder)]
    process = Command(partial(run_to_its_first_unit, arguments), tmp_path / "log").process
    deadline = time.monotonic() + 120
    while not any((folder / "neurons").glob("[!.]*.safetensors")):
        assert process.is_alive(), "the study ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()
    assert len(Runner(study, folder).finished) == 1
    resumed = finished(study, folder)
    pd.testing.assert_frame_equal(
        read_table(resumed.folder.table_path)[0], read_table(run.folder.table_path)[0], check_exact=True
    )


# Figures of one study are drawn; those of the others are empty, except in the slow tests. The page has their numbers in any case.
@pytest.mark.parametrize("draws", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "drawn"])
def test_the_report_is_redrawn_byte_for_byte_by_the_command(
    draws: bool,
    request: pytest.FixtureRequest,
    run: Runner,
    run_command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not (draws or run.study.name == "mlp"):
        request.getfixturevalue("blank_figures")
    folder = run.folder.path
    FinishedRun.read(folder).write_report()
    before = contents(folder)
    (folder / "report.html").unlink()
    assert run_command("report", folder) == 0
    assert contents(folder) == before
    assert "report.html" in capsys.readouterr().out


@pytest.mark.usefixtures("blank_figures")
def test_json_is_one_object_of_the_common_schema(
    small: tuple[Study, list[str], dict[str, Any]],
    run: Runner,
    tmp_path: Path,
    run_command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    study, options, _ = small
    assert run.folder.path == tmp_path / "run"  # it has finished, and the command finds that
    assert run_command("study", study.name, *options, "--out", tmp_path / "run", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert {"settings", "rows", "path", "verdicts", "sentences"} <= set(said)
    assert said["settings"] == json.loads(json.dumps(study.settings()))
    assert said["path"] == str(tmp_path / "run")
    frame = pd.read_parquet(tmp_path / "run" / "results.parquet")
    assert [list(row) for row in said["rows"][:1]] == [list(frame.columns)]
    assert len(said["rows"]) == len(frame)
    assert said["sentences"]
    assert all(isinstance(sentence, str) for sentence in said["sentences"])
    for verdict in said["verdicts"]:
        assert set(verdict) == {
            *("claim", "verdict", "figure", "estimate", "interval", "bounds", "rule", "confirmatory"),
            *("predicted", "prediction"),
        }
    assert run_command("report", tmp_path / "run", "--json") == 0
    assert json.loads(capsys.readouterr().out) == said


@pytest.mark.usefixtures("blank_figures")
def test_a_quick_run_says_no_more_than_that_it_is_one(
    small: tuple[Study, list[str], dict[str, Any]],
    run: Runner,
    tmp_path: Path,
    run_command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    study, options, _ = small
    assert run_command("study", study.name, *options, "--out", tmp_path / "quick", "--quick", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["settings"]["quick"] is True
    assert said["verdicts"] == []
    assert len(said["sentences"]) == 1
    assert "quick run" in said["sentences"][0]
    full = FinishedRun.read(run.folder.path).findings
    page = (tmp_path / "quick" / "report.html").read_text(encoding="utf-8")
    assert "quick run" in page
    assert not [sentence for sentence in full.sentences if sentence in page]
    # A quick run and a full one don't mix.
    with pytest.raises(ActratioError, match="other settings"):
        Runner(study, tmp_path / "quick")


def test_the_command_announces_and_lists_the_study(
    study: Study, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("study", "--list", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {"name": study.name, "description": study.summary} in rows
    assert study.announce()
    assert run_command("study", study.name, "--help") == 0
    assert study.summary.split()[0] in capsys.readouterr().out


def test_progress_adds_up_to_the_cost(study: Study, run: Runner) -> None:
    assert _PROGRESS[study.name] == pytest.approx({unit.name: unit.cost for unit in run.units})


def test_a_folder_with_nothing_finished_is_refused(
    study: Study, tmp_path: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    Runner(study, tmp_path / "run")
    assert run_command("report", tmp_path / "run") == 2
    assert f"no finished {study.unit_noun}" in " ".join(capsys.readouterr().err.split())


def test_an_unknown_study_is_named(
    tmp_path: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.json").write_text('{"settings": {"study": "astrology"}, "provenance": {}}')
    assert run_command("report", tmp_path) == 2
    assert "a study named 'astrology'" in " ".join(capsys.readouterr().err.split())


def test_a_report_of_an_unfinished_study_says_so(
    study: Study, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Incomplete" not in FinishedRun.read(run.folder.path).findings.sentences[0]
    runner = Runner(study, tmp_path / "stopped")
    save = type(runner.folder).save_unit

    def stop_after_the_first(*arguments: Any) -> None:
        save(*arguments)
        runner._write_table({})
        raise KeyboardInterrupt

    monkeypatch.setattr(type(runner.folder), "save_unit", stop_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        runner.execute()
    monkeypatch.undo()
    first = FinishedRun.read(tmp_path / "stopped").findings.sentences[0]
    assert first.startswith(f"Incomplete: 1 of {len(runner.units)} {study.unit_noun}s finished")


def test_a_runner_without_finished_units_has_no_table(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ActratioError, match=f"no finished {study.unit_noun}"):
        Runner(study, tmp_path / "run").frame()


def test_two_studies_that_start_together_do_not_share_a_folder(
    small: tuple[Study, list[str], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _, change = small
    folder = tmp_path / "run"
    lock = folder_module.FileLock
    other_writes = iter([True])

    def lock_after_the_other_study_has_written(*arguments: Any, **options: Any) -> Any:
        if next(other_writes, False):
            Runner(replace(study, **change), folder)  # type: ignore[type-var]
        return lock(*arguments, **options)

    monkeypatch.setattr(folder_module, "FileLock", lock_after_the_other_study_has_written)
    with pytest.raises(ActratioError, match="other settings"):
        Runner(study, folder)
