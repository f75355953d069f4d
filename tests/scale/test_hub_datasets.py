"""Datasets of the hub as a corpus, with a folder in the place of the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from actratio.errors import DataError
from actratio.scale import make_manifest
from actratio.scale.hub_datasets import hub_place
from actratio.scale.manifest import check_files, later_files
from actratio.scale.shard_reader import shard_texts


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder that stands for the hub."""

    class Hub(DirFileSystem):  # type: ignore[misc]
        protocol = "hf"
        cachable = False

        def __init__(self, **options: Any) -> None:
            super().__init__(path=str(tmp_path), fs=LocalFileSystem())

    before = fsspec.get_filesystem_class("hf")
    fsspec.register_implementation("hf", Hub, clobber=True)
    yield tmp_path / "datasets"
    fsspec.register_implementation("hf", before, clobber=True)


def write(path: Path, *texts: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": list(texts)}), path)


def test_the_training_texts_of_a_dataset_are_a_corpus(hub: Path) -> None:
    root = hub / "owner" / "name@~parquet" / "default"
    write(root / "train" / "0001.parquet", "three")
    write(root / "train" / "0000.parquet", "one", "two")
    write(root / "test" / "0000.parquet", "four")
    manifest = make_manifest(["owner/name"], rows=10)
    assert [shard_texts(shard, "text") for shard in manifest.shards] == [["one", "two"], ["three"]]
    assert manifest.shards[0].file == "hf://datasets/owner/name@~parquet/default/train/0000.parquet"
    check_files(manifest, ["owner/name"])
    assert later_files(["owner/name"], manifest) == []


def test_a_revision_and_names_with_the_split(hub: Path) -> None:
    write(hub / "owner" / "name@v1.0" / "data" / "train-00000.parquet", "one")
    write(hub / "owner" / "name@v1.0" / "data" / "test-00000.parquet", "two")
    (shard,) = make_manifest(["owner/name@v1.0"], rows=10).shards
    assert shard_texts(shard, "text") == ["one"]


def test_splits_and_configurations_are_told_apart(hub: Path) -> None:
    root = hub / "owner" / "name@main"
    for file in ("data/train_sft-00000-of-00001", "data/test-train-overlap", "train_data/test-0", "untrained/0"):
        write(root / f"{file}.parquet", "other")
    with pytest.raises(DataError, match="owner/name@main has no Parquet files of a split train"):
        make_manifest(["owner/name@main"], rows=10)
    for configuration in ("de", "en"):
        write(root / configuration / "train-00000-of-00001.parquet", configuration)
    with pytest.raises(DataError, match="owner/name@main has the configurations de, en"):
        make_manifest(["owner/name@main"], rows=10)
    write(root / "data" / "train-00000-of-00001-0a1b2c.parquet", "one")
    (shard,) = make_manifest(["owner/name@main"], rows=10).shards
    assert shard_texts(shard, "text") == ["one"]


def test_what_a_dataset_lacks_is_said(hub: Path) -> None:
    root = hub / "owner" / "name@~parquet"
    write(root / "de" / "train" / "0000.parquet", "eins")
    write(root / "en" / "train" / "0000.parquet", "one")
    with pytest.raises(
        DataError,
        match=r"has the configurations de, en; give the files of one, as in --data 'hf://.*/de/train\*.parquet'",
    ):
        make_manifest(["owner/name"], rows=10)
    (shard,) = make_manifest(["hf://datasets/owner/name@~parquet/en/train/*.parquet"], rows=10).shards
    assert shard_texts(shard, "text") == ["one"]
    write(hub / "owner" / "other@~parquet" / "default" / "test" / "0000.parquet", "one")
    with pytest.raises(DataError, match="has no Parquet files of a split train"):
        make_manifest(["owner/other"], rows=10)
    with pytest.raises(
        DataError, match=r"names no file, and can't be read as a dataset of the Hugging Face hub|has no Parquet files"
    ):
        make_manifest(["owner/missing"], rows=10)


def test_paths_are_no_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    assert hub_place("owner/name") is None  # a missing file of a folder
    assert hub_place("corpus/a.txt") is None
    assert hub_place("corpus/*.txt") is None
    assert hub_place("s3://bucket/name") is None
    assert hub_place("other/name.v2@main") == "hf://datasets/other/name.v2@main"


@pytest.mark.parametrize("name", ["rows.csv", "rows.json", "rows.jsonl.gz"])
def test_files_without_lines_of_text_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text\n1\n")
    with pytest.raises(
        DataError, match=f"{name} has no lines of text; give .txt, .*, and convert others to JSON lines or Parquet"
    ):
        make_manifest([str(tmp_path / name)], rows=10)
