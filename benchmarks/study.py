"""Time the MLP study: our trainer against the article's loop, and against the limit of the machine.

Each architecture is timed in rounds. In a round, the article's loop, our trainer with one seed and with five seeds, a trainer
whose gradients are written by hand, and five separate PyTorch models take turns, and the matmul rate is measured; the medians
over the rounds are compared. A timing covers one
epoch of training with counting and the evaluation of the held-out split, on a part of the data.

    python benchmarks/study.py --data-dir DIR [--json]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn

from actratio import SiteCounts
from actratio.data import Dataset, data_folder, load_dataset
from actratio.training import ARTICLE_HIDDEN, Architecture, trainer
from actratio.training.trainer import Trainer
from hand_written import HandWrittenTrainer
from machine import machine, matmul_rate

SEEDS = 5


class Images(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Convert images one by one, with the same steps as torchvision's MNIST and ToTensor.

    torchvision itself has no build for some of the machines that this benchmark runs on.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        side = int(x.shape[1] ** 0.5)
        self.data = torch.from_numpy(np.rint(x * 255).astype(np.uint8).reshape(-1, side, side))
        self.targets = torch.from_numpy(y)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        pixels, target = self.data[index], int(self.targets[index])
        picture = Image.fromarray(pixels.numpy())
        tensor = torch.from_numpy(np.array(picture, np.uint8, copy=True))
        tensor = tensor.view(picture.size[1], picture.size[0], len(picture.getbands()))
        tensor = tensor.permute((2, 0, 1)).contiguous()
        return tensor.to(dtype=torch.float32).div(255), target


class ArticleModel(nn.Module):
    """An MLP that stores its activations, as in the article's notebook."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(into, out, bias=False) for out, into in architecture.shapes)
        self.activations: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.activations = []
        x = x.view(x.size(0), -1)
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number < len(self.layers) - 1:
                x = torch.relu(x)
            self.activations.append(x)
        return x


class ArticleLoop:
    """Train and evaluate for one epoch, as in the article's notebook."""

    def __init__(self, architecture: Architecture, data: Dataset) -> None:
        self.model = ArticleModel(architecture)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.train = torch.utils.data.DataLoader(Images(data.x_train, data.y_train), batch_size=64, shuffle=True)
        self.val = torch.utils.data.DataLoader(Images(data.x_val, data.y_val), batch_size=64)

    def __call__(self) -> None:
        loss_sum, hits, active = 0.0, 0, [0] * len(self.model.layers)
        for x, y in self.train:
            self.optimizer.zero_grad()
            logits = self.model(x)
            loss = nn.functional.cross_entropy(logits, y)
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.item()
            hits += (logits.argmax(1) == y).sum().item()
            for number, activation in enumerate(self.model.activations):
                active[number] += (activation > 0).sum().item()
        with torch.no_grad():
            for x, y in self.val:
                logits = self.model(x)
                loss_sum += nn.functional.cross_entropy(logits, y).item()
                hits += (logits.argmax(1) == y).sum().item()


def make_epoch(architecture: Architecture, data: Dataset, seeds: int, device: torch.device) -> Callable[[], None]:
    """Return a function that trains and evaluates for one epoch with our trainer."""
    stack = Trainer(architecture, data, range(seeds), device=device)

    def epoch() -> None:
        stack.epoch()
        stack.evaluate("val")
        if device.type == "cuda":
            torch.cuda.synchronize()

    return epoch


