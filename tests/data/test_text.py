"""Reading texts, and batching their tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from actratio import ActratioError
from actratio.data.text import open_texts, read_texts, text_fingerprint, token_batches


class LetterTokenizer:
    """A tokenizer whose tokens are letters, from a = 1."""

    eos_token_id = 99

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) - ord("a") + 1 for letter in text]}


def make_batches(texts: list[str], **options: Any) -> list[tuple[list[list[int]], list[list[int]]]]:
    """Return (ids, mask) of each batch, as lists."""
    batches = token_batches(LetterTokenizer(), texts, **{"length": 4, "batch_size": 2, **options})
    return [(batch["input_ids"].tolist(), batch["attention_mask"].tolist()) for batch in batches]


def test_unpacked_texts_start_a_sequence_each_and_are_split_if_long() -> None:
    assert make_batches(["ab", "abcdef"], packed=False) == [
        ([[1, 2, 0, 0], [1, 2, 3, 4]], [[1, 1, 0, 0], [1, 1, 1, 1]]),
        ([[5, 6]], [[1, 1]]),
    ]


def test_packed_texts_are_joined_with_the_end_token() -> None:
    assert make_batches(["ab", "abc", ""], packed=True) == [
        ([[1, 2, 99, 1], [2, 3, 0, 0]], [[1, 1, 1, 1], [1, 1, 0, 0]])
    ]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("limit", [1, 3, 4, 5, 100])
def test_token_limit_is_exact(packed: bool, limit: int) -> None:
    batches = make_batches(["abcd", "abcdefg"], packed=packed, limit=limit)
    assert sum(sum(row) for _, mask in batches for row in mask) == min(limit, 12 if packed else 11)


def test_texts_without_tokens_are_rejected() -> None:
    for packed in (True, False):
        with pytest.raises(ActratioError, match="have no tokens"):
            make_batches(["", ""], packed=packed)


def test_read_texts_yields_a_file_whole_and_json_lines_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.jsonl").write_text('{"text": "one", "body": "eins"}\n\n{"text": "two", "body": "zwei"}\n')
    assert list(read_texts(str(tmp_path / "a.txt"))) == ["one\ntwo\n"]
    assert list(read_texts(str(tmp_path / "b.jsonl"))) == ["one", "two"]
    assert list(read_texts(str(tmp_path / "b.jsonl"), column="body")) == ["eins", "zwei"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": 1}', "line 1 of .*no text in the field 'text'"),
        ("a.jsonl", b'{"text": "a"}\nno', "line 2 of .* is not JSON"),
        ("a.jsonl", b"[]", "no text in the field"),
        ("a.jsonl", b'{"text": "a"}\n' + b"[" * 100_000, "line 2 of .* is not JSON"),
        ("a.txt", b"\xff\xfe\xff", "is not UTF-8 text .*; convert it to UTF-8"),
        ("missing", None, "is not a file"),
        (
            "a.csv",
            b"title,body\na,b\n",
            r"has no column 'text'; its columns are title, body; name another with --column",
        ),
        ("a.csv", b"text\n\xff\xfe\n", "is not UTF-8 text"),
        ("a.csv", b"text\na\nb,c,d\n", "cannot be read as a table"),
        ("a.parquet", b"no", "cannot be read as a Parquet table"),
    ],
)
def test_read_texts_rejects_invalid_files(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ActratioError, match=words):
        list(read_texts(str(tmp_path / name)))


def test_read_texts_streams_a_column_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = [{"text": "one"}, {"text": "two"}]
    monkeypatch.setattr(datasets, "load_dataset", lambda name, revision, split, streaming: iter(rows))
    assert list(read_texts("owner/name")) == ["one", "two"]
    with pytest.raises(ActratioError, match="no text in the column 'body'; its columns are text; name another"):
        list(read_texts("owner/name", column="body"))


@pytest.mark.usefixtures("impatient")
def test_read_texts_reports_a_missing_network() -> None:
    with pytest.raises(ActratioError, match="owner/name is not a file, and could not be loaded"):
        list(read_texts("owner/name"))


def test_json_lines_are_read_as_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "naïve – 数"}, ensure_ascii=False), encoding="utf-8")
    assert list(read_texts(str(tmp_path / "a.jsonl"))) == ["naïve – 数"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_tables_are_read_by_column(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    frame = pd.DataFrame(
        {"text": ["one, two", "", 'a "quoted"\nline'], "body": ["eins", "NA", "zwei"], "id": [1, 2, 3]}
    )
    if suffix == ".parquet":
        frame.to_parquet(path)
        with pytest.raises(ActratioError, match=r"the column 'id' of .* does not hold texts"):
            list(read_texts(str(path), column="id"))
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    assert list(read_texts(str(path))) == ["one, two", 'a "quoted"\nline']
    assert list(read_texts(str(path), column="body")) == ["eins", "NA", "zwei"]
    with pytest.raises(ActratioError, match="has no column 'nosuch'"):
        list(read_texts(str(path), column="nosuch"))


def test_a_file_that_is_missing_is_no_hub_id() -> None:
    with pytest.raises(ActratioError, match=r"data/corpus\.txt is not a file"):
        list(read_texts("data/corpus.txt"))


def test_open_texts_checks_every_source_before_it_returns(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "c.txt").write_text("three")
    sources = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl", "c.txt")]
    assert list(open_texts(sources)) == ["one", "two", "one", "two", "three"]
    with pytest.raises(ActratioError, match="is not a file"):
        open_texts([*sources, str(tmp_path / "d.txt")])
    with pytest.raises(ActratioError, match="no text in the field 'body'"):
        open_texts(sources, column="body")
    with pytest.raises(ActratioError, match=r"--column body names a column, but .* is read as one text; omit --column"):
        open_texts(sources[-1:], column="body")


def test_text_fingerprint_changes_with_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = text_fingerprint([str(path)])
    assert text_fingerprint([str(path)]) == before
    path.write_text("two")
    assert text_fingerprint([str(path)]) != before


@pytest.mark.parametrize("kind", [TypeError, type("PanicException", (BaseException,), {})])
def test_a_damaged_tokenizer_is_told(kind: type[BaseException]) -> None:
    def tokenizer(text: str, **options: Any) -> dict[str, list[int]]:
        raise kind("index out of range")

    words = f"the tokenizer failed on a text \\({kind.__name__}: index out of range\\); name another with --tokenizer"
    with pytest.raises(ActratioError, match=words):
        next(iter(token_batches(tokenizer, ["a"], length=4, batch_size=1)))


def test_an_interrupt_is_not_taken_for_a_damaged_tokenizer() -> None:
    def tokenizer(text: str, **options: Any) -> dict[str, list[int]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(iter(token_batches(tokenizer, ["a"], length=4, batch_size=1)))


def test_a_parquet_text_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    pd.DataFrame({"text": ["SECRET"]}).to_parquet(tmp_path / "a.parquet", compression=None)
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content.replace(b"SECRET", b"SEC\xdd\xffT"))
    with pytest.raises(ActratioError, match="cannot be read as a Parquet table"):
        list(read_texts(str(tmp_path / "a.parquet")))
