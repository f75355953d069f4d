"""Tables: CSV files, Letter Recognition and BANKING77."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from actratio.data import load_dataset

CheckError = Callable[..., None]


def csv(header: str, rows: Iterable[str]) -> str:
    return "\n".join([header, *rows, ""])


def write(folder: Path, content: str | bytes, name: str = "table.csv") -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_numbers_are_standardised_with_the_training_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal([5, -300], [2, 40], (100, 2))
    path = write(tmp_path, csv("a,b,label", (f"{a},{b},{'xyz'[i % 3]}" for i, (a, b) in enumerate(values))))
    data = load_dataset(path)
    assert data.name == path
    assert data.x_train.shape == (80, 2)
    assert data.x_val.shape == (20, 2)
    assert data.x_train.dtype == data.x_val.dtype == np.float32
    assert data.classes == 3
    np.testing.assert_allclose(data.x_train.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(data.x_train.std(0), 1, atol=1e-6)
    # Held-out rows are scaled with the same mean and deviation, so one linear map recovers the rows of the file.
    expected = values[np.argsort(values[:, 0])]
    scaled = np.vstack([data.x_train, data.x_val])
    scaled = scaled[np.argsort(scaled[:, 0])]
    slope, intercept = np.polyfit(scaled[:, 0], expected[:, 0], 1)
    np.testing.assert_allclose(scaled[:, 0] * slope + intercept, expected[:, 0], rtol=1e-5)
    assert sorted(np.bincount(data.y_val)) == [6, 7, 7]  # stratified
    assert load_dataset(path).fingerprint == data.fingerprint


def test_texts_become_tf_idf_vectors_of_the_training_words(tmp_path: Path) -> None:
    rows = (f'"{word} card, please {i}x",{word}' for i, word in enumerate(["lost", "found"] * 20))
    data = load_dataset(write(tmp_path, csv("text,intent", rows)))
    assert data.classes == 2
    np.testing.assert_allclose(np.linalg.norm(data.x_train, axis=1), 1, rtol=1e-6)
    assert data.features == 4 + len(data.x_train)  # lost, found, card, please, and one number per text
    # Words that occur only in held-out rows are ignored, so each held-out row has three words.
    assert {int(n) for n in (data.x_val > 0).sum(1)} == {3}


def test_texts_and_numbers_are_combined(tmp_path: Path) -> None:
    rows = (f"{word} card,{i},{word}" for i, word in enumerate(["lost", "found"] * 20))
    assert load_dataset(write(tmp_path, csv("text,n,label", rows))).features == 3 + 1


@pytest.mark.parametrize("name", ["label", "Label", "LABELS", "class", "target", "category", "intent", "y"])
def test_label_column_is_found_by_its_name(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, csv(f"a,{name},b", (f"{i},{'pq'[i % 2]},{i * i}" for i in range(20))))
    assert load_dataset(path).features == 2


def test_label_argument_overrides_the_usual_names(tmp_path: Path) -> None:
    path = write(tmp_path, csv("label,kind", (f"{i},{'pqr'[i % 3]}" for i in range(30))))
    assert load_dataset(path, label="kind").classes == 3


def test_numeric_labels_keep_their_order(tmp_path: Path) -> None:
    # In alphabetical order, 10 and 11 would come between 1 and 2.
    data = load_dataset(write(tmp_path, csv("a,label", (f"{i % 12},{i % 12}" for i in range(120)))))
    assert data.classes == 12
    order = np.argsort(data.x_train[:, 0], kind="stable")
    assert (np.diff(data.y_train[order]) >= 0).all()
    assert set(data.y_val) == set(range(12))


@pytest.mark.parametrize(
    ("content", "features"),
    [
        (csv("a,label", (f"{i},{i % 2}" for i in range(20))), 1),
        (csv("a,label", (f"{i},{i % 2 == 0}" for i in range(20))), 1),  # boolean labels
        (csv("on,label", (f"{i % 3 == 0},{i % 2}" for i in range(20))), 1),  # a boolean feature
        (csv("on,label", (f"{'TRUE' if i % 3 else 'FALSE'},{i % 2}" for i in range(20))), 1),
        (csv('"a, b",label', (f'"{i}",{i % 2}' for i in range(20))), 1),  # a quoted comma and quoted numbers
        (csv("text,label", (f'"card, {"lost" if i % 3 else "found"}",{i % 2}' for i in range(20))), 3),
        (
            csv("text,label", (f'"card\nlost ""{i % 2}x""",{i % 2}' for i in range(20))),
            4,
        ),  # a line break and quotes in a text
        ("\ufeff" + csv("label,a", (f"{i % 2},{i}" for i in range(20))), 1),  # a byte-order mark before the label
        (csv("a,label", (f"{i},{i % 2}" for i in range(20))).replace("\n", "\r\n"), 1),
        (csv("a,label", (f"{i},{i % 2}" for i in range(20))).rstrip(), 1),  # no line break at the end
        (csv("größe,label", (f"{i},{'äö'[i % 2]}" for i in range(20))), 1),
        (csv("a,b,label", (f"{i},7,{i % 2}" for i in range(20))), 2),  # a constant column
        (csv("a,label", (f"{i}e-3,{i % 2}" for i in range(-10, 10))), 1),
        (csv("a,label", (f"{i},{i % 2 / 2}" for i in range(20))), 1),
        (csv("a,label", ["1,p", "2,q", "3,p"]), 1),
        (csv("a,a,label", (f"{i},{-i},{i % 2}" for i in range(20))), 2),  # two columns with the same name
        (csv("a,label", (f"{i},{i % 2}," for i in range(20))), 1),  # a comma at the end of each row
    ],
)
def test_unusual_tables_are_read(content: str, features: int, tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path, content))
    assert data.features == features
    assert data.classes == 2


