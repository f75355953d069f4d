"""A small model and a corpus for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.processes import Command
from tests.scale.shards import counts, options

WORDS = ["king", "fox", "market", "land", "loss", "story", "time", "dog"]


@pytest.fixture(autouse=True)
def _blank_figures(blank_figures: None) -> None:
    """What is measured counts here, and not how it is drawn."""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Callable[..., Any], minilm: Path) -> Path:
    """Save a small model with a tokenizer."""
    import transformers

    folder = tmp_path_factory.mktemp("scale") / "model"
    tiny_gpt2("relu").save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
    return folder


def write_corpus(folder: Path) -> Path:
    """Write 60 rows in two files."""
    folder.mkdir()
    rows = [" ".join(WORDS[(row + step * row) % 8] for step in range(3 + row % 7)) for row in range(60)]
    (folder / "a.txt").write_text("\n".join(rows[:30]) + "\n", encoding="utf-8")
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows[30:]), encoding="utf-8")
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory, model: Path) -> list[dict[str, list[int]]]:
    """Return the counts of the corpus, measured in one go."""
    folder = tmp_path_factory.mktemp("expected")
    corpus = write_corpus(folder / "corpus")
    assert Command(options(model, corpus, folder / "out"), folder / "log").finish() == 0
    return counts(folder / "out")


@pytest.fixture
def measured(tmp_path: Path, model: Path, corpus: Path, run_command: Callable[..., int]) -> Path:
    """Return a folder of this test's own with the measured corpus."""
    assert run_command(*options(model, corpus, tmp_path / "measured")) == 0
    return tmp_path / "measured"
