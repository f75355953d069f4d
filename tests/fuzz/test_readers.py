"""Changed files are refused with one sentence, or read; no changed number is accepted where a checksum covers the file.

``benchmarks/fuzz.py`` makes many more changes, in a process whose memory is bounded.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from actratio import ActratioError
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import fuzz
from fuzz_mutations import in_bytes, in_json, in_safetensors, in_table
from fuzz_readers import Reader, make_readers

pytestmark = pytest.mark.filterwarnings("ignore")  # those of libraries about damaged files

FEW = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": [*HealthCheck]}


@pytest.fixture(
    params=[pytest.param((10, 2), id="few"), pytest.param((30, 5), id="many", marks=pytest.mark.slow)], scope="module"
)
def examples(request: pytest.FixtureRequest) -> tuple[int, int]:
    """Return the number of changes of a reader's file, and that of a slow reader's."""
    few: tuple[int, int] = request.param
    return few


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Reader, Any, bytes]]]:
    """The readers with what they read from their valid files, and these."""
    place = tmp_path_factory.mktemp("readers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        made = make_readers(place)
        patch.chdir(place)
        yield {name: (reader, reader.read(), reader.path.read_bytes()) for name, reader in made.items()}


def check(name: str, reader: Reader, expected: Any, content: bytes) -> None:
    before = signal.signal(signal.SIGALRM, timed_out)
    try:
        outcome, example = fuzz.read_changed(name, reader, expected, content)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert outcome not in fuzz.BAD, f"{name}: {outcome}: {example}"


def timed_out(*_: object) -> None:
    raise TimeoutError


EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8) | st.sampled_from([b"-1", b"NaN", b"9" * 30, b"[", b"\n"])),
    min_size=1,
    max_size=3,
)  # fmt: skip
"""Places, as shares of the file, the number of bytes to remove there, and the bytes to put there instead."""


def edited(content: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for share, removed, added in edits:
        place = int(share * len(content))
        content = content[:place] + added + content[place + removed :]
    return content


def test_changed_bytes(readers: dict[str, tuple[Reader, Any, bytes]], examples: tuple[int, int]) -> None:
    for name, (reader, expected, valid) in readers.items():
        if reader.mutations[0] is in_bytes:  # others are packed or forged before they are read
            draw_edits(name, reader, expected, valid, examples[reader.is_slow])
            reader.path.write_bytes(valid)


def draw_edits(name: str, reader: Reader, expected: Any, valid: bytes, count: int) -> None:
    @settings(max_examples=count, **FEW)
    @given(EDITS)
    def changed(edits: list[tuple[float, int, bytes]]) -> None:
        note(name)
        check(name, reader, expected, edited(valid, edits))

    changed()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def replaced(value: Any, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Any:
    """Return a JSON value with a drawn one somewhere in it."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        name = draw(st.sampled_from(sorted(value)))
        return value | {name: replaced(value[name], draw)}
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], replaced(value[place], draw), *value[place + 1 :]]
    return draw(JSON)


def test_changed_values_of_json(readers: dict[str, tuple[Reader, Any, bytes]], examples: tuple[int, int]) -> None:
    for name, (reader, expected, valid) in readers.items():
        if in_json in reader.mutations:
            draw_values(name, reader, expected, valid, examples[reader.is_slow])
            reader.path.write_bytes(valid)


def draw_values(name: str, reader: Reader, expected: Any, valid: bytes, count: int) -> None:
    value = json.loads(valid)

    @settings(max_examples=count, **FEW)
    @given(st.data())
    def changed(data: st.DataObject) -> None:
        note(name)
        check(name, reader, expected, json.dumps(replaced(value, data.draw)).encode())

    changed()


def test_changes_that_keep_the_file_well_formed(
    readers: dict[str, tuple[Reader, Any, bytes]], examples: tuple[int, int]
) -> None:
    for name, (reader, expected, valid) in readers.items():
        for mutate in reader.mutations:
            for number in range(examples[reader.is_slow]):
                check(name, reader, expected, mutate(valid, random.Random(f"{name} {number}")))
        reader.path.write_bytes(valid)


def test_every_file_with_a_checksum_is_changed_inside_its_format(
    readers: dict[str, tuple[Reader, Any, bytes]],
) -> None:
    inside = {".json": in_json, ".safetensors": in_safetensors, ".parquet": in_table}
    for name, (reader, _, _) in readers.items():
        if reader.possible is None and reader.path.suffix in inside:
            assert inside[reader.path.suffix] in reader.mutations, name


def test_every_kind_of_outcome_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 0.1)

    def fail(error: BaseException) -> Any:
        raise error

    def outcome(read: Callable[[], Any], possible: Callable[[Any], bool] | None = None) -> str:
        before = signal.signal(signal.SIGALRM, timed_out)
        try:
            return fuzz.read_changed("reader", Reader(tmp_path / "file", read, possible), 1, b"")[0]
        finally:
            signal.signal(signal.SIGALRM, before)

    assert outcome(lambda: 1) == "unchanged"
    assert outcome(lambda: 2) == "wrong"
    assert outcome(lambda: 2, lambda value: value == 2) == "accepted"
    assert outcome(lambda: 3, lambda value: value == 2) == "wrong"
    assert outcome(lambda: fail(ActratioError("a sentence"))) == "refused"
    assert outcome(lambda: fail(ValueError("no sentence"))) == "traceback"
    assert outcome(lambda: fail(MemoryError())) == "traceback"
    assert outcome(lambda: time.sleep(5)) == "hung"

    class TwoLinesError(ActratioError):
        def __str__(self) -> str:
            return "a\nb"

    assert outcome(lambda: fail(TwoLinesError())) == "several lines"


def run_benchmark(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "fuzz.py"), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_the_benchmark_reads_in_a_process_of_its_own() -> None:
    result = run_benchmark("--mutations", "60", "--readers", "measurement.json;IDX images")
    assert all(goal["met"] for goal in result["goals"]), result["rows"]
    assert [row["mutations"] for row in result["rows"]] == [30, 30]
    assert all(row["refused"] > 0 for row in result["rows"])


@pytest.mark.slow
def test_many_changed_files() -> None:
    result = run_benchmark("--mutations", os.environ.get("ACTRATIO_MUTATIONS", "100000"))
    assert all(goal["met"] for goal in result["goals"]), result["rows"]
