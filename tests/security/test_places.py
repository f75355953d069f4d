"""Names and links from elsewhere: nothing is written or read outside of the folders that were given; what is packed has a bound."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import lzma
import os
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from actratio import cli, files
from actratio.data import idx, tables
from actratio.data.idx import read_idx
from actratio.data.tables import load_csv
from actratio.errors import DataError, RunError
from actratio.files import read_table, remove_leftovers, replacing, write_table
from actratio.report.chart import Chart
from actratio.report.findings import Findings
from actratio.report.page import write_report
from actratio.report.static import save_charts
from actratio.scale.corpus import Corpus
from actratio.scale.manifest import Manifest, check_files, make_manifest
from actratio.studies.folder import RunFolder

NAMES = (
    "../up",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "..",
    ".",
    "",
    "a\0b",
    "~",
    "a\\..\\b",
    "a\nb",
    "C:evil",
    "con",
    "\x1b[2J",
)


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", NAMES)
def test_files_of_units_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", {"study": "mlp"}, [name])
    for path in (run.unit_file(name), run.checkpoint_file(name)):
        assert path.resolve().parent.parent == (tmp_path / "run").resolve()
        assert path.name.isprintable()
        path.parent.mkdir(exist_ok=True)
        path.touch()  # the file system takes the name


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (".", "..", "con")])
def test_a_figure_has_the_name_of_a_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="isn't a valid file name"):
        save_charts([Chart(name, "t", "r", "x", "y")], tmp_path / "figures")
    assert everything(tmp_path) == set()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus that was cut into shards, and a file beside it that it doesn't name."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "text.txt").write_text("a\nb\n")
    (tmp_path / "secret.txt").write_text("secret\n")
    Corpus.open(tmp_path / "run", [str(tmp_path / "data")], 1, {})
    return tmp_path


def change(corpus: Path, **values: Any) -> None:
    """Change the first shard of the manifest, as an attacker would: with a checksum that fits."""
    path = corpus / "run" / "shards" / "manifest.json"
    manifest = Manifest.load(path)
    first, *others = manifest.shards
    Manifest((dataclasses.replace(first, **values), *others)).save(path)


@pytest.mark.parametrize("name", [*NAMES, "-1", "0.", "00 ", "٣"])
def test_a_shard_has_a_number_for_a_name(name: str, corpus: Path) -> None:
    change(corpus, name=name)
    with pytest.raises(RunError, match="can't be read as a manifest"):
        Corpus.load(corpus / "run")


@pytest.mark.parametrize(
    "file",
    [
        "{corpus}/secret.txt", "{corpus}/data/../secret.txt", "{corpus}/data", "/etc/passwd", "http://127.0.0.1:9/x.txt",
        "file://{corpus}/secret.txt", "simplecache::http://127.0.0.1:9/x", "{corpus}/data/a\0b", "{corpus}/database.txt", "text.txt", "",
    ],
)  # fmt: skip
def test_a_manifest_names_only_files_of_the_corpus(file: str, corpus: Path) -> None:
    sources = [str(corpus / "data" / "text.txt")]
    shards = make_manifest(sources, rows=1).shards
    with pytest.raises(RunError, match="the shards name the file"):
        check_files(Manifest((dataclasses.replace(shards[0], file=file.format(corpus=corpus)), *shards[1:])), sources)
    change(corpus, file=file.format(corpus=corpus))
    if file != "{corpus}/data":  # which can't be read as a file
        with pytest.raises(RunError, match="the shards name the file"):
            Corpus.open(corpus / "run", [str(corpus / "data")], 1, {})


def test_a_manifest_of_its_own_sources_is_accepted(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(corpus)
    for source in (
        "data",
        "data/",
        "./data/text.txt",
        "data/*.txt",
        "d*/text.txt",
        str(corpus / "data"),
        f"file://{corpus}/data",
    ):
        check_files(make_manifest([source], rows=1), [source])
    import fsspec

    with fsspec.open("memory://place/text.txt", "w") as file:
        file.write("a\n")
    for source in ("memory://place", "memory://place/text.txt", "memory://place/*.txt"):
        check_files(make_manifest([source], rows=1), [source])


def test_results_are_not_written_through_links(tmp_path: Path, corpus: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    chart = Chart("profile", "t", "r", "x", "y")
    writers: dict[str, Callable[[Path], Any]] = {
        "figures": lambda run: write_report(Findings("t", "l", charts=[chart]), run),
        "neurons": lambda run: RunFolder(run, {"study": "mlp"}, []),
        "checkpoints": lambda run: RunFolder(run, {"study": "mlp"}, []),
        "shards": lambda run: Corpus.open(run, [str(corpus / "data")], 1, {}),
    }
    for inner, write in writers.items():
        run = tmp_path / inner
        run.mkdir()
        (run / inner).symlink_to(outside)
        with pytest.raises(RunError, match=f"{inner} is a link, and results are not written through links"):
            write(run)
    assert everything(outside) == set()


def test_a_file_that_is_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    page = tmp_path / "report.html"
    page.symlink_to(precious)
    (tmp_path / f".{os.getpid()}.report.html").symlink_to(precious)  # the temporary name is known
    with replacing(page) as temporary:
        temporary.write_text("new")
    assert precious.read_text() == "precious"
    assert not page.is_symlink()
    assert page.read_text() == "new"


def test_leftovers_are_not_removed_through_links(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / ".1.file").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "figures").symlink_to(tmp_path / "outside")
    remove_leftovers(tmp_path / "run")
    assert (tmp_path / "outside" / ".1.file").exists()


def peak(read: Any, *arguments: Any, words: str) -> int:
    """Return the most bytes that a reader held while it refused a file."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=words):
            read(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(2, 3, 4), (2**32 - 1, 2**32 - 1, 2**32 - 1), (2**31 + 1, 1, 1)])
