"""What an undisturbed run leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.faults.processes import Command
from tests.faults.toy import run_toy, toy_table
from tests.scale.conftest import corpus, model  # noqa: F401
from tests.scale.shards import counts, options

Start = Callable[..., Command]


@pytest.fixture(scope="module")
def toy_expected(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Return the table of the toy study."""
    folder = tmp_path_factory.mktemp("toy")
    assert Command(partial(run_toy, folder / "run"), folder / "log").finish() == 0
    return toy_table(folder / "run")


@pytest.fixture
def measuring(tmp_path: Path, model: Path, corpus: Path) -> Callable[[Path], list[object]]:  # noqa: F811
    """Return the arguments that measure a corpus into a folder."""
    return lambda out: options(model, corpus, out)


@pytest.fixture
def expected(tmp_path: Path, measuring: Callable[[Path], list[object]]) -> Any:
    """Return the counts of the corpus."""
    assert Command(measuring(tmp_path / "expected"), tmp_path / "expected.log").finish() == 0
    return counts(tmp_path / "expected")
