"""Counts that are impossible are refused, even if a checksum was made to fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from actratio import ActratioError, load, measure
from actratio.checksums import with_checksum

Arrays = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    measure(model, [torch.randn(9, 4)]).save(tmp_path / "m")
    return tmp_path / "m"


def forge(folder: Path, change: Callable[[dict[str, Any], Arrays], object]) -> None:
    described = json.loads((folder / "measurement.json").read_text())
    arrays = load_file(folder / "neurons.safetensors")
    described.pop("checksum")
    change(described, arrays)
    save_file(arrays, folder / "neurons.safetensors")
    (folder / "measurement.json").write_text(json.dumps(with_checksum(described, arrays)))


def test_an_honest_measurement_is_read(folder: Path) -> None:
    forge(folder, lambda described, arrays: None)
    assert load(folder)["1"].tokens == 9


IMPOSSIBLE: dict[str, Callable[[dict[str, Any], Arrays], object]] = {
    "more active than tokens": lambda described, arrays: arrays["0.active"].fill_(10),
    "negative": lambda described, arrays: arrays["0.active"].fill_(-1),
    "negative tokens": lambda described, arrays: arrays["0.tokens"].fill_(-9),
    "fewer tokens": lambda described, arrays: arrays["0.tokens"].fill_(1),
    "a shape": lambda described, arrays: arrays.update({"0.active": torch.ones(2, 3, dtype=torch.int64)}),
    "squares of several": lambda described, arrays: arrays.update({"0.squares": torch.ones(3, dtype=torch.int64)}),
    "floats": lambda described, arrays: arrays.update({"0.active": torch.ones(6)}),
    "more in both than in either": lambda described, arrays: arrays["0.both"].fill_(10**6),
    "more useful outputs than outputs": lambda described, arrays: arrays["0.useful"].fill_(9 * 6 + 1),
    "useful outputs of more tokens": lambda described, arrays: arrays["0.useful_tokens"].fill_(10),
    "tokens by number": lambda described, arrays: arrays["0.per_token"].fill_(0),
    "a field that is unknown": lambda described, arrays: arrays.update({"0.luck": torch.ones(1, dtype=torch.int64)}),
    "a histogram": lambda described, arrays: arrays["magnitudes.0"].fill_(-1),
    "a histogram's size": lambda described, arrays: arrays.update({"magnitudes.0": torch.ones(3, dtype=torch.int64)}),
    "a model": lambda described, arrays: described.update(model=3),
    "a fingerprint": lambda described, arrays: described.update(fingerprint=[]),
    "settings": lambda described, arrays: described.update(settings=[]),
    "a site's name": lambda described, arrays: described["rows"][0]["site"].update(name={}),
    "a site's width": lambda described, arrays: described["rows"][0]["site"].update(width=True),
    "a site's role": lambda described, arrays: described["rows"][0]["site"].update(role="king"),
    "a criterion": lambda described, arrays: described["rows"][0].update(criterion=None),
    "a row more": lambda described, arrays: described["rows"].append(described["rows"][0]),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_impossible_counts_are_refused(what: str, folder: Path) -> None:
    forge(folder, IMPOSSIBLE[what])
    with pytest.raises(ActratioError, match="is damaged"):
        load(folder)
