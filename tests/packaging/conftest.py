"""The built distributions, environments with the wheel, and a model to measure."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.packaging.environments import Environment, make_environment


def build(source: Path, target: Path, kind: str) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", target]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the sdist alone, as a package index does."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    return build(source, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="session")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Environment]]:
    """Make an environment with these extras: ``environment("hf", "fast")``."""

    made = []

    @cache
    def make(*extras: str) -> Environment:
        made.append(make_environment(tmp_path_factory.mktemp("environment"), wheel, extras))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Callable[..., Any], minilm: Path) -> Path:
    """Make a folder with a small ReLU model, its tokenizer, and a text."""
    import transformers

    place = tmp_path_factory.mktemp("user")
    tiny_gpt2("relu").save_pretrained(place / "model")
    transformers.AutoTokenizer.from_pretrained(minilm).save_pretrained(place / "model")
    (place / "text.txt").write_text("Once upon a time in a faraway land, there was a king who had a fox. " * 60)
    return place
