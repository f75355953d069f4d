"""The study of MLPs: its table, and what happens when it is stopped, repeated or asked for something else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from actratio import ActratioError
from actratio.data import load_dataset
from actratio.files import read_table
from actratio.laws.observations import (
    ARTICLE_COLUMNS,
    fit_observations,
    from_article,
    read_observations,
    to_article,
)
from actratio.studies import MlpStudy
from actratio.studies.mlp import crossed
from actratio.studies.mlp import study as mlp
from actratio.studies.mlp.history import TIDY_COLUMNS, from_tensors, to_tensors
from actratio.studies.runner import FinishedRun, Runner

SMALL = MlpStudy(architectures=("16-10", "24-8-10"), seeds=2, epochs=3, device="cpu")


def run(study: MlpStudy, out: Path) -> Runner:
    runner = Runner(study, out)
    runner.execute()
    return runner


def test_the_tidy_table_holds_every_seed_epoch_split_and_layer(tmp_path: Path) -> None:
    made = run(SMALL, tmp_path / "run")
    frame, metadata = read_table(made.folder.table_path)
    assert list(frame.columns) == list(TIDY_COLUMNS)
    layers = 2 + 3
    assert len(frame) == layers * 2 * 2 * (3 + 1)  # seeds, splits, epochs with epoch 0
    assert not frame.duplicated(["architecture", "seed", "epoch", "split", "layer"]).any()
    assert set(frame["architecture"]) == {"64-16-10", "64-24-8-10"}
    assert set(frame.loc[frame["tensor"] == "logits", "width"]) == {10}
    assert set(frame.loc[frame["split"] == "train", "tokens"]) == {1437}
    assert set(frame.loc[frame["split"] == "val", "tokens"]) == {360}
    assert set(frame.loc[frame["epoch"] == 3, "step"]) == {3 * 23}  # 1437 examples in batches of 64
    np.testing.assert_allclose(frame["active_mean"], frame["activation_ratio"] * frame["width"])
    totals = frame["active_mean"] * frame["tokens"]
    np.testing.assert_allclose(totals, totals.round(), atol=1e-6)  # whole numbers of active neurons
    # The spread over examples is known wherever a whole split was evaluated at once.
    assert frame.loc[(frame["split"] == "val") | (frame["epoch"] == 0), "ratio_std"].notna().all()
    assert metadata["settings"]["data"]["digits"]["fingerprint"] == load_dataset("digits").fingerprint
    assert {"actratio", "torch", "date", "commit"} <= set(metadata["provenance"])


def test_epoch_zero_is_the_untrained_network(tmp_path: Path) -> None:
    frame = run(SMALL, tmp_path / "run").frame()
    data = load_dataset("digits")
    torch.manual_seed(1)
    layer = torch.nn.Linear(64, 24, bias=False)
    fired = (layer(torch.from_numpy(data.x_train)) > 0).sum().item()
    row = frame.query(
        "architecture == '64-24-8-10' and seed == 1 and epoch == 0 and split == 'train' and layer == 0"
    ).iloc[0]
    assert row["active_mean"] == fired / 1437


def test_dead_and_always_on_neurons_come_from_the_neurons_file(tmp_path: Path) -> None:
    made = run(SMALL, tmp_path / "run")
    frame = made.frame()
    unit = made.units[1]
    arrays = made.folder.load_unit(unit.name)
    active = arrays["train.0.active"]
    assert active.shape == (4, 2, 24)
    assert active.dtype == torch.int64
    rows = frame.query("architecture == '64-24-8-10' and split == 'train' and layer == 0").sort_values(
        ["epoch", "seed"]
    )
    assert rows["dead"].tolist() == (active == 0).sum(2).flatten().tolist()
    assert rows["always_on"].tolist() == (active * 100 >= 99 * 1437).sum(2).flatten().tolist()


def test_history_survives_its_arrays(tmp_path: Path) -> None:
    made = run(SMALL, tmp_path / "run")
    arrays = made.folder.load_unit(made.units[0].name)
    again = to_tensors(from_tensors(arrays))
    assert set(again) == set(arrays)
    assert all(torch.equal(again[name], arrays[name]) for name in arrays)


def test_a_seed_does_not_depend_on_which_others_are_stacked_with_it(tmp_path: Path) -> None:
    few = run(replace(SMALL, architectures=("24-8-10",), seeds=1, epochs=2), tmp_path / "few").frame()
    many = run(replace(SMALL, architectures=("24-8-10",), seeds=4, epochs=2), tmp_path / "many").frame()
    same = many[many["seed"] == 0].reset_index(drop=True)
    # Up to rounding: a unit at the edge of zero may fall on the other side.
    np.testing.assert_allclose(few["activation_ratio"], same["activation_ratio"], atol=1e-3)
    np.testing.assert_allclose(few["val_loss"], same["val_loss"], rtol=1e-4)
    assert many.query("epoch == 2 and split == 'val' and layer == 0")["activation_ratio"].nunique() == 4


def test_the_same_study_twice_gives_the_same_table(tmp_path: Path) -> None:
    pd.testing.assert_frame_equal(
        run(SMALL, tmp_path / "a").frame(), run(SMALL, tmp_path / "b").frame(), check_exact=True
    )


def test_a_finished_study_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(SMALL, tmp_path / "run").frame()
    monkeypatch.setattr(mlp, "Trainer", None)  # any training would fail
    pd.testing.assert_frame_equal(run(SMALL, tmp_path / "run").frame(), first, check_exact=True)


def test_a_study_resumes_inside_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(SMALL, tmp_path / "whole").frame()
    monkeypatch.setattr("actratio.studies.runner._CHECKPOINT_SECONDS", 0.0)
    interrupted = Runner(SMALL, tmp_path / "cut")
    calls = []

    def stop(unit: str, cost: float) -> None:
        calls.append(unit)
        if len(calls) == 4 + 3:  # in the second training, after its second epoch's checkpoint
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted.execute(stop)
    assert len(interrupted.finished) == 1
    epochs = []
    original = mlp.Trainer.epoch
    monkeypatch.setattr(mlp.Trainer, "epoch", lambda self: epochs.append(self.epochs_done) or original(self))
    resumed = run(SMALL, tmp_path / "cut").frame()
    assert epochs == [1, 2]  # neither the first training nor the second one's first epoch is done again
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)


@pytest.mark.slow  # tests/faults kills a smaller study at every file that it writes
def test_kill_nine_in_the_middle_and_resume_gives_the_identical_table(tmp_path: Path) -> None:
    arguments = ["study", "mlp", "--seeds", "2", "--epochs", "40", "--architectures", "512-256-10,300-10", "--json"]
    # Checkpoints as often as can be, because the test cannot wait for the usual seconds.
    script = (
        "from actratio.cli import main; from actratio.studies import runner; runner._CHECKPOINT_SECONDS = 0.0; main()"
    )
    command = [sys.executable, "-c", script, *arguments, "--out", str(tmp_path / "cut")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    neurons = tmp_path / "cut" / "neurons"
    deadline = time.monotonic() + 100
    while not (neurons.is_dir() and any(neurons.glob("*.safetensors"))):
        assert process.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # Inside the second training, some epochs of which are in the checkpoint.
    checkpoints = tmp_path / "cut" / "checkpoints"
    while not any(checkpoints.glob("[!.]*.safetensors")):
        assert process.poll() is None, "the study ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(neurons.glob("*.safetensors"))) == 1
    assert any(checkpoints.iterdir())
    study = MlpStudy(architectures=("512-256-10", "300-10"), seeds=2, epochs=40)
    resumed = run(study, tmp_path / "cut")
    whole = run(study, tmp_path / "whole")
    pd.testing.assert_frame_equal(
        read_table(resumed.folder.table_path)[0], read_table(whole.folder.table_path)[0], check_exact=True
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 4}, "epochs: 3 there, 4 here"),
        ({"bias": True}, "bias: False there, True here"),
        ({"architectures": ("16-10",)}, r"data.digits.architectures: 64-16-10, 64-24-8-10 there, 64-16-10 here"),
        ({"datasets": ("digits", "letter.csv")}, r"datasets: digits there, digits, letter.csv here"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(
    tmp_path: Path, change: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("letter.csv").write_text("\n".join(["a,label", *(f"{i},{i % 10}" for i in range(100))]))
    before = run(SMALL, tmp_path / "run").folder.table_path.read_bytes()
    with pytest.raises(ActratioError, match=words):
        Runner(replace(SMALL, **change), tmp_path / "run")  # type: ignore[arg-type]
    assert (tmp_path / "run" / "results.parquet").read_bytes() == before


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ActratioError, match="not empty and holds no study"):
        Runner(SMALL, tmp_path)
    with pytest.raises(ActratioError, match="is a file"):
        Runner(SMALL, tmp_path / "thesis.tex")


def test_damaged_results_are_named(tmp_path: Path) -> None:
    made = run(SMALL, tmp_path / "run")
    made.folder.unit_file(made.units[0].name).write_bytes(b"not safetensors")
    with pytest.raises(ActratioError, match="is damaged"):
        made.frame()
    (tmp_path / "run" / "settings.json").write_text("{")
    with pytest.raises(ActratioError, match=r"settings\.json is damaged"):
        Runner(SMALL, tmp_path / "run")


def test_a_hostile_data_set_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    made = Runner(SMALL, tmp_path / "run")
    path = made.folder.unit_file("../../<script>--64-10")
    assert path.parent == tmp_path / "run" / "neurons"
    assert made.folder.unit_file("a/b") != made.folder.unit_file("a_b")


def test_the_article_s_columns_are_written_and_read_back(tmp_path: Path, published: Path) -> None:
    frame = run(SMALL, tmp_path / "run").frame()
    article = to_article(frame)
    theirs = pd.read_csv(published)
    assert list(article.columns)[: len(theirs.columns)] == list(theirs.columns) == list(ARTICLE_COLUMNS)
    assert article["Model"].iloc[0] == "64=>16=>10"
    assert article["Epoch"].min() == 1
    assert article["Layer"].min() == 1
    back = from_article(article)
    ours = frame[(frame["split"] == "train") & (frame["epoch"] > 0)]
    np.testing.assert_array_equal(back["active_mean"], ours["active_mean"])
    np.testing.assert_array_equal(back["logits"], ours["tensor"] == "logits")


def test_settings_are_json_with_provenance(tmp_path: Path) -> None:
    made = Runner(SMALL, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert content["settings"]["epochs"] == 3
    assert content["settings"]["data"]["digits"]["architectures"] == ["64-16-10", "64-24-8-10"]
    assert content["provenance"]["threads"] >= 1
    assert [name for name in os.listdir(made.folder.path) if name.startswith(".")] == [".lock"]


def test_a_kill_between_a_training_and_its_table_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(SMALL, tmp_path / "whole").frame()
    made = Runner(SMALL, tmp_path / "run")
    write, calls = Runner._write_table, []

    def killed(self: Runner, known: dict[str, pd.DataFrame]) -> None:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(self, known)

    monkeypatch.setattr(Runner, "_write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        made.execute()
    monkeypatch.undo()
    assert len(read_table(made.folder.table_path)[0]) < len(whole)
    again = run(SMALL, tmp_path / "run")
    pd.testing.assert_frame_equal(read_table(again.folder.table_path)[0], whole)


def test_a_damaged_table_is_made_again(tmp_path: Path) -> None:
    made = run(SMALL, tmp_path / "run")
    before = read_table(made.folder.table_path)[0]
    made.folder.table_path.write_bytes(b"PAR1 and nothing")
    pd.testing.assert_frame_equal(read_table(run(SMALL, tmp_path / "run").folder.table_path)[0], before)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    made = Runner(SMALL, tmp_path / "run")
    made.folder.save_checkpoint(made.units[0].name, {"other": torch.zeros(2)})
    with pytest.raises(ActratioError, match="damaged"):
        made.execute()


def test_the_same_architecture_in_two_spellings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ActratioError, match="16-10 and 64-16-10 are the same architecture"):
        Runner(MlpStudy(architectures=("16-10", "64-16-10")), tmp_path / "run")


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    made = Runner(SMALL, tmp_path / "run")
    with made.folder.working(), pytest.raises(ActratioError, match="in use by another process"):
        made.execute()
    made.execute()


def test_what_a_kill_left_before_the_first_step_does_not_stop_the_study(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".1234.settings.json").write_text("{")
    made = run(SMALL, folder)
    assert made.folder.table_path.is_file()
    assert not (folder / ".1234.settings.json").exists()


def test_other_software_that_goes_on_with_a_study_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(unit: str, cost: float) -> None:
        if made.finished:
            raise KeyboardInterrupt

    made = Runner(SMALL, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        made.execute(stop)
    assert "resumed" not in read_table(made.folder.table_path)[1]["provenance"]
    now = made.folder.provenance | {"torch": "9.9.9"}
    monkeypatch.setattr("actratio.studies.folder.current_provenance", lambda: now)
    again = run(SMALL, tmp_path / "run")
    resumed = read_table(again.folder.table_path)[1]["provenance"]["resumed"]
    assert [provenance["torch"] for provenance in resumed] == ["9.9.9"]
    # What is finished was made by nobody else, whoever draws it again.
    before = again.folder.table_path.read_bytes()
    monkeypatch.setattr("actratio.studies.folder.current_provenance", lambda: now | {"torch": "10"})
    assert run(SMALL, tmp_path / "run").folder.table_path.read_bytes() == before


def test_a_long_path_of_a_data_set_still_names_a_file(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120) / ("e" * 120)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = [f"{x:.3f},{y:.3f},{i % 2}" for i, (x, y) in enumerate(rng.random((40, 2)))]
    (folder / "a.csv").write_text("\n".join(["a,b,label", *rows]))
    made = run(MlpStudy(datasets=(str(folder / "a.csv"),), architectures=("4-2",), seeds=1, epochs=1), tmp_path / "run")
    assert len(made.finished) == 1


def test_published_measurements_of_other_datasets_are_ignored(tmp_path: Path, published: Path) -> None:
    study = replace(SMALL, epochs=1)
    run(study, tmp_path / "run")
    findings = FinishedRun.read(tmp_path / "run", study.read_published(published)).findings
    assert not any("published" in name for table in findings.tables for name in table.header)
    assert not any("published" in series.name for chart in findings.charts for series in chart.series)


@pytest.fixture
def small_crossed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crossed block that is small enough for digits."""
    for module in (mlp, crossed):
        monkeypatch.setattr(module, "CROSSED_EXAMPLES", 300)
    monkeypatch.setattr(crossed, "CROSSED_WIDTHS", (4, 8, 16))