def test_a_gzip_bomb_is_read_no_further_than_its_header_says(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    path = tmp_path / "images.gz"
    with gzip.open(path, "wb") as file:
        file.write(bytes([0, 0, 8, 3]) + struct.pack(">3I", *shape))
        for _ in range(200):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    words = "holds more values" if shape == (2, 3, 4) else f"at most {idx.MOST_VALUES:,} are read"
    assert peak(read_idx, path, 3, words=words) < 10 << 20


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zip", "tar", "tar.gz"])
def test_a_packed_table_has_a_bound(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"table.csv.{suffix}"
    plain = tmp_path / "table.csv"
    plain.write_text("x,label\n" + "1,a\n2,b\n" * 2_000_000)
    if suffix == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.write(plain, "../../table.csv")
    elif suffix.startswith("tar"):
        with tarfile.open(path, "w:gz" if suffix == "tar.gz" else "w") as archive:
            archive.add(plain, "../../table.csv")
    else:
        path.write_bytes({"gz": gzip, "bz2": bz2, "xz": lzma}[suffix].compress(plain.read_bytes()))
    before = everything(tmp_path.parent)
    monkeypatch.setattr(tables, "MOST_UNPACKED", 1 << 20)
    assert peak(load_csv, path, None, words="has more than 1,048,576 bytes when it is unpacked") < 14 << 20
    assert everything(tmp_path.parent) == before  # nothing is unpacked into a file
    monkeypatch.undo()
    assert tables.MOST_UNPACKED == 4 * 2**30


def test_a_table_that_claims_very_many_rows_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.parquet"
    write_table(path, pd.DataFrame({"a": np.zeros(2_000), "b": np.zeros(2_000)}), {})
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(files, "MOST_CELLS", 3_999)
    with pytest.raises(RunError, match="it has 4,000 cells, and at most 3,999 are read"):
        read_table(path)
    monkeypatch.setattr(files, "MOST_CELLS", 4_000)
    assert len(read_table(path)[0]) == 2_000


def test_aliases_in_a_configuration_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nine lists of nine aliases each are 9⁹ values."""
    letters = "abcdefghij"
    lists = [f"&a [{','.join(['x'] * 9)}]"]
    lists += [f"&{name} [{','.join([f'*{before}'] * 9)}]" for before, name in pairwise(letters)]
    path = tmp_path / "bomb.yaml"
    path.write_text(f"batch-size: [{', '.join(lists)}]\n")
    monkeypatch.setattr(sys, "argv", ["actratio", "measure", "owner/name", "--config", str(path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "has an alias (*name), which is not read" in capsys.readouterr().err


def test_a_file_whose_name_is_not_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["actratio", "measure", "owner/name", "--text", "\udcff.txt"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: the argument \\udcff.txt is not UTF-8 text; rename the file\n"
    for name in ("\udcff.txt", "a\x1b[31m.txt", "a\nb.txt"):
        (tmp_path / name).write_text("a\n")
        with pytest.raises(DataError, match="has characters that can't be printed; rename the file"):
            make_manifest([str(tmp_path)], rows=1)
        (tmp_path / name).unlink()
