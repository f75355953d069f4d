"""Data frames survive the files of a study's units bit for bit."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from safetensors.torch import load_file, save_file

from actratio.studies.frames import frame_from_arrays, frame_to_arrays


def test_frame_round_trip_is_exact(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "site": ["layers.0 · ü", "", "None"],
            "tokens": [0, 1, 2**60 + 1],
            "ratio": [0.1, float("nan"), 1e-300],
            "gated": [True, False, True],
        }
    )
    save_file(frame_to_arrays(frame), tmp_path / "unit.safetensors")
    again = frame_from_arrays(load_file(tmp_path / "unit.safetensors"))
    pd.testing.assert_frame_equal(again, frame, check_exact=True)
    assert list(again.columns) == list(frame.columns)
