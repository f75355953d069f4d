"""What measuring costs: the forward pass alone, and under our and other libraries' ways of looking at activations.

A model of GPT-2 small's shape with random weights, batch 4 × 128, on the CPU, without a KV cache, as users run a model
that doesn't generate. In each round every contestant runs the same batch once, in turn; compared are the medians of
their ratios to the forward pass alone of the same round. nnsight and TransformerLens run too if they are installed.

Three costs are reported:

- steady state: a batch inside a ``Probe``, with registering its hooks for this batch alone;
- one-off: finding the sites and registering the hooks, before the first batch;
- included: ``measure`` over 1, 4, 16 and 64 batches, with the one-off cost and making the ``Measurement``.

Memory is the process's own after 1, 4 and 16 batches of data, in a process for each contestant.

    python benchmarks/overhead.py [--rounds 15] [--batches 1,4,16,64] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from actratio import Probe, find_sites, measure
from actratio.provenance import current_provenance
from actratio.sites import choose, trace

BATCH, TOKENS = 4, 128
ALONE = "forward pass alone"
LENS = "TransformerLens"
FAST = 0.7
"""Seconds of the forward pass alone below which the goals count: slower machines are busy with something else."""


def gpt2() -> nn.Module:
    """GPT-2 small's shape."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(use_cache=False)).eval()


@contextmanager
def hooks(model: nn.Module, seen: Callable[[Tensor], None]) -> Iterator[None]:
    """A plain hook on every activation module."""
    kept = [
        module.register_forward_hook(lambda _, args, output: seen(output))
        for name, module in model.named_modules()
        if name.endswith(".mlp.act")
    ]
    try:
        yield
    finally:
        for handle in kept:
            handle.remove()


def contestants(model: nn.Module) -> dict[str, Callable[[Tensor], Any]]:
    """Ways to run a batch, by name."""
    sites = find_sites(model)
    every, few = Probe(model, sites), Probe(model, sites, counts_alone=True)
    means: list[Tensor] = []
    stored: deque[Tensor] = deque(maxlen=len(sites))  # a pass replaces what the one before stored

    def under(context: Callable[[], Any]) -> Callable[[Tensor], Any]:
        def run(ids: Tensor) -> None:
            with context():
                model(ids)

        return run

    return {
        ALONE: lambda ids: model(ids),
        "ours, all readings": under(lambda: every),
        "ours, counts alone": under(lambda: few),
        "hook, (a > 0).float().mean()": under(lambda: hooks(model, lambda a: means.append((a > 0).float().mean()))),
        "hook, store all activations": under(lambda: hooks(model, lambda a: stored.append(a.clone()))),
    }


def peers(model: nn.Module) -> dict[str, Callable[[Tensor], Any]]:
    """Ways of other libraries, if they are installed."""
    means: list[Tensor] = []
    return {**_nnsight(model, means), **_lens(means)}


def _nnsight(model: nn.Module, means: list[Tensor]) -> dict[str, Callable[[Tensor], Any]]:
    try:
        from nnsight import NNsight
    except ImportError:
        return {}
    wrapped = NNsight(model)

    def traced(ids: Tensor) -> None:
        with wrapped.trace(ids):
            for block in wrapped.transformer.h:
                means.append((block.mlp.act.output > 0).float().mean().save())

    return {"nnsight, (a > 0).float().mean()": traced}


def _lens(means: list[Tensor]) -> dict[str, Callable[[Tensor], Any]]:
    """TransformerLens wraps the model in its own, so it is compared with the forward pass of that one."""
    try:
        from transformer_lens import TransformerBridge
    except ImportError:
        return {}
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    model = gpt2()
    model.config.architectures = [type(model).__name__]
    with tempfile.TemporaryDirectory() as folder:  # it reads a folder with a tokenizer
        words = Tokenizer(models.WordLevel({"a": 0}, "a"))
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="a", bos_token="a", eos_token="a").save_pretrained(
            folder
        )
        model.config.save_pretrained(folder)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        bridge = TransformerBridge.boot_transformers(folder, hf_model=model, tokenizer=tokenizer, device="cpu")

    def seen(activation: Tensor, hook: Any) -> None:
        means.append((activation > 0).float().mean())

    hooks = [(f"blocks.{layer}.mlp.hook_post", seen) for layer in range(len(model.transformer.h))]
    return {
        f"{LENS}, {ALONE}": lambda ids: bridge(ids),
        f"{LENS}, hook, (a > 0).float().mean()": lambda ids: bridge.run_with_hooks(ids, fwd_hooks=hooks),
    }


def compare(rounds: int) -> list[dict[str, Any]]:
    """Return a row for each contestant: median seconds, and the median of its ratio to the forward pass alone, less one."""
    model = gpt2()
    runs = {**contestants(model), **peers(model)}
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for number in range(rounds + 2):
            ids = torch.randint(0, 50_000, (BATCH, TOKENS))
            for name, run in runs.items():
                start = time.perf_counter()
                run(ids)
                if number >= 2:  # the first rounds compile and warm up
                    times[name].append(time.perf_counter() - start)
    return [
        {
            "contestant": name,
            "seconds": median(seconds),
            "overhead": median(a / b for a, b in zip(seconds, times[_alone(name)], strict=True)) - 1,
        }
        for name, seconds in times.items()
    ]


