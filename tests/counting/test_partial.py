"""An interrupted measurement continues where it stopped, and ends with the same integers."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from actratio import ActratioError, Measurement, load, measure
from actratio.counting import partial as partial_module
from actratio.counting.folder import PARTIAL
from tests.conftest import make_tiny_causal_lm as tiny

BATCHES = [
    {"input_ids": torch.randint(1, 64, (2, 7), generator=torch.Generator().manual_seed(seed))} for seed in range(5)
]
OPTIONS: dict[str, Any] = {"criteria": ["positive", "above(0.01)"], "settings": {"text": "t"}}


def assert_same(a: Measurement, b: Measurement) -> None:
    assert a.to_frame().equals(b.to_frame())
    assert a.settings == b.settings
    for mine, theirs in zip(a, b, strict=True):
        assert mine.site == theirs.site
        for name, value in mine.counts.values().items():
            other = getattr(theirs.counts, name)
            assert torch.equal(value, other) if isinstance(value, Tensor) else value == other, name
    assert a.magnitudes.keys() == b.magnitudes.keys()
    assert all(torch.equal(magnitudes.counts, b.magnitudes[key].counts) for key, magnitudes in a.magnitudes.items())


def until(last: int, error: BaseException, batches: list[Any] = BATCHES) -> Iterator[Any]:
    yield from batches[:last]
    raise error


@pytest.mark.parametrize("kind", ["gpt2", "mixtral"])
@pytest.mark.parametrize("last", [1, 3, 5])
def test_an_interrupted_measurement_ends_with_the_same_integers(kind: str, last: int, tmp_path: Path) -> None:
    model, path = tiny(kind), tmp_path / "new" / PARTIAL
    whole = measure(model, BATCHES, **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        measure(model, until(last, KeyboardInterrupt()), partial=path, **OPTIONS)
    stages: list[str] = []
    tokens: list[int] = []
    resumed = measure(model, iter(BATCHES), partial=path, stage=stages.append, progress=tokens.append, **OPTIONS)
    assert stages[0] == "skipping the batches that are counted"
    assert "finding the MLPs" not in stages
    counted = [0, *(number * BATCHES[0]["input_ids"].numel() for number in range(1, 6))]
    assert kind == "mixtral" or tokens == counted[last:]
    assert_same(resumed, whole)


def test_two_interrupts_in_one_measurement(tmp_path: Path) -> None:
    model, path = tiny("llama"), tmp_path / PARTIAL
    for last in (2, 4):
        with pytest.raises(RuntimeError, match="no disk"):
            measure(model, until(last, RuntimeError("no disk")), partial=path, **OPTIONS)
    assert_same(measure(model, BATCHES, partial=path, **OPTIONS), measure(model, BATCHES, **OPTIONS))


def test_an_interrupt_inside_a_forward_pass_counts_whole_batches(tmp_path: Path) -> None:
    model, path = tiny("gpt2"), tmp_path / PARTIAL
    calls = 0

    def stop(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt

    hook = model.transformer.h[1].mlp.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        measure(model, BATCHES, partial=path, **OPTIONS)
    hook.remove()
    assert_same(measure(model, BATCHES, partial=path, **OPTIONS), measure(model, BATCHES, **OPTIONS))


def test_a_killed_measurement_goes_on(tmp_path: Path) -> None:
    """With SIGKILL, which no program can catch: what was saved last is there, and whole."""
    script = f"""
import os, signal
from actratio import measure
from actratio.counting import partial
from tests.counting.test_partial import BATCHES, OPTIONS, tiny
partial.SAVE_EVERY = 0.0
def batches():
    yield from BATCHES[:3]
    os.kill(os.getpid(), signal.SIGKILL)
measure(tiny("gpt2"), batches(), partial={str(tmp_path / PARTIAL)!r}, **OPTIONS)
"""
    killed = subprocess.run([sys.executable, "-c", script], timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [PARTIAL]
    with pytest.raises(ActratioError, match="is not finished; run the command that started it again"):
        load(tmp_path)
    model = tiny("gpt2")
    kept = partial_module.PartialCounts(
        tmp_path / PARTIAL, "GPT2LMHeadModel", partial_module.read_settings(tmp_path / PARTIAL) or {}, None
    )
    assert kept.batches == 3
    resumed = measure(model, BATCHES, partial=tmp_path / PARTIAL, **OPTIONS)
    whole = measure(model, BATCHES, **OPTIONS)
    assert_same(resumed, whole)
    resumed.save(tmp_path)
    assert not (tmp_path / PARTIAL).exists()
    assert_same(load(tmp_path), whole)


def test_a_file_that_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / f".1.{PARTIAL}").write_bytes(b"half")
    measure(tiny("gpt2"), BATCHES, partial=tmp_path / PARTIAL).save(tmp_path)
    assert not (tmp_path / f".1.{PARTIAL}").exists()
    load(tmp_path)


def test_counts_are_saved_from_time_to_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(partial_module.time, "monotonic", lambda: now[0])
    saved = []

    def batches() -> Iterator[Any]:
        for number, batch in enumerate(BATCHES):
            now[0] = 16.0 * number
            saved.append((tmp_path / PARTIAL).exists())
            yield batch

    measure(tiny("gpt2"), batches(), partial=tmp_path / PARTIAL)
    assert saved == [False, False, False, True, True]  # after the third batch, at 32 seconds


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"criteria": "nonzero"}, "other settings"),
        ({"settings": {"text": "u"}}, "other settings"),
        ({"sites": "*.0.mlp"}, "other settings"),
        ({"name": "another"}, "other settings"),
        ({"weights": True}, "counts of other weights of"),
        ({"batches": [*BATCHES[1:], BATCHES[0]]}, "counts of 2 batches of another text"),
        ({"batches": BATCHES[:1]}, "counts of 2 batches of another text"),
    ],
)
def test_other_settings_weights_and_batches_are_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    model, path = tiny("gpt2"), tmp_path / PARTIAL
    with pytest.raises(KeyboardInterrupt):
        measure(model, until(2, KeyboardInterrupt()), partial=path, **OPTIONS)
    before = path.read_bytes()
    if change.pop("weights", False):
        model.transformer.h[0].mlp.c_fc.weight.data += 1
    batches = change.pop("batches", BATCHES)
    with pytest.raises(ActratioError, match=f"{words}.*; remove it to measure again"):
        measure(model, batches, partial=path, **{**OPTIONS, **change})
    assert path.read_bytes() == before


def test_a_damaged_file_is_refused_and_nothing_is_left_without_counts(tmp_path: Path) -> None:
    path = tmp_path / PARTIAL
    with pytest.raises(KeyboardInterrupt):
        measure(tiny("gpt2"), until(0, KeyboardInterrupt()), partial=path)
    with pytest.raises(ActratioError, match="fails on purpose"):
        measure(tiny("gpt2"), until(2, ActratioError("fails on purpose")), partial=path)
    assert not path.exists()
    path.write_bytes(b"nothing")
    with pytest.raises(ActratioError, match="is damaged"):
        measure(tiny("gpt2"), BATCHES, partial=path)
