"""Change the files of every reader at random, and count how many are refused with one sentence, and how many are taken for something else.

Run ``python benchmarks/fuzz.py --json --mutations 100000``; the number is that of all readers together. A child process with bounded
memory reads; one that hangs or crashes is counted, and another goes on with the next change.

The check of each reading is one of two. If a checksum covers the file, a changed file must be refused or read as the same value. If none
does (CSV, IDX, JSON lines, …), a change that leaves a valid file can't be seen, and what is read must be possible: a ratio from 0 to 1,
labels of known classes, finite numbers.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 5
"""A reading that takes longer hangs."""

ADDRESS_SPACE = 2 << 30
"""Bytes that a child may map beyond those that it has when all valid files were read."""

GROWTH = 256
"""MiB by which a reader's resident memory may grow while it reads changed files."""

SLOW_SHARE = 0.5
"""Changes of a slow reader, as a share of those of a fast one."""

BAD = ("wrong", "traceback", "several lines", "hung", "crashed")
OUTCOMES = ("unchanged", "accepted", "refused", *BAD)
MOST_EXAMPLES = 5


@dataclass
class Tally:
    """What came of the changes of one reader's file."""

    outcomes: Counter[str] = field(default_factory=Counter)
    growth: float = 0.0
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, number: int, outcome: str, example: str) -> None:
        self.outcomes[outcome] += 1
        if outcome in BAD:
            kind = f"{outcome}: {example}"[:300]
            if len(self.examples) < MOST_EXAMPLES:
                self.examples.setdefault(kind, f"change {number}")

    def row(self, name: str, *, is_checked: bool) -> dict[str, Any]:
        """Return the numbers for a table."""
        return {
            "reader": name,
            "checksum": "yes" if is_checked else "no",
            "mutations": sum(self.outcomes.values()),
            **{outcome: self.outcomes[outcome] for outcome in OUTCOMES},
            "growth_mib": round(self.growth, 1),
            "examples": [f"{number}: {kind}" for kind, number in self.examples.items()],
        }


def read_changed(name: str, reader: Any, expected: Any, content: bytes) -> tuple[str, str]:
    """Return what came of reading a file with this content, and an example of what went wrong."""
    from actratio import ActratioError
    from actratio.scale.results import DamagedError

    reader.path.write_bytes(content)
    start = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 1.2 * SECONDS)
    try:
        value = reader.read()
        if same(value, expected):
            outcome, example = "unchanged", ""
        elif reader.nothing is not None and same(value, reader.nothing):
            outcome, example = "refused", ""
        elif reader.possible is None or not reader.possible(value):
            outcome, example = "wrong", str(value)
        else:
            outcome, example = "accepted", ""
    except (ActratioError, DamagedError) as error:
        lines = str(error).splitlines()
        outcome, example = ("refused", "") if len(lines) == 1 else ("several lines", str(error))
    except TimeoutError:
        outcome, example = "hung", ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also a panic of a library in Rust
        outcome, example = "traceback", f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if time.monotonic() - start > SECONDS:
        outcome, example = "hung", example
    return outcome, example


def same(value: Any, expected: Any) -> bool:
    """Return whether two values say the same; values that hold arrays or frames begin with a text that does."""
    if isinstance(expected, tuple) and expected and isinstance(expected[0], str):
        return isinstance(value, tuple) and value[0] == expected[0]
    return bool(value == expected)


def _work(folder: Path, seed: int, connection: Any) -> None:
    """Send what the readers are, receive which changes to make, and send what came of each.

    That is the reader's name, the number of the change, the outcome and an example.
    """

    def hung(*_: Any) -> None:
        raise TimeoutError

    warnings.simplefilter("ignore")
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for number in (1, 2):  # libraries in other languages print too
        os.dup2(sys.stderr.fileno(), number)
    from fuzz_readers import make_readers

    readers = make_readers(folder)
    os.chdir(folder)  # patterns are of files in it
    expected = {name: reader.read() for name, reader in readers.items()}
    signal.signal(signal.SIGALRM, hung)
    limit = _memory("VmSize") * 1024 + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    connection.send({name: (reader.is_slow, reader.possible is None) for name, reader in readers.items()})
    for name, numbers in connection.recv().items():
        reader = readers[name]
        valid = reader.path.read_bytes()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
        before = _memory("VmRSS")
        for number in numbers:
            rng = random.Random(f"{seed} {name} {number}")
            content = rng.choice(reader.mutations)(valid, rng)
            connection.send((name, number, *read_changed(name, reader, expected[name], content)))
        reader.path.write_bytes(valid)
        connection.send((name, (_memory("VmHWM") - before) / 1024))
    connection.send(None)


