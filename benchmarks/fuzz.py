"""Change files at random, and count how many are refused with one sentence, and how many are taken for something else.

Run ``python benchmarks/fuzz.py --json --mutations 1000``; the number is that of each reader. A child process with bounded memory reads.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

GIGABYTES, SECONDS = 8, 10


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return the content with flipped bits, changed bytes, a part removed, doubled or cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        place = rng.randrange(len(data)) if data else 0
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[place] = rng.randrange(256)
        elif kind == 2:
            del data[place : place + rng.randrange(1, 9)]
        elif kind == 3:
            data[place:place] = data[place : place + rng.randrange(1, 9)]
        elif kind == 4:
            data[place:place] = rng.choice((b"-1", b"NaN", b"1e999", b"9" * 30, b"\0", b'"', b"[", b"{", b"\n", b","))
        else:
            del data[place:]
    return bytes(data)


def make_inputs(folder: Path) -> dict[str, tuple[Path, Callable[[Path], Any]]]:
    """Write one valid input of each reader; return its path, and a function that reads it and returns what must not change."""
    import torch
    from torch import nn

    from actratio import load, measure
    from actratio.data.idx import read_idx
    from actratio.data.tables import read_csv
    from actratio.data.text import open_texts
    from actratio.laws.observations import read_observations
    from actratio.studies import MlpStudy
    from actratio.studies.runner import FinishedRun, Runner
    from actratio.studies.transformer.profiles import depth_profiles, read_gpt
    from actratio.training import Architecture

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    measure(model, [torch.randn(9, 4)]).save(folder / "m")
    study = MlpStudy(architectures=("8-10", "16-10"), seeds=2, epochs=1)
    Runner(study, folder / "run").execute()
    (folder / "images").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2]) + bytes(range(8)))
    (folder / "table.csv").write_text("width,active_mean\n8,3.5\n16,5\n32,7\n64,9.5\n")
    (folder / "gpt.csv").write_text("model,layer,input,activation_ratio\n" + "a,0,0,0.04\na,1,0,0.1\na,2,0,0.14\n")
    (folder / "texts.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (folder / "widths").write_text("784-512-10")

    def measured(path: Path) -> Any:
        loaded = load(folder / "m")
        return [row.counts.active.tolist() for row in loaded], loaded.settings, loaded.model

    def units(path: Path) -> Any:
        frame = Runner(study, folder / "run").frame()
        return frame.to_csv()

    def table(path: Path) -> Any:
        return FinishedRun.read(folder / "run").frame.to_csv()

    unit = next((folder / "run" / "neurons").iterdir())
    return {
        "measurement.json": (folder / "m" / "measurement.json", measured),
        "neurons.safetensors": (folder / "m" / "neurons.safetensors", measured),
        "run: settings.json": (folder / "run" / "settings.json", table),
        "run: results.parquet": (folder / "run" / "results.parquet", table),
        "run: unit": (unit, units),
        "IDX": (folder / "images", lambda path: read_idx(path, 3) is None),
        "CSV": (folder / "table.csv", lambda path: read_csv(path) is None),
        "observations": (folder / "table.csv", lambda path: read_observations(path) is None),
        "gpt table": (folder / "gpt.csv", lambda path: not depth_profiles(read_gpt(path))),
        "JSON lines": (folder / "texts.jsonl", lambda path: list(open_texts([str(path)])) is None),
        "architecture": (
            folder / "widths",
            lambda path: Architecture.parse(path.read_text(errors="replace"), inputs=784, outputs=10) is None,
        ),
    }


EXACT = ("measurement.json", "neurons.safetensors", "run: settings.json", "run: results.parquet", "run: unit")
"""Readers that must find every change of a number."""


def fuzz(number: int, seed: int) -> list[dict[str, Any]]:
    """Return a row of counts for each reader."""
    from actratio import ActratioError

    folder = Path(tempfile.mkdtemp())
    inputs, rng, rows = make_inputs(folder), random.Random(seed), []
    resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES << 30, GIGABYTES << 30))
    for name, (path, read) in inputs.items():
        valid, counts, examples = path.read_bytes(), Counter[str](), list[str]()
        expected = read(path)
        for _ in range(number):
            content = mutated(valid, rng)
            path.write_bytes(content)
            signal.alarm(SECONDS)
            try:
                same = read(path) == expected
                outcome = "accepted" if name not in EXACT else "unchanged" if same else "wrong"
            except ActratioError as error:
                outcome = "several lines" if "\n" in str(error) else "refused"
            except TimeoutError:
                outcome = "hung"
            except BaseException as error:
                outcome = "traceback"
                if len(examples) < 3:
                    examples.append(f"{type(error).__name__}: {error}"[:200])
            finally:
                signal.alarm(0)
            counts[outcome] += 1
        path.write_bytes(valid)
        rows.append({"reader": name, "mutations": number, **counts, "examples": examples})
    shutil.rmtree(folder)
    return rows


def _in_child(number: int, seed: int, answer: Any) -> None:
    def hung(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, hung)
    answer.put(fuzz(number, seed))


def main() -> None:
    """Run the readers in a child, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=200, help="of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    child = context.Process(target=_in_child, args=(given.mutations, given.seed, answer))
    child.start()
    rows = answer.get()
    child.join()
    bad = sum(row.get(kind, 0) for row in rows for kind in ("wrong", "traceback", "hung", "several lines"))
    goal = {
        "goal": "no traceback, hang, error of several lines or changed number accepted",
        "measured": bad,
        "met": not bad,
    }
    if given.json:
        machine = {"gigabytes": GIGABYTES, "seconds": SECONDS}
        print(json.dumps({"machine": machine, "rows": rows, "goals": [goal]}, indent=2))
        return
    for row in rows:
        print(row)
    print(goal)


if __name__ == "__main__":
    main()
