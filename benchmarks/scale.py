"""What an executor costs: a corpus measured in a plain loop, by two plain processes, and by one and two workers of Ray.

The corpus is text of this project's documentation, in files of JSON lines, each row a paragraph. The model is a Llama with random
weights, saved in a folder with a tokenizer that is trained on the same text. Every process uses one thread.

In each round all contestants measure the whole corpus, one after the other. **Throughput** is that of the time in which all processes work
and are warm: from the end of the last process's first shard to the end of the first process's last one. **Start-up** is the time from
the call to the start of the last process's first shard: starting Ray and the processes, importing and loading the model. Compared are the
ratios of each round; given are their medians.

Two plain processes are what the machine can do: two cores may share memory or even arithmetic units, so two processes may measure less
than twice as much as one.

Then 1, 2 and 4 workers measure the corpus, and of 2 and of 4 one is killed; the integers must be the same. Last, the time for 10⁹ tokens on
64 workers is projected from what a shard costs here.

    python benchmarks/scale.py [--rounds 5] [--rows 12] [--shards 24] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from actratio import Measurement
from actratio.scale import (
    Corpus,
    LoadModel,
    Merged,
    Needs,
    Shard,
    ShardSettings,
    ShardWorker,
    make_executor,
    make_manifest,
)
from actratio.scale.shard_reader import shard_texts
from machine import machine, matmul_rate, show

DOCS = Path(__file__).parents[1] / "docs"
HOW = ShardSettings(length=128, batch_size=4)
TARGET_TOKENS, TARGET_WORKERS, TARGET_ROWS = 10**9, 64, 1_000
"""What is projected: tokens, workers, and rows in a shard, of which 1,000 is the default of the command."""
REPEATS = 20

Loads = Callable[[], Any]


@dataclass(frozen=True)
class Timed:
    """A worker that writes down when each shard began and ended, on the clock that all processes of a machine share."""

    worker: ShardWorker
    log: Path

    def __call__(self) -> Callable[[Shard], int]:
        import torch

        begun = time.monotonic()
        torch.set_num_threads(1)
        work = self.worker()
        loaded = time.monotonic() - begun

        def timed(shard: Shard) -> int:
            start = time.monotonic()
            tokens = work(shard)
            line = {"start": start, "end": time.monotonic(), "tokens": tokens, "load_s": loaded}
            with (self.log / f"{os.getpid()}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            return tokens

        return timed


@dataclass(frozen=True)
class Run:
    """How one contestant did.

    Attributes:
        throughput: tokens per second while all processes work.
        startup: seconds until all processes work.
        idle: mean seconds between two shards of a process.
        load: mean seconds to load the model.
        shard: mean seconds for a shard.
    """

    throughput: float
    startup: float
    idle: float
    load: float
    shard: float


def write_model(folder: Path) -> Path:
    """Save a Llama with random weights and a tokenizer."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train([str(path) for path in sorted(DOCS.rglob("*.md"))], vocab_size=4096, show_progress=False)
    path = folder / "model"
    PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer).save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=384, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=6, max_position_embeddings=256,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def write_corpus(folder: Path, rows: int) -> Path:
    """Write so many paragraphs of the documentation as JSON lines."""
    path = folder / "corpus"
    path.mkdir()
    text = "\n\n".join(page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md")))
    paragraphs = [part for part in text.split("\n\n") if len(part) > 200][:rows]
    for number in range(2):
        lines = (json.dumps({"text": part}) + "\n" for part in paragraphs[number::2])
        (path / f"{number}.jsonl").write_text("".join(lines), encoding="utf-8")
    return path


class Contest:
    """The corpus, the model, and a place for results."""

    def __init__(self, folder: Path, rows: int, shards: int) -> None:
        self.folder, self.rows = folder, rows
        self.load = LoadModel(str(write_model(folder)), device="cpu")
        self.sources = [str(write_corpus(folder, rows * shards))]
        self.number = 0

    def corpus(self) -> tuple[Corpus, Timed]:
        """Return the corpus in a folder of its own, and what measures it."""
        self.number += 1
        path = self.folder / f"run-{self.number}"
        corpus = Corpus.open(path, self.sources, self.rows, {**vars(self.load), **HOW.as_json()})
        (path / "log").mkdir()
        worker = ShardWorker(self.load, "model", corpus.results, HOW, corpus.settings)
        return corpus, Timed(worker, path / "log")

    def loop(self) -> Run:
        """Measure the corpus in one process, which is started for it, as a command would be."""
        corpus, worker = self.corpus()
        return self.timed(corpus, lambda: plain_processes(corpus, worker, 1))

    def two_loops(self) -> Run:
        """Measure each half of the corpus in a process."""
        corpus, worker = self.corpus()
        return self.timed(corpus, lambda: plain_processes(corpus, worker, 2))

    def ray(self, workers: int, *, kill: bool = False) -> tuple[Run, Measurement]:
        """Measure the corpus with workers of Ray; perhaps kill the first one that has finished a shard."""
        corpus, worker = self.corpus()

        def run() -> None:
            if kill:
                threading.Thread(target=kill_one, args=(worker.log,), daemon=True).start()
            corpus.measure(worker, make_executor("ray", workers=workers), needs=Needs(1))

        return self.timed(corpus, run), whole(corpus.merged())

    def timed(self, corpus: Corpus, run: Callable[[], None]) -> Run:
        """Run, and return what the logs of the processes say."""
        start = time.monotonic()
        run()
        logs = [
            [json.loads(line) for line in path.read_text().splitlines()] for path in (corpus.path / "log").iterdir()
        ]
        logs = [log for log in logs if log]  # a process may be killed before it has written its first line
        shards = [shard for log in logs for shard in log]
        begin, end = max(log[0]["end"] for log in logs), min(log[-1]["end"] for log in logs)
        tokens = sum(
            shard["tokens"]
            * max(0.0, min(end, shard["end"]) - max(begin, shard["start"]))
            / (shard["end"] - shard["start"])
            for shard in shards
        )
        gaps = [later["start"] - earlier["end"] for log in logs for earlier, later in pairwise(log)]
        return Run(
            tokens / (end - begin) if end > begin else float("nan"),
            max(log[0]["start"] for log in logs) - start,
            sum(gaps) / max(1, len(gaps)),
            sum(log[0]["load_s"] for log in logs) / len(logs),
            sum(shard["end"] - shard["start"] for shard in shards) / len(shards),
        )


def _measure_part(corpus: Corpus, worker: Timed, part: tuple[int, int]) -> None:
    torch.set_num_threads(1)
    corpus.measure(worker, part=part)


def plain_processes(corpus: Corpus, worker: Timed, count: int) -> None:
    """Measure a corpus in processes that know nothing of each other."""
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_measure_part, args=(corpus, worker, (part, count))) for part in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        if child.exitcode:
            raise SystemExit(f"a process failed with exit status {child.exitcode}")