def one_off(rounds: int) -> dict[str, float]:
    """Return medians of the seconds before the first batch, and of their share of that batch's forward pass."""
    model, seconds, shares = gpt2(), [], []
    with torch.no_grad():
        for number in range(rounds + 1):
            ids = torch.randint(0, 50_000, (BATCH, TOKENS))
            start = time.perf_counter()
            model(ids)
            forward = time.perf_counter()
            sites = choose(trace(model, {"input_ids": ids, "use_cache": False}, few_tokens=True), None)
            with Probe(model, sites):
                found = time.perf_counter()
            if number:  # the first round warms up
                seconds.append(found - forward)
                shares.append((found - forward) / (forward - start))
    return {"seconds": median(seconds), "of_one_batch": median(shares)}


def included(batches: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Return a row for each number of batches: what ``measure`` takes over the forward passes alone.

    Long series are repeated less often: as many batches are run for each number of them.
    """
    model, rows = gpt2(), []
    measure(model, [torch.randint(0, 50_000, (BATCH, TOKENS))])  # compiles and warms up
    for count in batches:
        row: dict[str, Any] = {"batches": count}
        ratios: dict[str, list[float]] = {"all readings": [], "counts alone": []}
        alone: list[float] = []
        for _ in range(max(1, min(rounds, max(batches) // count))):
            data = [torch.randint(0, 50_000, (BATCH, TOKENS)) for _ in range(count)]
            with torch.no_grad():
                start = time.perf_counter()
                for ids in data:
                    model(ids)
                alone.append(time.perf_counter() - start)
            for name, seconds in ratios.items():
                start = time.perf_counter()
                measure(model, data, counts_alone=name == "counts alone")
                seconds.append((time.perf_counter() - start) / alone[-1] - 1)
        row["seconds_alone"] = median(alone)
        rows.append(row | {name: median(values) for name, values in ratios.items()})
    return rows


def _alone(name: str) -> str:
    """Return the forward pass that a contestant is compared with."""
    return f"{LENS}, {ALONE}" if name.startswith(LENS) else ALONE


def grown(name: str, batches: int) -> float:
    """Return the peak memory of this process in MB after some batches.

    It is the kernel's high-water mark of the process itself; ``getrusage`` starts with the parent's.
    """
    model = gpt2()
    run = contestants(model)[name]
    with torch.no_grad():
        for _ in range(batches):
            run(torch.randint(0, 50_000, (BATCH, TOKENS)))
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def memory(names: list[str]) -> list[dict[str, Any]]:
    """Return a row for each contestant: peak memory for 1, 4 and 16 batches.

    For all contestants, the C library returns freed blocks at once. Otherwise the peak includes free blocks of the heap,
    which differ by a hundred megabytes from process to process.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "1000000"
    context = multiprocessing.get_context("spawn")
    rows = []
    for name in names:
        row: dict[str, Any] = {"contestant": name}
        for batches in (1, 4, 16):
            with context.Pool(1) as pool:
                row[f"peak_mb_{batches}"] = pool.apply(grown, (name, batches))
        rows.append(row)
    return rows


def goals_of(rows: list[dict[str, Any]], before: dict[str, float]) -> list[dict[str, Any]]:
    """Return what was aimed at, what was measured, and whether the goal is met."""
    by_name = {row["contestant"]: row for row in rows}
    every, few, alone = by_name["ours, all readings"], by_name["ours, counts alone"], by_name[ALONE]
    goals = [
        ("steady state, all readings: at most 2%", every["overhead"], 0.02),
        ("steady state, counts alone: at most 1%", few["overhead"], 0.01),
        ("one-off: at most 25% of one batch", before["of_one_batch"], 0.25),
        (
            "memory is flat: 16 times the data takes at most 2% more",
            every["peak_mb_16"] / every["peak_mb_1"] - 1,
            0.02,
        ),
    ]
    fast = alone["seconds"] < FAST
    return [
        {"goal": goal, "measured": measured, "met": measured <= most, "fast_enough": fast}
        for goal, measured, most in goals
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", default="1,4,16,64", help="numbers of batches to measure, separated by commas")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    rows = compare(arguments.rounds)
    before = one_off(arguments.rounds)
    series = included([int(count) for count in arguments.batches.split(",")], arguments.rounds)
    ours = [row["contestant"] for row in rows if row["contestant"].startswith("ours")]
    peaks = {row["contestant"]: row for row in memory([ALONE, *ours, "hook, store all activations"])}
    rows = [{**row, **peaks.get(row["contestant"], {})} for row in rows]
    goals = goals_of(rows, before)
    if arguments.json:
        found = {"machine": current_provenance(), "rows": rows, "one_off": before, "measure": series, "goals": goals}
        print(json.dumps(found))
        return
    console = Console(width=150)
    table = Table("contestant", "ms", "overhead", "peak MB at 1, 4, 16 batches")
    for row in rows:
        peak = ", ".join(f"{row[f'peak_mb_{n}']:.0f}" for n in (1, 4, 16)) if "peak_mb_1" in row else ""
        table.add_row(row["contestant"], f"{row['seconds'] * 1e3:.0f}", f"{row['overhead']:+.1%}", peak)
    console.print(table)
    console.print(
        f"one-off: {before['seconds'] * 1e3:.0f} ms, {before['of_one_batch']:.1%} of one batch's forward pass"
    )
    table = Table("batches", "s, forward passes alone", "measure, all readings", "measure, counts alone")
    for row in series:
        shares = [f"{row[name]:+.1%}" for name in ("all readings", "counts alone")]
        table.add_row(str(row["batches"]), f"{row['seconds_alone']:.2f}", *shares)
    console.print(table)
    if not goals[0]["fast_enough"]:
        console.print(f"the forward pass alone takes {FAST} s or more: the goals are for a faster or less busy machine")
    for goal in goals:
        console.print(f"{'met    ' if goal['met'] else 'NOT met'}  {goal['goal']}: {goal['measured']:.1%}")


if __name__ == "__main__":
    main()
