"""A small model and a corpus for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.scale.shards import counts, options

WORDS = ["king", "fox", "market", "land", "loss", "story", "time", "dog"]


@pytest.fixture
def model(tmp_path: Path, tiny_gpt2: Callable[..., Any], minilm: Path) -> Path:
    """Save a small model with a tokenizer."""
    import transformers

    folder = tmp_path / "model"
    tiny_gpt2("relu").save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Write a corpus of 60 rows in two files."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = [" ".join(WORDS[(row + step * row) % 8] for step in range(3 + row % 7)) for row in range(60)]
    (folder / "a.txt").write_text("\n".join(rows[:30]) + "\n", encoding="utf-8")
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows[30:]), encoding="utf-8")
    return folder


@pytest.fixture
def expected(tmp_path: Path, model: Path, corpus: Path, run_command: Callable[..., int]) -> list[dict[str, list[int]]]:
    """Measure the corpus in one go."""
    assert run_command(*options(model, corpus, tmp_path / "expected")) == 0
    return counts(tmp_path / "expected")
