"""A sample of the benchmark that goes through every architecture, by its own check."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def zoo() -> Any:
    """The benchmark, which is no part of the package."""
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("zoo")
    finally:
        sys.path.remove(folder)


@pytest.mark.filterwarnings("ignore")  # transformers' own
@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("causal-lm", "llama"),
        ("causal-lm", "gpt_oss"),
        ("causal-lm", "deepseek_v3"),
        ("causal-lm", "inkling_text"),
        ("causal-lm", "zamba2"),
        ("masked-lm", "bert"),
        ("masked-lm", "squeezebert"),
        ("seq2seq", "t5"),
        ("seq2seq", "switch_transformers"),
        ("image-classification", "vit"),
        ("image-classification", "swin"),
    ],
)
def test_a_type_is_exact(zoo: Any, family: str, kind: str) -> None:
    outcome = zoo.check(family, kind)
    assert (outcome.status, outcome.problem) == ("exact", "")


def test_the_oracle_disagrees_with_a_wrong_count(zoo: Any) -> None:
    from actratio import measure

    model = next(zoo.tiny("causal-lm", "llama"))
    heard = zoo.listen(model, "causal-lm", "llama")
    found = measure(model, [zoo.inputs(model, "causal-lm", "llama")], tensors=["activation"])
    assert zoo.compare(heard, found) == ""
    assert zoo.compare(heard[1:], found)
    assert zoo.compare([*heard, heard[0]], found)
