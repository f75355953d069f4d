"""How a corpus is cut into shards, and how they are read."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actratio.checksums import with_checksum, without_checksum
from actratio.errors import DataError, RunError
from actratio.scale import Manifest, make_manifest
from actratio.scale.manifest import check_files, is_json_lines, is_parquet, later_files
from actratio.scale.shard_reader import shard_texts

LINES = ["one two", "", "three", "vier fünf", "six"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "b.txt").write_text("\n".join(LINES), encoding="utf-8")
    (corpus / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES), encoding="utf-8")
    table = pa.Table.from_pandas(pd.DataFrame({"text": LINES, "other": range(5)}))
    pq.write_table(table, corpus / "c.parquet", row_group_size=2)
    (corpus / "ignored.bin").write_bytes(b"\0")
    return corpus


def texts_of(manifest: Manifest, ending: str) -> list[list[str]]:
    return [shard_texts(shard, "text") for shard in manifest.shards if shard.file.endswith(ending)]


def test_shards_have_every_row_once_and_in_order(folder: Path) -> None:
    manifest = make_manifest([str(folder)], rows=2)
    assert [shard.name for shard in manifest.shards] == [str(number) for number in range(9)]
    files = [Path(shard.file).name for shard in manifest.shards]
    assert files == ["a.jsonl"] * 3 + ["b.txt"] * 3 + ["c.parquet"] * 3
    assert [(shard.first, shard.last) for shard in manifest.shards] == [(0, 2), (2, 4), (4, 5)] * 3
    assert texts_of(manifest, ".jsonl") == [["one two"], ["three", "vier fünf"], ["six"]]
    assert texts_of(manifest, ".parquet") == [["one two"], ["three", "vier fünf"], ["six"]]
    assert texts_of(manifest, ".txt") == [["one two\n\n"], ["three\nvier fünf\n"], ["six"]]


def test_row_groups_stay_together(folder: Path) -> None:
    manifest = make_manifest([str(folder / "c.parquet")], rows=3)
    assert [(shard.first, shard.last) for shard in manifest.shards] == [(0, 2), (2, 5)]


def test_patterns_files_and_urls_name_the_same_files(folder: Path) -> None:
    expected = make_manifest([str(folder / "a.jsonl"), str(folder / "b.txt")], rows=2)
    assert make_manifest([f"{folder}/*.jsonl", f"{folder}/b*"], rows=2) == expected
    assert make_manifest([f"file://{folder}/a.jsonl", str(folder / "b.txt")], rows=2) == expected


def test_urls_of_other_systems_are_read(folder: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus/b.txt", (folder / "b.txt").read_bytes())
    manifest = make_manifest(["memory://corpus"], rows=2)
    assert {shard.file for shard in manifest.shards} == {"memory:///corpus/b.txt"}
    assert texts_of(manifest, ".txt") == texts_of(make_manifest([str(folder)], rows=2), ".txt")


def test_parts_have_every_shard_once(folder: Path) -> None:
    manifest = make_manifest([str(folder)], rows=1)
    for count in (1, 2, 4, 100):
        parts = [shard for index in range(count) for shard in manifest.part(index, count)]
        assert sorted(parts, key=lambda shard: shard.name) == list(manifest.shards)


def test_a_manifest_survives_a_file(folder: Path, tmp_path: Path) -> None:
    manifest = make_manifest([str(folder)], rows=2)
    manifest.save(tmp_path / "manifest.json")
    assert Manifest.load(tmp_path / "manifest.json") == manifest
    content = without_checksum(json.loads((tmp_path / "manifest.json").read_text()))
    for change in ({"name": "../../x"}, {"first": -1}, {"first": 1.5}, {"extra": 1}, {"start": True}):
        damaged = {**content, "shards": [{**content["shards"][0], **change}]}
        (tmp_path / "damaged.json").write_text(json.dumps(with_checksum(damaged)))
        with pytest.raises(RunError, match="can't be read as a manifest") as refused:
            Manifest.load(tmp_path / "damaged.json")
        assert "checksum" not in str(refused.value)


@pytest.mark.parametrize("change", [("1", "2"), ('"last": 2', '"last": 3'), ("corpus", "corpse"), ("checksum", "sum")])
def test_a_changed_manifest_is_refused(change: tuple[str, str], folder: Path, tmp_path: Path) -> None:
    make_manifest([str(folder)], rows=2).save(tmp_path / "manifest.json")
    content = (tmp_path / "manifest.json").read_text()
    assert change[0] in content
    (tmp_path / "manifest.json").write_text(content.replace(*change, 1))
    with pytest.raises(RunError, match="can't be read as a manifest"):
        Manifest.load(tmp_path / "manifest.json")


def test_the_fingerprint_changes_with_the_text_and_the_cuts(folder: Path) -> None:
    before = make_manifest([str(folder)], rows=2).fingerprint
    assert make_manifest([str(folder)], rows=3).fingerprint != before
    (folder / "b.txt").write_text("\n".join([*LINES[:-1], "sux"]), encoding="utf-8")
    assert make_manifest([str(folder)], rows=2).fingerprint != before


@pytest.mark.parametrize("name", ["a.jsonl", "b.txt", "c.parquet"])
def test_a_file_that_changed_is_refused(folder: Path, name: str) -> None:
    manifest = make_manifest([str(folder / name)], rows=2)
    content = (folder / name).read_bytes()
    for damaged in (content[:-2], content[:5] + b"x" + content[6:]):
        (folder / name).write_bytes(damaged)
        found = []
        for shard in manifest.shards:
            with suppress(DataError):
                found.append(shard_texts(shard, "text"))
        assert len(found) < len(manifest.shards)
    (folder / name).unlink()
    with pytest.raises(DataError, match=r"can't be read \(.*\); check the file"):
        shard_texts(manifest.shards[0], "text")


def test_bad_rows_are_told(folder: Path) -> None:
    (folder / "a.jsonl").write_text('{"text": "fine"}\n{"text": 1}\n', encoding="utf-8")
    (shard,) = make_manifest([str(folder / "a.jsonl")], rows=10).shards
    with pytest.raises(DataError, match=r"line 2 of .*a\.jsonl has no text in the field 'text'"):
        shard_texts(shard, "text")
    (folder / "b.txt").write_bytes(b"fine\n\xff\n")
    (shard,) = make_manifest([str(folder / "b.txt")], rows=10).shards
    with pytest.raises(DataError, match=r"is not UTF-8 text \(invalid start byte at byte 5\)"):
        shard_texts(shard, "text")
    shard = make_manifest([str(folder / "c.parquet")], rows=10).shards[0]
    with pytest.raises(DataError, match="has no column 'missing'; its columns are text, other"):
        shard_texts(shard, "missing")
    with pytest.raises(DataError, match=r"the column 'other' of .* does not hold texts"):
        shard_texts(shard, "other")


def test_bad_sources_are_told(folder: Path) -> None:
    with pytest.raises(DataError, match="names no file"):
        make_manifest([str(folder / "missing.txt")], rows=2)
    with pytest.raises(DataError, match="is given twice"):
        make_manifest([str(folder), str(folder / "b.txt")], rows=2)
    with pytest.raises(DataError, match="can't be opened"):
        make_manifest(["nosuchsystem://x/y"], rows=2)
    os.mkfifo(folder / "pipe.txt")
    (folder / "zero.txt").symlink_to("/dev/zero")
    for source in ("pipe.txt", "zero.txt", "*pipe*"):
        with pytest.raises(DataError, match="names no file"):
            make_manifest([str(folder / source)], rows=2)
    (folder / "empty.txt").touch()
    with pytest.raises(DataError, match="has no rows"):
        make_manifest([str(folder / "empty.txt")], rows=2)
    (folder / "c.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(DataError, match="can't be read"):
        make_manifest([str(folder / "c.parquet")], rows=2)


def test_blank_lines_have_no_texts(folder: Path) -> None:
    (folder / "b.txt").write_text("\n\n\n", encoding="utf-8")
    (shard,) = make_manifest([str(folder / "b.txt")], rows=10).shards
    assert shard_texts(shard, "text") == []


def test_paths_are_taken_as_people_write_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")
    for source in ("..", "../", "../*.txt", "./../b.txt"):
        manifest = make_manifest([source], rows=2)
        check_files(manifest, [source])
        assert texts_of(manifest, ".txt")[0] == ["one two\n\n"]


def test_names_of_urls_end_before_the_question_mark(folder: Path) -> None:
    assert is_json_lines("https://host/b.jsonl?download=true")
    assert is_json_lines("b.jsonlines")
    assert not is_json_lines("b?.jsonl.txt")
    assert is_parquet("s3://bucket/c.parquet#part")
    (folder / "b.jsonlines").write_bytes((folder / "a.jsonl").read_bytes())
    (shard,) = make_manifest([str(folder / "b.jsonlines")], rows=10).shards
    assert shard_texts(shard, "text") == [line for line in LINES if line]


def test_files_inside_others_are_refused() -> None:
    with pytest.raises(DataError, match=r"zip://b\.jsonl::z.zip is a file inside another; extract it"):
        make_manifest(["zip://b.jsonl::z.zip"], rows=10)


def test_a_later_file_that_cannot_be_read_is_named(folder: Path) -> None:
    manifest = make_manifest([str(folder)], rows=2)
    (folder / "d.parquet").write_bytes(b"broken")
    assert later_files(["nowhere", str(folder)], manifest) == [str(folder / "d.parquet")]