def kill_one(log: Path) -> None:
    """Kill the first process that has finished a shard."""
    while not (found := list(log.iterdir())):
        time.sleep(0.01)
    os.kill(int(found[0].stem), signal.SIGKILL)


def whole(merged: Merged) -> Measurement:
    """Return the counts of a corpus that was measured completely."""
    if merged.measurement is None or merged.sentences():
        raise SystemExit(f"the corpus wasn't measured completely: {merged.sentences()}")
    return merged.measurement


def same_counts(left: Measurement, right: Measurement) -> bool:
    """Return whether all integers of two measurements are the same."""
    return all(
        mine.counts.to_arrays().keys() == other.counts.to_arrays().keys()
        and all(
            bool((value == other.counts.to_arrays()[name]).all()) for name, value in mine.counts.to_arrays().items()
        )
        for mine, other in zip(left, right, strict=True)
    )


def shard_costs(contest: Contest) -> dict[str, float]:
    """Measure what a shard costs apart from running the model: reading, writing, and merging, in seconds."""
    corpus, worker = contest.corpus()
    corpus.measure(worker)
    shards = corpus.manifest.shards
    measured = [counted for shard in shards if (counted := corpus.results.load(shard)[0]) is not None]

    def typical(run: Callable[[int], object]) -> float:
        times = []
        for number in range(REPEATS):
            start = time.perf_counter()
            run(number % len(shards))
            times.append(time.perf_counter() - start)
        return median(times)

    size = sum(Path(file).stat().st_size for file in {shard.file for shard in shards})
    return {
        "manifest_s_per_mb": typical(lambda _: make_manifest(contest.sources, rows=contest.rows)) / size * 1e6,
        "mb": size / 1e6,
        "shards": len(shards),
        "rows": sum(shard.rows for shard in shards),
        "tokens": sum(max(row.counts.tokens for row in part) for part in measured),
        "read_s": typical(lambda number: shard_texts(shards[number], "text")),
        "save_s": typical(lambda number: corpus.results.save(shards[number], measured[number])),
        "load_s": typical(lambda number: corpus.results.load(shards[number])),
        "merge_s": typical(lambda number: measured[number].merge(measured[0])),
        "shard_mb": (corpus.path / "shards" / f"{shards[0].name}.safetensors").stat().st_size / 1e6,
    }


