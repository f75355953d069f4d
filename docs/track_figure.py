"""Make the figures of "Track a training run": a ReLU network trained on MNIST, tracked.

python docs/track_figure.py DATA      # the folder that holds mnist/; writes docs/figures/track-*.svg
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

import actratio
from actratio.data import load_dataset
from actratio.tracking import DeadNeuronsWarning

FIGURES = Path(__file__).parent / "figures"
BATCH, EPOCHS, WIDTH = 250, 4, 512  # 240 steps in an epoch, all of them of 250 images


def train(data: Path) -> actratio.Tracker:
    """Train 784-512-512-512-10 at a high learning rate, and return the tracker."""
    torch.manual_seed(0)
    mnist = load_dataset("mnist", data)
    images, labels = torch.as_tensor(mnist.x_train), torch.as_tensor(mnist.y_train)
    layers: dict[str, nn.Module] = {}
    for number, inputs in enumerate((784, WIDTH, WIDTH), start=1):
        layers |= {f"linear{number}": nn.Linear(inputs, WIDTH), f"relu{number}": nn.ReLU()}
    model = nn.Sequential(OrderedDict(layers, head=nn.Linear(WIDTH, 10)))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    with actratio.Tracker(model, every=lambda step: step <= 20 or step % 20 == 0) as tracker:
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(images), generator=generator).split(BATCH):
                loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return tracker


def main() -> None:
    torch.set_num_threads(1)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always", DeadNeuronsWarning)
        tracker = train(Path(sys.argv[1]))
    for warning in given:
        print(warning.message)
    frame = tracker.to_frame()
    ends = frame[frame["step"].isin([1, 20, 960])]
    print(ends[["step", "site", "activation_ratio", "dead", "always_on", "living_trend"]].to_string(index=False))
    with tempfile.TemporaryDirectory() as folder:
        tracker.plot().save(folder)
        for name in ("ratio", "dead"):
            (FIGURES / f"track-{name}.svg").write_bytes(Path(folder, f"{name}.svg").read_bytes())


if __name__ == "__main__":
    main()
