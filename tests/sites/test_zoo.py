"""A sample of the benchmark that goes through every architecture, by its own check."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actratio import measure
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def zoo() -> Any:
    """The benchmark, which is no part of the package."""
    folder = str(ROOT / "benchmarks")
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
        ("causal-lm", "zamba"),
        ("causal-lm", "zamba2"),
        ("causal-lm", "llama4_text"),
        ("masked-lm", "bert"),
        ("masked-lm", "squeezebert"),
        ("seq2seq", "t5"),
        ("seq2seq", "switch_transformers"),
        ("image-classification", "vit"),
        ("image-classification", "swin"),
        ("image-classification", "efficientnet"),
    ],
)
def test_counts_of_a_model_type_equal_the_oracle(zoo: Any, family: str, kind: str) -> None:
    outcome = zoo.check(family, kind)
    assert (outcome.status, outcome.problem) == ("exact", "")


def test_the_oracle_rejects_a_wrong_count(zoo: Any) -> None:
    model = next(zoo.tiny("causal-lm", "llama"))
    heard = zoo.listen(model, "causal-lm", "llama")
    found = measure(model, [zoo.inputs(model, "causal-lm", "llama")], tensors=["activation"])
    assert zoo.compare(heard, found) == ""
    assert zoo.compare(heard[1:], found)
    assert zoo.compare([*heard, heard[0]], found)


_WITH_TIMM = """
import json, re, sys, torch, zoo
from actratio import measure
from zoo_models import let_timm_load
let_timm_load()
import timm
models = json.loads(sys.argv[1])
image = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
for name, activations in models.items():
    model, expected, hooks = timm.create_model(name).eval(), [], []
    for path, module in model.named_modules():
        if re.fullmatch(activations, path):
            write = lambda _m, _i, out: expected.append([int((out > 0).sum()), out.numel()])
            hooks.append(module.register_forward_hook(write))
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    found = measure(model, [image], tensors=["activation"])
    counted = [[int(row.counts.active.sum()), row.counts.tokens * row.site.width] for row in found]
    print(name, len(expected), sorted(counted) == sorted(expected))
sys.argv = ["zoo.py", "--family", "image-classification", "--types", "timm_wrapper", "--json"]
zoo.main()
"""
"""Models of timm are counted beside plain hooks on their activation modules; then the benchmark checks those that transformers wraps."""

_TIMM_MODELS = {
    "vit_tiny_patch16_224": r"blocks\.\d+\.mlp\.act",
    "mixer_s32_224": r"blocks\.\d+\.mlp_(tokens|channels)\.act",
    "convnext_atto": r"stages\.\d+\.blocks\.\d+\.mlp\.act",
    "swin_tiny_patch4_window7_224": r"layers\.\d+\.blocks\.\d+\.mlp\.act",
    # The first bottleneck has no expansion: no linear map made its wide activation.
    "mobilenetv3_small_100": r"blocks\.\d+\.\d+\.se\.act1|blocks\.[1-4]\.\d+\.bn2\.act",
}
"""Models, and the names of their activation modules."""


@pytest.fixture(scope="module")
def printed_with_timm() -> list[str]:
    """The lines of a process of its own: timm's torchvision is not to be seen by the other tests' transformers."""
    ran = subprocess.run(
        [sys.executable, "-c", _WITH_TIMM, json.dumps(_TIMM_MODELS)],
        capture_output=True,
        text=True,
        cwd=ROOT / "benchmarks",
        env={**os.environ, "PYTHONPATH": str(Path(sys.prefix) / "timm")},
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_timm_models_are_counted(printed_with_timm: list[str]) -> None:
    assert printed_with_timm[:-1] == [
        "vit_tiny_patch16_224 12 True",
        "mixer_s32_224 16 True",
        "convnext_atto 12 True",
        "swin_tiny_patch4_window7_224 12 True",
        "mobilenetv3_small_100 19 True",
    ]


def test_timm_models_wrapped_by_transformers_equal_the_oracle(printed_with_timm: list[str]) -> None:
    (row,) = json.loads(printed_with_timm[-1])["rows"]
    assert (row["status"], row["sites"]) == ("exact", 2)