def test_constant_column_becomes_zero(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path, csv("a,b,label", (f"{i},7,{i % 2}" for i in range(20)))))
    assert not data.x_train[:, 1].any()
    assert not data.x_val[:, 1].any()


def test_booleans_become_one_and_zero(tmp_path: Path) -> None:
    words = load_dataset(write(tmp_path, csv("on,label", (f"{i % 3 == 0},{i % 2}" for i in range(30)))))
    numbers = load_dataset(write(tmp_path, csv("on,label", (f"{int(i % 3 == 0)},{i % 2}" for i in range(30)))))
    assert words.fingerprint == numbers.fingerprint


def test_csv_may_have_any_name_and_may_be_gzipped(tmp_path: Path) -> None:
    content = csv("a,label", (f"{i},{i % 2}" for i in range(20)))
    plain = load_dataset(write(tmp_path, content, "table.txt"))
    assert load_dataset(write(tmp_path, gzip.compress(content.encode()), "t.csv.gz")).fingerprint == plain.fingerprint


ROWS = [f"{i},{i % 3},{'pq'[i % 2]}" for i in range(20)]
HEADER = "a,b,label"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["cannot be read as CSV"]),
        (csv(HEADER, []), ["0 rows", "two"]),
        (csv(HEADER, ROWS[:1]), ["1 rows", "two"]),
        (csv(HEADER, ROWS).replace("q", "é").encode("latin-1"), ["cannot be read as CSV", "UTF-8"]),
        (csv(HEADER, ROWS).encode("utf-16"), ["cannot be read as CSV", "UTF-8"]),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xfe", ["cannot be read as CSV", "UTF-8"]),
        (csv(HEADER, [*ROWS, '1,"2,p']), ["cannot be read as CSV"]),  # a quote that is not closed
        (csv(HEADER, [*ROWS, "1,2,p,3"]), ["cannot be read as CSV", "line 22"]),
        (csv(HEADER, (row + ",3" for row in ROWS)), ["more values than its header"]),
        (csv(HEADER, (f"7,8,{row}" for row in ROWS)), ["more values than its header"]),
        (csv("a,b,c", ROWS), ["no column named label", "a, b, c", "--label"]),
        (csv("a;b;label", (row.replace(",", ";") for row in ROWS)), ["no column named", "a;b;label"]),
        ("x" * 100_000 + "\n1\n", ["no column named label", "xxx…"]),
        (csv(",".join(f"c{i}" for i in range(1000)), []), ["no column named label", "c7, …"]),
        (csv(HEADER, [*ROWS, "1,2,"]), ["rows without a label", "'label'"]),
        (csv(HEADER, [*ROWS, "1"]), ["rows without a label"]),
        (csv(HEADER, [*ROWS, "1,2,NA"]), ["rows without a label", "NA"]),
        (csv(HEADER, (f"{i},1," for i in range(20))), ["rows without a label"]),
        (csv(HEADER, (f"{i},1,{i % 2}" for i in [*range(20)])) + "1,2,\n", ["rows without a label"]),
        (csv(HEADER, (f"{i},{i},p" for i in range(20))), ["single value, 'p'", "two classes"]),
        (csv(HEADER, (f"{i},{i},5" for i in range(20))), ["single value, '5'", "two classes"]),
        (csv("a,label", ["1,p", "2,q"]), ["no training row has", "every class must be in both"]),
        (csv("a,y", (f"{i},{i}.5" for i in range(20))), ["no training row has"]),  # a quantity, not a class
        (csv("label", "pq" * 10), ["no column except the label 'label'"]),
        (csv(HEADER, [*ROWS, "1,oops,p"]), ["'b'", "not numbers", "'oops'"]),
        (csv(HEADER, [*ROWS, f"1,{'oops ' * 1000},p"]), ["'b'", "not numbers", "oops", "…"]),
        (csv(HEADER, [*ROWS, "1,,p"]), ["'b'", "missing or infinite"]),
        (csv(HEADER, [*ROWS, "1,NaN,p"]), ["'b'", "missing or infinite"]),
        (csv(HEADER, [*ROWS, "1,-inf,p"]), ["'b'", "missing or infinite"]),
        (csv(HEADER, (f"{i},,{'pq'[i % 2]}" for i in range(20))), ["'b'", "missing or infinite"]),
        (csv("a,label", (f"{i}e300,{i % 2}" for i in range(20))), ["NaN or infinite"]),  # overflow when squared
        (csv("text,label", [*(f"some words,{i % 2}" for i in range(20)), ",1"]), ["'text'", "missing texts"]),
        (csv("text,label", (f"?!,{i % 2}" for i in range(20))), ["'text'", "without words"]),
        (csv("a,label", (f"{10**30 + i},{i % 2}" for i in range(20))), ["'a'", "neither numbers nor text"]),
    ],
)
def test_invalid_tables_are_rejected(
    content: str | bytes, words: list[str], tmp_path: Path, check_data_error: CheckError
) -> None:
    path = write(tmp_path, content)
    check_data_error(lambda: load_dataset(path), path, *words)


