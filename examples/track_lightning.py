"""Track the activation ratio of a Lightning training, and log it with Lightning's own loggers.

    python examples/track_lightning.py
    tensorboard --logdir runs/track-lightning      # if the package tensorboard is installed

A small ReLU network learns scikit-learn's handwritten digits. It takes a few seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from actratio.tracking.lightning import LightningTracker


class Classifier(pl.LightningModule):
    """An ordinary LightningModule: nothing in it is for actratio."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
        )  # fmt: skip

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/track-lightning"))
    arguments = parser.parse_args()
    pl.seed_everything(0, verbose=False)

    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    loader = DataLoader(TensorDataset(images, torch.tensor(digits.target)), batch_size=64, shuffle=True)

    # The only line for actratio: a reading every 20 steps.
    callback = LightningTracker(every=20)
    trainer = pl.Trainer(
        max_epochs=arguments.epochs,
        accelerator="cpu",
        callbacks=[callback],
        logger=CSVLogger(arguments.out),
        log_every_n_steps=20,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(), loader)

    # The values are in metrics.csv of the logger. The tracker has more: one row per reading and layer.
    frame = callback.tracker.to_frame()
    last = frame[frame["step"] == frame["step"].max()]
    print(
        last[["step", "site", "width", "tokens", "activation_ratio", "dead", "died", "revived"]].to_string(index=False)
    )
    callback.tracker.plot().save(arguments.out / "figures")
    print(f"logged to {trainer.logger.log_dir}")


if __name__ == "__main__":
    main()
