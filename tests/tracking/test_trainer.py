"""The callback for the transformers Trainer and the recipe for Accelerate, against the real libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import Dataset

from actratio.tracking import Tracker
from actratio.tracking.transformers import TrainerTracker
from tests.tracking.test_transformer_models import llama

pytestmark = pytest.mark.filterwarnings("ignore")  # the Trainer warns of many things


class Tokens(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = torch.randint(5, 100, (10,), generator=torch.Generator().manual_seed(index))
        mask = torch.ones_like(ids)
        mask[6:] = 0
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask == 1, ids, -100)}


def trainer(folder: Path, epochs: int = 2, **options: Any) -> Any:
    torch.manual_seed(0)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=4,
        logging_steps=1000,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **{"save_strategy": "no", **options},
    )
    return transformers.Trainer(model=llama(), args=arguments, train_dataset=Tokens(), eval_dataset=Tokens())


def test_the_log_has_the_values_of_the_table(tmp_path: Path) -> None:
    training = trainer(tmp_path, eval_strategy="epoch")
    callback = TrainerTracker(training, every=4, dead_limit=None)
    training.train()
    frame = callback.tracker.to_frame()
    assert frame["step"].unique().tolist() == [4, 8, 12]
    assert set(frame["tokens"]) == {24}
    logged = [entry for entry in training.state.log_history if "actratio/ratio" in entry]
    assert [entry["step"] for entry in logged] == [4, 8, 12]
    for entry in logged:
        for _, row in frame[frame["step"] == entry["step"]].iterrows():
            assert entry[f"actratio/{row['site']}/ratio"] == row["activation_ratio"]
            assert entry[f"actratio/{row['site']}/dead"] == row["dead"]


def test_every_epoch_and_accumulation(tmp_path: Path) -> None:
    training = trainer(tmp_path, gradient_accumulation_steps=2)
    callback = TrainerTracker(training, every="epoch", dead_limit=None)
    training.train()
    frame = callback.tracker.to_frame()
    assert frame["step"].unique().tolist() == [3, 6]
    assert set(frame["tokens"]) == {48}


def test_a_second_training_starts_a_new_table(tmp_path: Path) -> None:
    training = trainer(tmp_path, epochs=1)
    callback = TrainerTracker(training, every=4, dead_limit=None)
    training.train()
    training.train()
    assert callback.tracker.to_frame()["step"].unique().tolist() == [4]
    assert callback.tracker.steps == 6


def test_a_resumed_training_has_the_table_of_an_undisturbed_one(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    undisturbed = TrainerTracker(whole, every=4, dead_limit=None)
    whole.train()
    part = trainer(tmp_path / "part", save_strategy="steps", save_steps=5)
    TrainerTracker(part, every=4, dead_limit=None)
    part.train()
    again = trainer(tmp_path / "again")
    resumed = TrainerTracker(again, every=4, dead_limit=None)
    again.train(resume_from_checkpoint=str(tmp_path / "part" / "checkpoint-5"))
    assert resumed.tracker.to_frame().equals(undisturbed.tracker.to_frame())


def test_dead_neurons_end_the_training(tmp_path: Path) -> None:
    training = trainer(tmp_path)
    callback = TrainerTracker(training, every=2, dead_limit=0.0, criterion="above(1000)", stop_on_dead=True)
    training.train()
    assert callback.tracker.steps == training.state.global_step == 2


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_accelerate_logs_the_values_of_the_table(tmp_path: Path, kind: str) -> None:
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker, on_main_process

    class JsonLines(GeneralTracker):  # type: ignore[misc]
        name = "json"
        requires_logging_directory = False

        def __init__(self) -> None:
            super().__init__()
            self.values: dict[int, Any] = {}

        @property
        def tracker(self) -> Any:
            return self.values

        @on_main_process
        def store_init_configuration(self, values: Any) -> None:
            return

        @on_main_process
        def log(self, values: Any, step: int | None = None, **kwargs: Any) -> None:
            self.values[step or 0] = json.loads(json.dumps(values))

    own = JsonLines()
    accelerator = Accelerator(cpu=True, log_with=own if kind == "csv" else kind, project_dir=str(tmp_path))
    accelerator.init_trackers("run")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    with Tracker(
        model, 2, dead_limit=None, on_reading=lambda values, step: accelerator.log(dict(values), step=step)
    ) as tracker:
        for _ in range(4):
            accelerator.backward(model(torch.randn(8, 6)).square().mean())
            optimizer.step()
            optimizer.zero_grad()
    accelerator.end_training()
    frame = tracker.to_frame()
    if kind == "csv":
        assert [own.values[step]["actratio/1/ratio"] for step in (2, 4)] == frame["activation_ratio"].tolist()
        return
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    values = [event.value for event in events.Scalars("actratio/1/ratio")]
    assert values == pytest.approx(frame["activation_ratio"].tolist())