def test_word_in_a_long_column_of_numbers_is_rejected(tmp_path: Path, check_data_error: CheckError) -> None:
    # By default, pandas would read so many rows in pieces, and each piece could have its own dtype.
    path = write(tmp_path, csv("a,label", [*(f"{i},{i % 2}" for i in range(300_000)), "oops,1"]))
    check_data_error(lambda: load_dataset(path), path, "'a'", "not numbers", "'oops'")


def test_word_in_a_held_out_column_of_numbers_is_rejected(tmp_path: Path, check_data_error: CheckError) -> None:
    write(tmp_path, csv("n,category", (f"{i},{i % 2}" for i in range(20))), "train.csv")
    write(tmp_path, csv("n,category", ["1,0", "oops,1"]), "test.csv")
    (tmp_path / "banking77").symlink_to(tmp_path)
    check_data_error(lambda: load_dataset("banking77", tmp_path), "banking77", "not numbers", "oops")


@pytest.mark.parametrize(
    ("held_out", "words"),
    [
        (csv("text,category", ["lost card,lost", "my pin,pin"]), ["held-out", "'pin'", "no training row has"]),
        (csv("words,category", ["lost card,lost"]), ["held-out table has no column", "text"]),
        (csv("text,kind", ["lost card,lost"]), ["no column 'category'", "text, kind"]),
        (csv("text,category", ["lost card,"]), ["rows without a label"]),
        (csv("text,category", []), ["held-out", "no examples"]),
    ],
)
def test_held_out_table_that_does_not_match_is_rejected(
    held_out: str, words: list[str], tmp_path: Path, check_data_error: CheckError
) -> None:
    (tmp_path / "banking77").mkdir()
    write(tmp_path, csv("text,category", ["lost card,lost", "found card,found"]), "banking77/train.csv")
    write(tmp_path, held_out, "banking77/test.csv")
    check_data_error(lambda: load_dataset("banking77", tmp_path), "banking77", *words)


