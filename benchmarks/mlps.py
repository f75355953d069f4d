"""Measure inference of the article's networks on one image or a few, dense and sparse.

Each network is trained on MNIST (784 inputs, about four fifths zero) with plain PyTorch, measured, and made sparse: the first layer skips
the zeros of the image, all others skip inactive neurons. Three models run in random order: dense, sparse as users get it (dense layers
where they were measured to be faster), and sparse in every layer. The results are medians.

    python benchmarks/mlps.py --data-dir DATA [--json]
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from actratio import measure, sparsify
from actratio.data import load_dataset
from actratio.sparse.crossover import ALWAYS
from machine import machine, matmul_rate, show

NETWORKS = ("784-64-10", "784-256-10", "784-1024-10", "784-512-256-128-64-10", "784-1024-256-64-10", "784-8192-10")
"""Some of the article's networks, and a wider one."""


def network(text: str) -> nn.Sequential:
    sizes = [int(size) for size in text.split("-")]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--batches", default="1,4,16")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    data = load_dataset("mnist", data_dir=arguments.data_dir)
    x, y = torch.as_tensor(data.x_train[:60000]), torch.as_tensor(data.y_train[:60000])
    test = torch.as_tensor(data.x_val[:512])
    rows: list[dict[str, Any]] = []
    for text in arguments.networks.split(","):
        torch.manual_seed(0)
        model = network(text)
        train(model, x, y, arguments.epochs)
        model.eval()
        measurement = measure(model, [test])
        also = {"0": float((test != 0).float().mean())}
        sparse = sparsify(copy.deepcopy(model), measurement, also=also)
        always = sparsify(copy.deepcopy(model), measurement, crossover=ALWAYS, also=also)
        ratio = float(sum(row.counts.active.sum() for row in measurement)) / sum(
            row.counts.tokens * row.site.width for row in measurement
        )
        for batch in map(int, arguments.batches.split(",")):
            rows.append({"network": text, "batch": batch, "ratio": ratio, "zeros_in": float((test == 0).float().mean()),
                         **compare({"dense": model, "sparse": sparse, "always": always}, test, batch, arguments.rounds)})  # fmt: skip
            print(rows[-1], file=sys.stderr, flush=True)
    goal = {"goal": "never more than 3% slower than dense", "measured": min(row["speedup"] for row in rows)}
    goal["met"] = goal["measured"] >= 0.97
    described = machine(torch.device("cpu"), matmul_rate(torch.device("cpu")))
    if arguments.json:
        print(json.dumps({"machine": described, "rows": rows, "goals": [goal]}))
        return
    show(rows, [goal], 160)


def compare(models: dict[str, nn.Module], test: Tensor, batch: int, rounds: int) -> dict[str, float]:
    """Return the median microseconds of each model, the speed-ups, and the largest difference of an output."""
    times: dict[str, list[float]] = {name: [] for name in models}
    order = random.Random(0)
    with torch.no_grad():
        for number in range(rounds):
            images = test[number * batch % (len(test) - batch) :][:batch]
            images.sum()  # so that the images are in the cache for every model
            for name, model in order.sample(list(models.items()), len(models)):
                start = time.perf_counter()
                model(images)
                times[name].append(time.perf_counter() - start)
        difference = float((models["sparse"](test[:64]) - models["dense"](test[:64])).abs().max())
    middle = {name: median(seconds[10:]) * 1e6 for name, seconds in times.items()}
    return {
        **{f"{name}_us": microseconds for name, microseconds in middle.items()},
        "speedup": middle["dense"] / middle["sparse"],
        "speedup_always": middle["dense"] / middle["always"],
        "largest_difference": difference,
    }


if __name__ == "__main__":
    main()
