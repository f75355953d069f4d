"""What an undisturbed run leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from tests.faults.processes import Command
from tests.faults.toy import run_toy, toy_table
from tests.scale.conftest import corpus, expected, model  # noqa: F401
from tests.scale.shards import options


@pytest.fixture(autouse=True)
def _blank_figures(blank_figures: None) -> None:
    """What is measured counts here, and not how it is drawn."""


@pytest.fixture(scope="session")
def toy_expected(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Return the table of the toy study."""
    folder = tmp_path_factory.mktemp("toy")
    assert Command(partial(run_toy, folder / "run"), folder / "log").finish() == 0
    return toy_table(folder / "run")


@pytest.fixture
def measuring(model: Path, corpus: Path) -> Callable[[Path], list[object]]:  # noqa: F811
    """Return the arguments that measure a corpus into a folder."""
    return lambda out: options(model, corpus, out)
