"""A study's folder after damage: what can be computed again is, and the rest is one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from actratio import ActratioError
from actratio.files import frame_checksum, read_table
from actratio.studies import MlpStudy
from actratio.studies.folder import unit_seconds
from actratio.studies.runner import FinishedRun, Runner

SMALL = MlpStudy(architectures=("16-10", "24-8-10"), seeds=2, epochs=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "run"
    Runner(SMALL, path).execute()
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def flip(path: Path, place: int = -3) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_damaged_unit_is_computed_again_with_a_note(run: Path) -> None:
    before = read_table(run / "results.parquet")[0]
    runner, notes = Runner(SMALL, run), list[str]()
    flip(runner.folder.unit_file(runner.units[0].name))
    with pytest.raises(ActratioError, match="its checksum does not match"):
        runner.frame()
    runner.execute(note=notes.append)
    assert len(notes) == 1
    assert notes[0].endswith(f"is damaged (its checksum does not match); {runner.units[0].name} is computed again")
    pd.testing.assert_frame_equal(read_table(run / "results.parquet")[0], before)


def test_a_damaged_checkpoint_is_dropped_with_a_note(run: Path) -> None:
    before = read_table(run / "results.parquet")[0]
    runner, notes = Runner(SMALL, run), list[str]()
    unit = runner.units[0].name
    runner.folder.save_checkpoint(unit, runner.folder.load_unit(unit))
    flip(runner.folder.checkpoint_file(unit))
    runner.folder.remove_unit(unit)
    runner.execute(note=notes.append)
    assert [note.rpartition("; ")[2] for note in notes] == [f"{unit} starts again"]
    pd.testing.assert_frame_equal(read_table(run / "results.parquet")[0], before)


def test_a_changed_table_is_refused_and_written_again_from_the_units(run: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(run / "results.parquet")
    column = table.column("active_mean").to_pylist()
    changed = table.set_column(
        table.schema.get_field_index("active_mean"), "active_mean", [[column[0] + 1, *column[1:]]]
    )
    pq.write_table(changed, run / "results.parquet")
    with pytest.raises(ActratioError, match=r"is damaged .*; run the study's command again to write it from the units"):
        FinishedRun.read(run)
    Runner(SMALL, run).execute()
    FinishedRun.read(run)


@pytest.mark.parametrize(
    "content", ["{", "[]", "[" * 100_000, '{"settings": {"study": "mlp"}, "provenance": {}, "units": 3}']
)
def test_damaged_settings_are_one_sentence(content: str, run: Path) -> None:
    (run / "settings.json").write_text(content)
    for read in (FinishedRun.read, lambda path: Runner(SMALL, path)):
        with pytest.raises(ActratioError, match=r"settings\.json is damaged") as raised:
            read(run)
        assert "\n" not in str(raised.value)


def test_changed_settings_are_refused(run: Path) -> None:
    content = json.loads((run / "settings.json").read_text())
    content["settings"]["epochs"] = 30
    (run / "settings.json").write_text(json.dumps(content))
    with pytest.raises(ActratioError, match="its checksum does not match"):
        FinishedRun.read(run)


def test_a_table_whose_checksum_lost_its_name_is_refused(run: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(run / "results.parquet")
    metadata = {key: value.replace(b'"checksum"', b'"checksun"') for key, value in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata(metadata), run / "results.parquet")
    with pytest.raises(ActratioError, match="its checksum does not match"):
        FinishedRun.read(run)


def test_damaged_times_are_dropped(run: Path) -> None:
    assert len(unit_seconds(run)) == 2
    (run / "seconds.json").write_text((run / "seconds.json").read_text().replace(": 0.", ": 9."))
    assert unit_seconds(run) == {}


def test_files_of_earlier_versions_have_no_checksum_and_are_read(run: Path) -> None:
    import pyarrow.parquet as pq

    content = json.loads((run / "settings.json").read_text())
    del content["checksum"]
    (run / "settings.json").write_text(json.dumps(content))
    (run / "seconds.json").write_text(json.dumps(unit_seconds(run)))
    for path in (run / "neurons").iterdir():
        save_file(load_file(path), path)
    table = pq.read_table(run / "results.parquet")
    about = json.loads(table.schema.metadata[b"actratio"])
    del about["checksum"]
    pq.write_table(table.replace_schema_metadata({b"actratio": json.dumps(about).encode()}), run / "results.parquet")
    notes: list[str] = []
    FinishedRun.read(run)
    Runner(SMALL, run).execute(note=notes.append)
    assert notes == []
    assert len(unit_seconds(run)) == 2


def test_arrays_of_something_else_without_a_checksum_are_computed_again(run: Path) -> None:
    runner, notes = Runner(SMALL, run), list[str]()
    arrays = runner.folder.load_unit(runner.units[0].name)
    save_file({"epoch": arrays["epoch"]}, runner.folder.unit_file(runner.units[0].name))
    runner.execute(note=notes.append)
    assert [note.rpartition("; ")[2] for note in notes] == [f"{runner.units[0].name} is computed again"]


def test_the_checksum_of_a_table_shows_each_change(finished: Path) -> None:
    frame, metadata = read_table(finished / "results.parquet")
    assert frame_checksum(frame) == metadata["checksum"]
    assert frame_checksum(frame.rename(columns={"width": "breadth"})) != metadata["checksum"]
    assert frame_checksum(frame.iloc[:-1]) != metadata["checksum"]
    for column in frame.columns:
        changed = frame.copy()
        changed[column] = changed[column].to_numpy()[::-1]
        assert changed[column].equals(frame[column]) or frame_checksum(changed) != metadata["checksum"]