def _memory(what: str) -> int:
    """Return a number of kibibytes that Linux tells about this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1])


class Child:
    """A process that reads changed files.

    Attributes:
        readers: for each reader, whether it is slow, and whether a checksum covers its file.
    """

    def __init__(self, seed: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz"))
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(self._folder, seed, theirs))
        self._process.start()
        theirs.close()
        self.readers: dict[str, tuple[bool, bool]] = self._connection.recv()

    def read(self, plan: dict[str, range]) -> Iterator[Any]:
        """Yield what the child sends; ``"hung"`` or ``"crashed"`` is last if it doesn't end by itself."""
        self._connection.send(plan)
        message: Any = ""
        while message is not None:
            if not self._connection.poll(4 * SECONDS):
                message = "hung"
            else:
                try:
                    message = self._connection.recv()
                except EOFError:
                    message = "crashed"
            yield message
            if isinstance(message, str):
                return

    def end(self) -> int | None:
        """End the process, and return its exit status."""
        self._process.join(1)
        self._process.kill()
        self._process.join()
        shutil.rmtree(self._folder, ignore_errors=True)
        return self._process.exitcode


def make_plan(readers: dict[str, bool], mutations: int) -> dict[str, range]:
    """Share the changes among the readers.

    Args:
        readers: whether each is slow.
    """
    shares = {name: SLOW_SHARE if is_slow else 1.0 for name, is_slow in readers.items()}
    whole = sum(shares.values())
    return {name: range(max(1, -int(-mutations * share // whole))) for name, share in shares.items()}


def fuzz(mutations: int, seed: int, names: list[str] | None = None) -> list[dict[str, Any]]:
    """Make changes, and return a row for each reader.

    Args:
        names: of the readers; by default all.
    """
    child = Child(seed)
    readers = child.readers
    left = make_plan({name: readers[name][0] for name in names or readers}, mutations)
    tallies = {name: Tally() for name in left}
    while True:
        for message in child.read(left):
            if isinstance(message, str):
                name = next(iter(left))
                tallies[name].add(left[name].start, message, f"exit status {child.end()}")
                left[name] = range(left[name].start + 1, left[name].stop)
            elif message is not None and len(message) == 4:
                name, number, outcome, example = message
                tallies[name].add(number, outcome, example)
                left[name] = range(number + 1, left[name].stop)
            elif message is not None:
                name, growth = message
                tallies[name].growth = max(tallies[name].growth, growth)
                del left[name]
        child.end()
        if not left:
            break
        child = Child(seed)
    return [tally.row(name, is_checked=readers[name][1]) for name, tally in tallies.items()]


def goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what is promised of the readers, and whether it holds."""
    wanted = {
        "wrong": "no changed number accepted where a checksum covers the file, and no impossible value elsewhere",
        "traceback": "no traceback",
        "several lines": "no error of several lines",
        "hung": f"no reading takes more than {SECONDS} s",
        "crashed": "no crash",
    }
    counted = {kind: sum(row[kind] for row in rows) for kind in wanted}
    growth = max(row["growth_mib"] for row in rows)
    return [
        *({"goal": goal, "measured": counted[kind], "met": not counted[kind]} for kind, goal in wanted.items()),
        {"goal": f"a reader's memory grows by at most {GROWTH} MiB", "measured": growth, "met": growth <= GROWTH},
    ]


def main() -> None:
    """Run the readers in children, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=10_000, help="of all readers together")
    parser.add_argument("--readers", help="names of the readers, separated by semicolons; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    from actratio.provenance import current_provenance
    from machine import show

    provenance = current_provenance()
    rows = fuzz(given.mutations, given.seed, given.readers and given.readers.split(";"))
    promised = goals(rows)
    if given.json:
        bounds = {
            "seed": given.seed,
            "seconds": SECONDS,
            "growth_mib": GROWTH,
            "address_space_mib": ADDRESS_SPACE >> 20,
        }
        print(json.dumps({"machine": {**provenance, **bounds}, "goals": promised, "rows": rows}, indent=1))
        return
    show([{name: value for name, value in row.items() if name != "examples"} for row in rows], promised, width=160)
    for row in rows:
        for example in row["examples"]:
            print(f"{row['reader']}: {example}")


if __name__ == "__main__":
    main()