class SeparateModels:
    """Train and evaluate ``SEEDS`` models one after another with plain PyTorch, on tensors in memory."""

    def __init__(self, architecture: Architecture, data: Dataset) -> None:
        self.data = data
        self.models = []
        for _ in range(SEEDS):
            layers: list[nn.Module] = []
            for out, into in architecture.shapes:
                layers += [nn.Linear(into, out, bias=False), nn.ReLU()]
            model = nn.Sequential(*layers[:-1])
            self.models.append((model, torch.optim.Adam(model.parameters(), fused=True)))

    def __call__(self) -> None:
        x, y = torch.from_numpy(self.data.x_train), torch.from_numpy(self.data.y_train)
        x_val, y_val = torch.from_numpy(self.data.x_val), torch.from_numpy(self.data.y_val)
        for model, optimizer in self.models:
            for batch in torch.randperm(len(y)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
            with torch.no_grad():
                nn.functional.cross_entropy(model(x_val), y_val)


def make_hand_written(architecture: Architecture, data: Dataset) -> Callable[[], None]:
    """Return a function that trains and evaluates for one epoch with gradients that are written by hand."""
    stack = HandWrittenTrainer(architecture, data, range(SEEDS))

    def epoch() -> None:
        stack.epoch()
        stack.evaluate("val")

    return epoch


@contextmanager
def without_counting() -> Iterator[None]:
    """Turn off counting in training and in evaluation, to measure what counting costs."""

    def add(pending: trainer._Pending, outputs: list[torch.Tensor], labels: torch.Tensor) -> None:
        pending._logits.append(outputs[-1].detach())
        pending._labels.append(labels)
        pending.steps += 1

    def counts_of(activation: torch.Tensor) -> SiteCounts:
        return SiteCounts(activation.shape[-2], torch.zeros(1, dtype=torch.int64))

    with patch.object(trainer._Pending, "add", add), patch.object(trainer.SiteCounts, "of", counts_of):
        yield


def seconds(run: Callable[[], None]) -> float:
    """Return how long ``run`` takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def part_of(data: Dataset, share: float) -> Dataset:
    """Return the first ``share`` of both splits."""
    train_size, val_size = int(len(data.y_train) * share), int(len(data.y_val) * share)
    return Dataset(
        data.name,
        data.x_train[:train_size],
        data.y_train[:train_size],
        data.x_val[:val_size],
        data.y_val[:val_size],
        data.classes,
        data.source,
    )


def peak_memory(data_dir: Path, dataset: str) -> float:
    """Return the peak resident memory of the study command with one epoch, in GB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "actratio",
            "study",
            "mlp",
            "--datasets",
            dataset,
            "--data-dir",
            str(data_dir),
        ]
        command += ["--epochs", "1", "--no-crossed", "--device", "cpu", "--out", f"{folder}/run"]
        subprocess.run(command, check=True, capture_output=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9


def compare(data: Dataset, rounds: int) -> tuple[list[dict[str, Any]], float]:
    """Return one row per architecture, and the median matmul rate in FLOP/s."""
    device = torch.device("cpu")
    rows, rates = [], []
    for hidden in ARTICLE_HIDDEN:
        architecture = Architecture(data.features, hidden, data.classes)
        contestants = {
            "article": ArticleLoop(architecture, data),
            "one": make_epoch(architecture, data, 1, device),
            "stack": make_epoch(architecture, data, SEEDS, device),
            "hand_written": make_hand_written(architecture, data),
            "separate": SeparateModels(architecture, data),
            "uncounted": without_counting()(make_epoch(architecture, data, SEEDS, device)),
        }
        times: dict[str, list[float]] = {name: [] for name in contestants}
        shares = []
        flops = architecture.training_flops(len(data.y_train)) + architecture.forward_flops(len(data.y_val))
        for number in range(rounds + 1):
            rate = matmul_rate(device)
            for name, run in contestants.items():
                elapsed = seconds(run)
                if number:  # the first round warms up
                    times[name].append(elapsed)
            if number:
                rates.append(rate)
                # The speed of the machine drifts, so each round is compared with the rate before and after it.
                limit = SEEDS * flops / ((rate + matmul_rate(device)) / 2)
                shares.append(limit / times["stack"][-1])
        article, one, stack = (median(times[name]) for name in ("article", "one", "stack"))
        rows.append(
            {
                "architecture": str(architecture),
                "article_s": article,
                "one_seed_s": one,
                "five_seeds_s": stack,
                "hand_written_s": median(times["hand_written"]),
                "separate_s": median(times["separate"]),
                "speedup_one_seed": article / one,
                "speedup_five_seeds": SEEDS * article / stack,
                "five_over_one": stack / one,
                "over_hand_written": median(a / b for a, b in zip(times["stack"], times["hand_written"], strict=True)),
                "speedup_separate": median(a / b for a, b in zip(times["separate"], times["stack"], strict=True)),
                "share_of_limit": median(shares),
                "counting_cost": median(a / b for a, b in zip(times["stack"], times["uncounted"], strict=True)) - 1,
            }
        )
    return rows, median(rates)


def check_goals(rows: list[dict[str, Any]], memory: float) -> list[dict[str, Any]]:
    """Return one row per goal, with the measured value and whether the goal is met."""
    total = {key: sum(row[key] for row in rows) for key in ("article_s", "one_seed_s", "five_seeds_s")}
    widest = [row for row in rows if row["architecture"] in ("784-1024-256-64-10", "784-512-256-128-64-10")]
    cost = sum(row["counting_cost"] * row["five_seeds_s"] for row in rows) / total["five_seeds_s"]
    measured = [
        (
            "at least 4 times the article's loop, one seed, all six architectures",
            total["article_s"] / total["one_seed_s"],
            4,
            True,
        ),
        (
            "at least 4 times the article's loop, five seeds, all six architectures",
            SEEDS * total["article_s"] / total["five_seeds_s"],
            4,
            True,
        ),
        *((f"at least 60% of the limit, {row['architecture']}", row["share_of_limit"], 0.6, True) for row in widest),
        (
            "five seeds at most 4.5 times the cost of one, all six architectures",
            total["five_seeds_s"] / total["one_seed_s"],
            4.5,
            False,
        ),
        (
            "at most twice the time of gradients written by hand, the slowest of the six architectures",
            max(row["over_hand_written"] for row in rows),
            2,
            False,
        ),
        ("counting under 3% of the time, training and evaluation, all six architectures", cost, 0.03, False),
        ("under 2 GB", memory, 2, False),
    ]
    return [
        {"goal": goal, "measured": value, "met": value >= bound if is_minimum else value <= bound}
        for goal, value, bound, is_minimum in measured
    ]


def whole_study(data: Dataset, seeds: int, epochs: int, device: torch.device) -> list[dict[str, Any]]:
    """Time the whole study on a GPU, and return one row per architecture."""
    rows = []
    for hidden in ARTICLE_HIDDEN:
        architecture = Architecture(data.features, hidden, data.classes)
        epoch = make_epoch(architecture, data, seeds, device)
        epoch()
        elapsed = seconds(lambda run=epoch: [run() for _ in range(epochs)])  # type: ignore[misc]
        flops = (
            epochs
            * seeds
            * (architecture.training_flops(len(data.y_train)) + architecture.forward_flops(len(data.y_val)))
        )
        rows.append(
            {
                "architecture": str(architecture),
                "seeds": seeds,
                "epochs": epochs,
                "seconds": elapsed,
                "share_of_limit": flops / matmul_rate(device) / elapsed,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="data folder; default $ACTRATIO_DATA")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--share", type=float, default=0.1, help="share of the data that is used (default: 0.1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--device", default="cpu", choices=["cpu", "cuda"], help="cuda times the whole study, with --seeds seeds"
    )
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    data = load_dataset(arguments.dataset, arguments.data_dir)
    if device.type == "cuda":
        rows, goals = whole_study(data, arguments.seeds, arguments.epochs, device), []
        rate = matmul_rate(device)
    else:
        rows, rate = compare(part_of(data, arguments.share), arguments.rounds)
        folder = data_folder(arguments.data_dir)
        goals = check_goals(rows, peak_memory(folder, arguments.dataset) if folder else float("nan"))
    if arguments.json:
        print(json.dumps({"machine": machine(device, rate), "rows": rows, "goals": goals}))
        return
    console = Console(width=150)
    table = Table(
        *(name.replace("_", " ") for name in rows[0]),
        title=f"matmul {rate / 1e9:.0f} GFLOP/s, {torch.get_num_threads()} threads",
    )
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)
    for goal in goals:
        console.print(f"{'met    ' if goal['met'] else 'NOT met'}  {goal['goal']}: {goal['measured']:.3g}")


if __name__ == "__main__":
    main()
