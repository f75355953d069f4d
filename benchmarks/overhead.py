"""What measuring costs: the forward pass alone, and under ours and others' ways of looking at activations.

A model of GPT-2 small's shape with random weights, batch 4 × 128, on the CPU. In each round every contestant runs
the same batch once, in turn; the medians of their ratios to the forward pass alone of the same round are compared. nnsight and TransformerLens run too
where they are installed.
Memory is the process's own before and after 1, 4 and 16 batches of data, in a process for each contestant.

    python benchmarks/overhead.py [--rounds 15] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from actratio import Probe, find_sites
from actratio.provenance import current_provenance

BATCH, TOKENS = 4, 128
ALONE = "forward pass alone"
LENS = "TransformerLens"


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
    stored: list[Tensor] = []

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
    """The same by other libraries, those that are installed."""
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
    """TransformerLens wraps a model in one of its own, so it is compared with that one alone."""
    try:
        from transformer_lens import TransformerBridge
    except ImportError:
        return {}
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    model = gpt2()
    model.config.architectures = [type(model).__name__]
    with tempfile.TemporaryDirectory() as folder:  # it wants a folder with a tokenizer, whatever that knows
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
    """A row a contestant: median seconds, and the median of its ratio to the forward pass alone, less one."""
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
            "seconds": median(each),
            "overhead": median(a / b for a, b in zip(each, times[_alone(name)], strict=True)) - 1,
        }
        for name, each in times.items()
    ]


def _alone(name: str) -> str:
    """The forward pass that a contestant's cost is measured against."""
    return f"{LENS}, {ALONE}" if name.startswith(LENS) else ALONE


def grown(name: str, batches: int) -> float:
    """Peak memory in MB of this process after so many batches.

    From the kernel's high-water mark of the process's own memory: what ``getrusage`` gives starts with the parent's.
    """
    model = gpt2()
    run = contestants(model)[name]
    with torch.no_grad():
        for _ in range(batches):
            run(torch.randint(0, 50_000, (BATCH, TOKENS)))
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def memory(names: list[str]) -> list[dict[str, Any]]:
    """A row a contestant: peak memory for 1, 4 and 16 batches.

    The C library gives freed blocks back at once, for all contestants: else a peak holds what lies about in the heap too, which
    changes by a hundred megabytes from process to process.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    rows = compare(arguments.rounds)
    ours = [row["contestant"] for row in rows if row["contestant"].startswith("ours")]
    peaks = {row["contestant"]: row for row in memory([ALONE, *ours, "hook, store all activations"])}
    rows = [{**row, **peaks.get(row["contestant"], {})} for row in rows]
    by_name = {row["contestant"]: row for row in rows}
    every, few = by_name["ours, all readings"], by_name["ours, counts alone"]
    growth = every["peak_mb_16"] / every["peak_mb_1"] - 1
    goals = [
        {"goal": "all readings cost at most 2 %", "measured": every["overhead"], "met": every["overhead"] <= 0.02},
        {"goal": "counts alone cost at most 1 %", "measured": few["overhead"], "met": few["overhead"] <= 0.01},
        {"goal": "memory is flat: 16 times the data takes at most 2 % more", "measured": growth, "met": growth <= 0.02},
    ]
    if arguments.json:
        print(json.dumps({"machine": current_provenance(), "rows": rows, "goals": goals}))
        return
    console = Console(width=150)
    table = Table("contestant", "ms", "overhead", "peak MB at 1, 4, 16 batches")
    for row in rows:
        peak = ", ".join(f"{row[f'peak_mb_{n}']:.0f}" for n in (1, 4, 16)) if "peak_mb_1" in row else ""
        table.add_row(row["contestant"], f"{row['seconds'] * 1e3:.0f}", f"{row['overhead']:+.1%}", peak)
    console.print(table)
    for each in goals:
        console.print(f"{'met    ' if each['met'] else 'NOT met'}  {each['goal']}: {each['measured']:.1%}")


if __name__ == "__main__":
    main()
