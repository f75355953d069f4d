"""The folder of a measurement: any damage is found by its checksum."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from actratio import ActratioError, load, measure
from actratio.checksums import content_checksum
from actratio.counting.folder import PARTIAL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    measure(model, [torch.randn(9, 4)], settings={"sizes": (1, 2)}).save(tmp_path / "m")
    return tmp_path / "m"


def test_a_saved_measurement_is_read_back(folder: Path) -> None:
    assert load(folder).settings["sizes"] == [1, 2]
    assert len(json.loads((folder / "measurement.json").read_text())["checksum"]) == 64


def test_one_changed_count_is_refused(folder: Path) -> None:
    arrays = load_file(folder / "neurons.safetensors")
    arrays["0.active"][2] += 1
    save_file(arrays, folder / "neurons.safetensors")
    with pytest.raises(ActratioError, match=r"is damaged \(its checksum does not match.*; measure again"):
        load(folder)


@pytest.mark.parametrize(
    "change", [("model", "another"), ("rows", []), ("fingerprint", None), ("settings", {}), ("provenance", {})]
)
def test_a_changed_description_is_refused(change: tuple[str, object], folder: Path) -> None:
    path = folder / "measurement.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict([change])))
    with pytest.raises(ActratioError, match="its checksum does not match"):
        load(folder)


@pytest.mark.parametrize("content", ["[]", "null", '{"format": 4}', "[" * 100_000, '{"format": ' + "9" * 5000 + "}"])
def test_another_description_is_one_sentence(content: str, folder: Path) -> None:
    (folder / "measurement.json").write_text(content)
    with pytest.raises(ActratioError, match="is damaged") as raised:
        load(folder)
    assert "\n" not in str(raised.value)


def test_a_folder_of_an_earlier_version_is_refused_with_its_format(folder: Path) -> None:
    path = folder / "measurement.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 3}))
    with pytest.raises(ActratioError, match="its format is 3, and this version reads 4"):
        load(folder)


def test_one_changed_bit_of_an_unfinished_measurement_is_refused(tmp_path: Path) -> None:
    model, path = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), tmp_path / PARTIAL

    def batches():  # type: ignore[no-untyped-def]
        yield torch.ones(3, 4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(model, batches(), partial=path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ActratioError, match=r"its checksum does not match.*; remove it to measure again"):
        measure(model, [torch.ones(3, 4)], partial=path)


def test_the_checksum_depends_on_values_names_types_and_shapes_alone() -> None:
    arrays = {"a": torch.arange(6), "b": torch.zeros(2, dtype=torch.int64)}
    same = content_checksum(dict(reversed(arrays.items())), {"y": 1, "x": 2})
    assert content_checksum(arrays, {"x": 2, "y": 1}) == same
    assert content_checksum({**arrays, "a": torch.arange(6).view(2, 3)}, {"x": 2, "y": 1}) != same
    assert content_checksum({**arrays, "a": torch.arange(6).to(torch.int32)}, {"x": 2, "y": 1}) != same
    assert content_checksum({"c": arrays["a"], "b": arrays["b"]}, {"x": 2, "y": 1}) != same
    assert content_checksum(arrays, {"x": 2}) != same
