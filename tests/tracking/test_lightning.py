"""The callback for Lightning, against the real library."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from actratio.errors import TrackerError
from actratio.tracking import DeadNeuronsWarning
from actratio.tracking.lightning import LightningTracker

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning warns of few workers, of no validation, and more


class Model(LightningModule):
    """A model whose training step calls a part of it, not its ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch: Any, index: int) -> Tensor:
        loss: Tensor = self.net(batch[0]).square().mean()
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.net(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class CalledAsAWhole(Model):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.more(self.net(x))
        return output

    def training_step(self, batch: Any, index: int) -> Tensor:
        loss: Tensor = self(batch[0]).square().mean()
        return loss


def loader() -> DataLoader[Any]:
    data = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(data), batch_size=8)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def trainer(folder: Path, *callbacks: Any, **options: Any) -> Trainer:
    settings = {"logger": False, "max_epochs": 2, "accelerator": "cpu", "devices": 1}
    return Trainer(
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **{"enable_checkpointing": False, **settings, **options},
    )


@pytest.mark.parametrize("kind", [Model, CalledAsAWhole])
def test_a_training_is_tracked_without_its_validation(tmp_path: Path, kind: type[Model]) -> None:
    callback = LightningTracker(every=4, dead_limit=None)
    trainer(tmp_path, callback).fit(kind(), loader(), loader())
    frame = callback.tracker.to_frame()
    assert frame["step"].tolist() == [4, 8, 12, 16]
    assert set(frame["tokens"]) == {8}


def test_every_epoch_and_accumulation(tmp_path: Path) -> None:
    callback = LightningTracker(every="epoch", dead_limit=None)
    trainer(tmp_path, callback, accumulate_grad_batches=2).fit(Model(), loader())
    frame = callback.tracker.to_frame()
    assert frame["step"].tolist() == [4, 8]
    assert set(frame["tokens"]) == {16}


def test_epochs_of_an_uneven_number_of_batches(tmp_path: Path) -> None:
    data = TensorDataset(torch.randn(40, 6))
    callback = LightningTracker(every="epoch", dead_limit=None)
    trainer(tmp_path, callback, accumulate_grad_batches=2).fit(Model(), DataLoader(data, batch_size=8))
    assert callback.tracker.to_frame()["step"].tolist() == [3, 6]


def test_a_training_that_fails_is_no_longer_tracked(tmp_path: Path) -> None:
    class Fails(Model):
        def on_train_batch_end(self, *args: Any) -> None:
            raise ValueError("stop")

    model = Fails()
    with pytest.raises(ValueError, match="stop"):
        trainer(tmp_path, LightningTracker(every=1, dead_limit=None)).fit(model, loader())
    assert not any(module._forward_hooks for module in model.modules())


def test_loggers_have_the_values_of_the_table(tmp_path: Path) -> None:
    logger, board = CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="board")
    callback = LightningTracker(every=4, dead_limit=None, histograms=True)
    trainer(tmp_path, callback, logger=[logger, board]).fit(Model(), loader())
    frame = callback.tracker.to_frame()
    logged = pd.read_csv(Path(logger.log_dir) / "metrics.csv")
    for key, column in (("ratio", "activation_ratio"), ("dead", "dead"), ("always_on", "always_on")):
        assert logged[f"actratio/1/{key}"].tolist() == pytest.approx(frame[column].tolist())
    assert logged["step"].tolist() == frame["step"].tolist()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(board.log_dir, size_guidance={"histograms": 0, "scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("actratio/1/ratio")] == frame["step"].tolist()
    values = [event.value for event in events.Scalars("actratio/1/ratio")]
    assert values == pytest.approx(frame["activation_ratio"].tolist())
    assert len(events.Histograms("actratio/1/neurons")) == 4


def test_mlflow_has_the_values_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from lightning.pytorch.loggers import MLFlowLogger

    logger = MLFlowLogger(tracking_uri=f"file:{tmp_path / 'runs'}")
    callback = LightningTracker(every=4, dead_limit=None)
    trainer(tmp_path, callback, logger=logger).fit(Model(), loader())
    history = logger.experiment.get_metric_history(logger.run_id, "actratio/1/ratio")
    frame = callback.tracker.to_frame()
    assert [item.step for item in history] == frame["step"].tolist()
    assert [item.value for item in history] == pytest.approx(frame["activation_ratio"].tolist())


def test_weights_and_biases_has_the_values_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    callback = LightningTracker(every=4, dead_limit=None, histograms=True)
    trainer(tmp_path, callback, logger=logger).fit(Model(), loader())
    last = callback.tracker.to_frame().iloc[-1]
    summary = logger.experiment.summary
    assert summary["actratio/1/ratio"] == pytest.approx(last["activation_ratio"])
    assert summary["actratio/1/dead"] == last["dead"]
    logger.experiment.finish()


def test_a_resumed_training_has_the_table_of_an_undisturbed_one(tmp_path: Path) -> None:
    whole = LightningTracker(every=3, dead_limit=None)
    trainer(tmp_path, whole, max_epochs=3).fit(Model(), loader())
    torch.manual_seed(0)
    first = trainer(tmp_path, LightningTracker(every=3, dead_limit=None), max_epochs=1)
    first.fit(Model(), loader())
    first.save_checkpoint(tmp_path / "one.ckpt")
    resumed = LightningTracker(every=3, dead_limit=None)
    trainer(tmp_path, resumed, max_epochs=3).fit(Model(), loader(), ckpt_path=tmp_path / "one.ckpt")
    assert resumed.tracker.to_frame().equals(whole.tracker.to_frame())


def test_dead_neurons_end_the_training(tmp_path: Path) -> None:
    model = Model()
    nn.init.constant_(model.net[0].bias, -100)
    callback = LightningTracker(every=2, stop_on_dead=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeadNeuronsWarning)
        trainer(tmp_path, callback).fit(model, loader())
    assert callback.tracker.steps == 2


def test_a_parallel_strategy_needs_the_module_that_computes() -> None:
    parallel: Any = SimpleNamespace(strategy=DDPStrategy())
    with pytest.raises(TrackerError, match="a parallel strategy calls training_step instead of forward"):
        LightningTracker().on_train_start(parallel, CalledAsAWhole())


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(TrackerError, match="the training has not begun"):
        _ = LightningTracker().tracker
    with pytest.raises(TrackerError, match="Model has no module 'encoder'; give one of"):
        trainer(tmp_path, LightningTracker(module="encoder")).fit(Model(), loader())
