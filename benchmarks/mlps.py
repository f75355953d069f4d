"""The article's own networks: inference of one image, or of a few, dense and skipping zeros.

Each network is trained on MNIST (784 inputs, about four in five of which are zero) with plain PyTorch, measured, and made sparse:
the zeros of the image are skipped in the first layer, inactive neurons in all others. Dense, sparse as it is given to users (dense where
that was measured to be faster), and sparse everywhere take turns, in an order of chance; medians.

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
"""Some of the article's, and one that is wider."""


def network(text: str) -> nn.Sequential:
    sizes = [int(size) for size in text.split("-")]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(epochs):
        for some in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[some]), y[some]).backward()
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
        found = measure(model, [test])
        also = {"0": float((test != 0).float().mean())}
        given = sparsify(copy.deepcopy(model), found, also=also)
        always = sparsify(copy.deepcopy(model), found, crossover=ALWAYS, also=also)
        ratio = float(sum(row.counts.active.sum() for row in found)) / sum(
            row.counts.tokens * row.site.width for row in found
        )
        for batch in (int(each) for each in arguments.batches.split(",")):
            rows.append({"network": text, "batch": batch, "ratio": ratio, "zeros_in": float((test == 0).float().mean()),
                         **race({"dense": model, "sparse": given, "always": always}, test, batch, arguments.rounds)})  # fmt: skip
            print(rows[-1], file=sys.stderr, flush=True)
    goal = {"goal": "never more than 3 % slower than dense", "measured": min(row["speedup"] for row in rows)}
    goal["met"] = goal["measured"] >= 0.97
    made = machine(torch.device("cpu"), matmul_rate(torch.device("cpu")))
    if arguments.json:
        print(json.dumps({"machine": made, "rows": rows, "goals": [goal]}))
        return
    show(rows, [goal], 160)


def race(models: dict[str, nn.Module], test: Tensor, batch: int, rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in models}
    chance = random.Random(0)
    with torch.no_grad():
        for number in range(rounds):
            some = test[number * batch % (len(test) - batch) :][:batch]
            some.sum()  # the image is in the cache for all
            for name, model in chance.sample(list(models.items()), len(models)):
                start = time.perf_counter()
                model(some)
                times[name].append(time.perf_counter() - start)
        wrong = float((models["sparse"](test[:64]) - models["dense"](test[:64])).abs().max())
    middle = {name: median(each[10:]) * 1e6 for name, each in times.items()}
    return {
        **{f"{name}_us": each for name, each in middle.items()},
        "speedup": middle["dense"] / middle["sparse"],
        "speedup_always": middle["dense"] / middle["always"],
        "largest_difference": wrong,
    }


if __name__ == "__main__":
    main()