def test_the_crossed_block_is_part_of_the_study(small_crossed: None, tmp_path: Path) -> None:
    study = replace(SMALL, epochs=1)
    assert "digits, crossed block: 300 examples, 15 architectures" in study.announce()
    made = run(study, tmp_path / "run")
    assert len(made.units) == 2 + 15
    frame = made.frame()
    assert set(frame["block"]) == {"article", "b0"}
    rows = frame[frame["block"] == "b0"]
    assert rows["architecture"].nunique() == 15
    assert set(rows.loc[rows["split"] == "train", "tokens"]) == {300}
    assert set(rows.loc[rows["split"] == "val", "tokens"]) == {360}
    findings = FinishedRun.read(tmp_path / "run").findings
    assert any(table.title.startswith("Crossed widths and depths") for table in findings.tables)
    (verdict,) = [verdict for verdict in findings.verdicts if "from the second layer on" in verdict.claim]
    assert not verdict.confirmatory  # the prediction is about MNIST and Fashion-MNIST
    # The article's table and the laws are about the article's networks only.
    assert findings.exports["article.csv"]["Model"].nunique() == 2
    (fitted,) = fit_observations(read_observations(tmp_path / "run"))
    assert fitted.laws.architectures == 2
    assert "the crossed block" in fitted.left_out


def test_the_crossed_block_can_be_left_out_and_needs_enough_examples(
    small_crossed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(replace(SMALL, crossed=False).units()) == 2
    assert len(SMALL.units()) == 2 + 15
    monkeypatch.undo()
    assert len(SMALL.units()) == 2


def test_a_study_of_other_data_is_not_the_planned_one() -> None:
    settings = MlpStudy(seeds=5, epochs=20).settings()
    assert {name for name, value in MlpStudy.planned.items() if settings[name] != value} == {"datasets"}


def test_the_crossed_block_has_fifteen_networks() -> None:
    shapes = crossed.crossed_shapes()
    assert len(shapes) == len(set(shapes)) == 15
    assert {(32, 512), (512, 32), (128,), (512, 512, 512, 512)} < set(shapes)