def projection(costs: dict[str, float], one: Run) -> list[dict[str, Any]]:
    """Project the time for many tokens on many workers from what was measured here.

    Reading a shard is taken to grow with its tokens; writing and merging are not, because their size is that of the model.
    """
    per_shard = TARGET_ROWS * costs["tokens"] / costs["rows"]
    shards = TARGET_TOKENS / per_shard
    per_token = costs["read_s"] / (costs["tokens"] / costs["shards"])
    parts = {
        "manifest": costs["manifest_s_per_mb"] * costs["mb"] / costs["tokens"] * TARGET_TOKENS,
        "start-up and model": one.startup,
        "running the model": TARGET_TOKENS / one.throughput / TARGET_WORKERS,
        "reading the text": per_token * TARGET_TOKENS / TARGET_WORKERS,
        "writing counts": costs["save_s"] * shards / TARGET_WORKERS,
        "between shards": one.idle * shards / TARGET_WORKERS,
        "merge": (costs["load_s"] + costs["merge_s"]) * shards,
    }
    total = sum(parts.values())
    return [{"part": name, "seconds": seconds, "share": seconds / total} for name, seconds in parts.items()]


def run_rounds(contest: Contest, rounds: int) -> tuple[list[dict[str, Any]], dict[str, list[Run]]]:
    """Run all contestants in turns."""
    runs: dict[str, list[Run]] = {"plain loop": [], "two plain loops": [], "Ray, 1 worker": [], "Ray, 2 workers": []}
    for number in range(rounds):
        runs["plain loop"].append(contest.loop())
        runs["Ray, 1 worker"].append(contest.ray(1)[0])
        runs["two plain loops"].append(contest.two_loops())
        runs["Ray, 2 workers"].append(contest.ray(2)[0])
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    rows = []
    for name, all_runs in runs.items():
        ratios = [run.throughput / loop.throughput for run, loop in zip(all_runs, runs["plain loop"], strict=True)]
        rows.append(
            {
                "contestant": name,
                "tokens_per_s": median(run.throughput for run in all_runs),
                "ratio_to_plain_loop": median(ratios),
                "startup_s": median(run.startup for run in all_runs),
                "load_s": median(run.load for run in all_runs),
                "idle_ms": median(run.idle for run in all_runs) * 1e3,
                "shard_s": median(run.shard for run in all_runs),
            }
        )
    return rows, runs


def same_integers(contest: Contest) -> list[dict[str, Any]]:
    """Compare the integers of different numbers of workers, of which one may be killed."""
    corpus, worker = contest.corpus()
    corpus.measure(worker)
    expected = whole(corpus.merged())
    rows = []
    for workers, kill in ((1, False), (2, False), (2, True), (4, False), (4, True)):
        _, measured = contest.ray(workers, kill=kill)
        rows.append({"workers": workers, "killed": int(kill), "same_integers": same_counts(measured, expected)})
    return rows


def goals_of(
    runs: dict[str, list[Run]], counts: list[dict[str, Any]], projected: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return what was asked, and whether it is met."""

    def ratio(name: str, other: str, factor: float = 1.0) -> float:
        return median(a.throughput / (factor * b.throughput) for a, b in zip(runs[name], runs[other], strict=True))

    wrong = sum(not row["same_integers"] for row in counts)
    (merge,) = (part["share"] for part in projected if part["part"] == "merge")
    return [
        _goal(
            "1 worker measures at least 0.9 times as much as the plain loop", ratio("Ray, 1 worker", "plain loop"), 0.9
        ),
        _goal(
            "2 workers measure at least 0.9 times as much as two plain loops",
            ratio("Ray, 2 workers", "two plain loops"),
            0.9,
        ),
        _goal(
            "2 workers measure at least 0.9 times as much as the plain loop, twice",
            ratio("Ray, 2 workers", "plain loop", 2.0),
            0.9,
        ),
        {"goal": "tables with other integers than the plain loop's", "measured": wrong, "met": not wrong},
        {"goal": "share of the merge in the projection, below 0.01", "measured": merge, "met": merge < 0.01},
    ]


def _goal(goal: str, measured: float, least: float) -> dict[str, Any]:
    return {"goal": goal, "measured": measured, "met": measured >= least}


def main() -> None:
    """Run the contest, compare the integers, and project."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=12, help="of a shard")
    parser.add_argument("--shards", type=int, default=24)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    # Ray prints on stdout that a worker was lost.
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        contest = Contest(Path(folder), given.rows, given.shards)
        costs = shard_costs(contest)
        rows, runs = run_rounds(contest, given.rounds)
        counts = same_integers(contest)
    typical = sorted(runs["Ray, 1 worker"], key=lambda run: run.throughput)[given.rounds // 2]
    projected = projection(costs, typical)
    goals = goals_of(runs, counts, projected)
    if given.json:
        device = torch.device("cpu")
        answer = {"machine": machine(device, matmul_rate(device)), "rows": rows, "counts": counts, "costs": [costs]}
        print(json.dumps({**answer, "projection": projected, "goals": goals}, indent=2))
        return
    for table in (rows, counts, [costs]):
        show(table, [], 160)
    show(projected, goals, 160)


if __name__ == "__main__":
    main()
