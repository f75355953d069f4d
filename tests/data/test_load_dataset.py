"""``load_dataset``: names, and the data folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from actratio.data import BUILTIN, data_folder, load_dataset

CheckError = Callable[..., None]


def test_data_folder_prefers_the_argument_to_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_folder(None) is None
    monkeypatch.setenv("ACTRATIO_DATA", "")
    assert data_folder(None) is None
    (tmp_path / "one").mkdir()
    monkeypatch.setenv("ACTRATIO_DATA", str(tmp_path))
    assert data_folder(None) == tmp_path
    assert data_folder(tmp_path / "one") == tmp_path / "one"


@pytest.mark.parametrize("name", ["mnits", "", "a/b/c", "/mnist", "../mnist", "a\0b", "line\nline", "x" * 5000])
def test_unknown_name_is_rejected_with_a_list_of_names(name: str, check_data_error: CheckError) -> None:
    check_data_error(lambda: load_dataset(name), "there is no data set", *BUILTIN, ".csv", "owner/name")


@pytest.mark.parametrize("name", BUILTIN)
@pytest.mark.parametrize("folder", ["absent", "file", "x" * 5000], ids=["absent", "file", "long"])
def test_data_folder_that_does_not_exist_is_rejected(
    name: str, folder: str, tmp_path: Path, check_data_error: CheckError
) -> None:
    (tmp_path / "file").write_text("")
    check_data_error(lambda: load_dataset(name, tmp_path / folder), "data folder", str(tmp_path), "--data-dir")


def test_data_folder_of_the_environment_that_does_not_exist_is_rejected(
    monkeypatch: pytest.MonkeyPatch, check_data_error: CheckError
) -> None:
    monkeypatch.setenv("ACTRATIO_DATA", "/no/such/folder")
    check_data_error(lambda: load_dataset("mnist"), "/no/such/folder", "$ACTRATIO_DATA")


@pytest.mark.parametrize("name", ["kmnist", "emnist", "letter", "banking77"])
def test_data_set_without_a_hub_id_needs_a_data_folder(name: str, check_data_error: CheckError) -> None:
    check_data_error(lambda: load_dataset(name), name, "no data folder was given", "--data-dir", "$ACTRATIO_DATA")


@pytest.mark.parametrize("name", [name for name, builtin in BUILTIN.items() if builtin.uses_data_folder])
def test_data_folder_without_the_data_set_is_rejected(name: str, tmp_path: Path, check_data_error: CheckError) -> None:
    check_data_error(lambda: load_dataset(name, tmp_path), str(tmp_path), f"{name} is not in", "put its")
