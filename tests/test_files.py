"""Files are replaced as a whole, and tables keep their metadata."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from actratio.errors import RunError
from actratio.files import (
    check_creatable,
    is_temporary,
    new_folder,
    read_table,
    remove_leftovers,
    replacing,
    write_csv,
    write_json,
    write_table,
)

FRAME = pd.DataFrame({"site": ["a", "b"], "activation_ratio": [1 / 3, 2 / 3]})


def test_replacing_moves_the_file_into_place(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "table.csv"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".csv"
        assert is_temporary(temporary.name)
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_replacing_keeps_the_old_file_if_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match="stop"), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise ValueError("stop")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_reports_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunError, match=r"cannot be created .*; choose another with --out"),
        replacing(tmp_path / "file" / "table.csv"),
    ):
        pass


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_files_have_the_permissions_that_the_umask_gives(umask: int, mode: int, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    before = os.umask(umask)
    try:
        with replacing(tmp_path / "a.safetensors") as temporary:
            save_file({"x": torch.zeros(1)}, temporary)
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == mode


def test_remove_leftovers_removes_only_temporary_files(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    keep = [tmp_path / "table.csv", tmp_path / ".lock", tmp_path / "below" / ".hidden"]
    leftovers = [tmp_path / f".{os.getpid()}.table.csv", tmp_path / "below" / ".1.table.csv"]
    for path in [*keep, *leftovers]:
        path.write_text("")
    remove_leftovers(tmp_path)
    assert all(path.exists() for path in keep)
    assert not any(path.exists() for path in leftovers)


def test_table_and_metadata_are_read_back(tmp_path: Path) -> None:
    metadata = {"settings": {"seed": 0}, "name": "größe"}
    write_table(tmp_path / "table.parquet", FRAME, metadata)
    frame, read_metadata = read_table(tmp_path / "table.parquet")
    assert frame.equals(FRAME)
    assert read_metadata == metadata


def test_table_without_metadata_has_empty_metadata(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "table.parquet")
    assert read_table(tmp_path / "table.parquet")[1] == {}


@pytest.mark.parametrize("content", [None, b"", b"a,b\n1,2\n"], ids=["missing", "empty", "CSV"])
def test_read_table_rejects_files_that_are_not_parquet(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match="cannot be read as a Parquet table"):
        read_table(path)


def test_csv_keeps_full_precision(tmp_path: Path) -> None:
    write_csv(tmp_path / "table.csv", FRAME)
    rows = (tmp_path / "table.csv").read_text().splitlines()[1:]
    assert [float(row.split(",")[1]) for row in rows] == FRAME["activation_ratio"].tolist()


def test_json_keeps_letters_that_are_not_ascii(tmp_path: Path) -> None:
    write_json(tmp_path / "settings.json", {"name": "größe"})
    assert (tmp_path / "settings.json").read_text(encoding="utf-8") == '{\n  "name": "größe"\n}\n'


def test_strings_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    offsets = pa.array([0, 2], pa.int32()).buffers()[1]
    names = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"a\xff")])
    pq.write_table(pa.table({"name": names}), tmp_path / "t.parquet")
    with pytest.raises(RunError, match="cannot be read as a Parquet table"):
        read_table(tmp_path / "t.parquet")


def test_a_new_folder_stays_if_the_block_succeeds_and_goes_if_it_fails(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a" / "b"):
        pass
    assert (tmp_path / "a" / "b").is_dir()
    with pytest.raises(ValueError, match="stop"), new_folder(tmp_path / "a" / "c" / "d"):
        raise ValueError("stop")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    with pytest.raises(ValueError, match="stop"), new_folder(tmp_path / "a" / "e"):  # noqa: PT012
        (tmp_path / "a" / "e" / "kept").touch()
        raise ValueError("stop")
    assert (tmp_path / "a" / "e" / "kept").exists()


@pytest.mark.parametrize("place", ["file/x", "file", "loop", "/proc/x/y", "/dev/null/x"])
def test_a_folder_that_cannot_be_created_is_told_early(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RunError, match="cannot be created"):
        check_creatable(tmp_path / place)


@pytest.mark.parametrize("fills", [True, False])
def test_a_folder_that_another_process_creates_at_the_same_time_stays(
    fills: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mkdir = tmp_path / "out", Path.mkdir

    def meanwhile(self: Path, *arguments: Any, **options: Any) -> None:
        mkdir(self, *arguments, **options)
        mkdir(folder, exist_ok=True)
        if fills:
            (folder / "file").touch()

    monkeypatch.setattr(Path, "mkdir", meanwhile)
    check_creatable(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in folder.iterdir()] == (["file"] if fills else [])


def test_a_name_that_is_too_long_is_told_early(tmp_path: Path) -> None:
    check_creatable(tmp_path / ("x" * 250))
    with pytest.raises(RunError, match="File name too long"):
        check_creatable(tmp_path / ("x" * 256))


def test_checking_a_folder_creates_nothing(tmp_path: Path) -> None:
    check_creatable(tmp_path / "a" / "b")
    check_creatable(tmp_path)
    assert list(tmp_path.iterdir()) == []
