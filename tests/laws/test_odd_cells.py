"""Tables with odd cells: one sentence with the column and the row."""

from __future__ import annotations

from pathlib import Path

import pytest

from actratio import ActratioError
from actratio.laws.observations import read_observations
from actratio.studies.transformer.profiles import read_gpt


@pytest.mark.parametrize("cell", ["inf", "1e999", "-3", "", "many"])
def test_observations(cell: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"width,active_mean\n8,3\n16,{cell}\n32,7\n")
    with pytest.raises(ActratioError, match=r"the column active_mean contains .* in row 2; give numbers"):
        read_observations(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("1e30,0,0.1", "layer"),
        ("nan,0,0.1", "layer"),
        ("1.5,0,0.1", "layer"),
        ("1,0,inf", "activation_ratio"),
        ("1,0,x", "activation_ratio"),
    ],
)
def test_profiles(row: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"model,layer,input,activation_ratio\na,0,0,0.04\na,{row}\n")
    with pytest.raises(ActratioError, match=rf"the column {words} contains .* in row 2; give a"):
        read_gpt(tmp_path / "t.csv")