def test_banking77_rows_broken_by_a_line_break_are_joined(tmp_path: Path, check_data_error: CheckError) -> None:
    (tmp_path / "banking77").mkdir()
    quoted = ["my pin,pin", '"lost card\n",lost', '"lost cash\n.",lost', "found card,found"]
    broken = ["my pin,pin", "", "lost card", ",lost", "lost cash", ".,lost", "found card,found"]
    write(tmp_path, csv("text,category", quoted), "banking77/test.csv")
    for rows in (quoted, broken):
        write(tmp_path, csv("text,category", rows), "banking77/train.csv")
        data = load_dataset("banking77", tmp_path)
        np.testing.assert_array_equal(data.x_train, data.x_val)
        np.testing.assert_array_equal(data.y_train, data.y_val)
    # A row without a label that is followed by a complete row is not joined.
    write(tmp_path, csv("text,category", ["lost card", "found card,found"]), "banking77/train.csv")
    check_data_error(lambda: load_dataset("banking77", tmp_path), "banking77", "rows without a label")


@pytest.mark.parametrize("name", ["absent.csv", "folder.csv", "x" * 5000 + ".csv"], ids=["absent", "folder", "long"])
def test_missing_table_is_rejected(name: str, tmp_path: Path, check_data_error: CheckError) -> None:
    (tmp_path / "folder.csv").mkdir()
    check_data_error(lambda: load_dataset(str(tmp_path / name)), str(tmp_path), "is not a file")


def test_label_argument_that_is_not_a_column_is_rejected(tmp_path: Path, check_data_error: CheckError) -> None:
    path = write(tmp_path, csv(HEADER, ROWS))
    check_data_error(lambda: load_dataset(path, label="kind"), path, "no column 'kind'", "a, b, label")


@pytest.mark.parametrize("name", ["table.zip", "table.gz", "table.xz", "table.bz2", "table.tar"])
@pytest.mark.parametrize("content", [b"not compressed", gzip.compress(b"a,label\n" * 50, mtime=0)[:25]])
def test_damaged_archive_is_rejected(name: str, content: bytes, tmp_path: Path, check_data_error: CheckError) -> None:
    path = write(tmp_path, content, name)
    check_data_error(lambda: load_dataset(path), path, "cannot be read as CSV")


def letter_rows(rows: int = 20_000) -> list[str]:
    return [f"{chr(65 + i % 26)},{','.join(str((i * j) % 16) for j in range(1, 17))}" for i in range(rows)]


def test_letter_is_read_with_and_without_a_header(tmp_path: Path) -> None:
    rows = letter_rows()
    (tmp_path / "letter").mkdir()
    write(tmp_path, csv("Letter," + ",".join(map(str, range(1, 17))), rows), "letter/letter-recognition.data")
    write(tmp_path, "\n".join(rows), "letter-recognition.data")
    with_header = load_dataset("letter", tmp_path)
    (tmp_path / "letter" / "letter-recognition.data").unlink()
    without = load_dataset("letter", tmp_path)
    assert with_header.fingerprint == without.fingerprint
    assert without.x_train.shape == (16_000, 16)
    assert without.classes == 26
    np.testing.assert_array_equal(without.y_val[:10], (np.arange(10) + 16_000) % 26)


def test_letter_with_another_number_of_rows_is_rejected(tmp_path: Path, check_data_error: CheckError) -> None:
    path = write(tmp_path, "\n".join(letter_rows(100)), "letter-recognition.data")
    check_data_error(lambda: load_dataset("letter", tmp_path), path, "100 rows", "20,000")


def test_real_letter_data_set(real_data: Path) -> None:
    data = load_dataset("letter", real_data)
    assert data.x_train.shape == (16_000, 16)
    assert data.x_val.shape == (4_000, 16)
    assert data.classes == 26
    np.testing.assert_allclose(data.x_train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(data.x_train.std(0, dtype=np.float64), 1, atol=1e-5)
    assert data.y_train[:5].tolist() == [ord(letter) - ord("A") for letter in "TIDNG"]
    assert len(np.bincount(data.y_val)) == 26


def test_real_banking77_data_set(real_data: Path) -> None:
    data = load_dataset("banking77", real_data)
    assert len(data.x_train) == 10_003
    assert data.x_val.shape == (3_080, data.features)
    assert data.classes == 77
    assert np.bincount(data.y_val).tolist() == [40] * 77
    assert 2000 < data.features <= 4096
    norms = np.linalg.norm(data.x_train, axis=1)
    np.testing.assert_allclose(norms[norms > 0], 1, rtol=1e-5)
    assert (norms > 0).mean() > 0.999
