"""Two processes have the integers of one."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from filelock import FileLock
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from actratio.tracking.samplers import repeated_examples, warn_of_repeats
from tests.faults.processes import run_ranks
from tests.tracking.distributed_models import UNLABELLED_STEP, padded_batch
from tests.tracking.distributed_run import CASES, UNEVEN_STEPS, run, run_with_one_tracker


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Run all cases in one process and in two, and return the folder of their tables, which pytest's workers share."""
    root = tmp_path_factory.getbasetemp()
    results = (root if worker_id == "master" else root.parent) / "distributed"
    with FileLock(f"{results}.lock"):
        if not results.exists():
            results.mkdir()
            run(0, 1, str(results))
            run_ranks(run, 2, str(results))
    return results


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}-1-0.csv")


def written(folder: Path, name: str, rank: int, world: int = 2) -> Any:
    return json.loads((folder / f"{name}-{world}-{rank}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(name: str, folder: Path) -> None:
    one = table(folder, name)
    for rank in (0, 1):
        pd.testing.assert_frame_equal(pd.read_csv(folder / f"{name}-2-{rank}.csv"), one, check_exact=True)
    # The weights change, so the readings do.
    assert one["step"].nunique() >= 3
    assert (one.groupby("site")["active_mean"].nunique() >= 3).sum() >= one["site"].nunique() / 2


def test_steps_of_the_readings(folder: Path) -> None:
    assert table(folder, "ddp")["step"].unique().tolist() == [3, 6, 9, 12]
    assert table(folder, "ddp, log")["step"].unique().tolist() == [1, 2, 3, 4, 5, 6, 8, 10]
    assert table(folder, "joined")["step"].unique().tolist() == [*range(1, min(UNEVEN_STEPS) + 1)]
    assert set(table(folder, "ddp")["tokens"]) == {8}
    assert set(table(folder, "accumulated")["tokens"]) == {16}


def test_padding_and_labels_of_each_process(folder: Path) -> None:
    found = table(folder, "padded").groupby("step")["tokens"].unique()
    for step, tokens in found.items():
        counted = padded_batch(int(step))["labels"] != -100
        first, second = int(counted[::2].sum()), int(counted[1::2].sum())
        assert tokens.tolist() == [first + second]
        assert first != second
        assert (first == 0) == (step == UNLABELLED_STEP)


def test_an_expert_without_tokens_in_one_process(folder: Path) -> None:
    """Each layer's tokens by expert, in the order of the steps."""
    first, second = (written(folder, "routed", rank) for rank in (0, 1))
    assert any(
        bool(a) != bool(b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )
    together = [[a + b for a, b in zip(one, other, strict=True)] for one, other in zip(first, second, strict=True)]
    assert together == written(folder, "routed", 0, world=1)
    frame = table(folder, "experts").sort_values(["step", "site"])
    assert frame["tokens"].tolist() == [tokens for layer in together for tokens in layer]


def test_accelerate_logs_from_the_main_process_alone(folder: Path) -> None:
    logged, frame = written(folder, "logged", 0), table(folder, "accelerate")
    assert written(folder, "logged", 1) == []
    assert [step for step, _ in logged] == frame["step"].unique().tolist()
    values = [values[f"actratio/{site}/ratio"] for _, values in logged for site in ("0", "1")]
    assert values == frame["activation_ratio"].tolist()


def test_what_fsdp1_does_not_allow(folder: Path) -> None:
    for rank in (0, 1):
        found = written(folder, "refusals", rank)
        late = [message for name, message in found.items() if name.startswith(("fsdp1, wrapper", "fsdp1, inside"))]
        assert len(late) == 4
        assert all("start the tracker before you wrap the model, with inputs" in message for message in late)
        assert found["fsdp1, functional"].startswith("relu did not run in step 3")


def test_processes_agree(folder: Path) -> None:
    for rank in (0, 1):
        found = written(folder, "refusals", rank)
        assert found["same arguments"] == ""
        expected = f"every is {5 + rank} in process {rank} and {6 - rank} in process {1 - rank}; "
        assert found["other arguments"].startswith(expected)
    alone = written(folder, "refusals", 0)
    assert alone["alone, warning"].startswith(
        "process 1 has not taken a step with a tracker, and process 0 waits for it; "
    )
    assert alone["alone"].startswith("process 1 took no step with a tracker in 2 s; make a tracker in every process")


def test_a_tracker_in_one_process_alone(tmp_path: Path) -> None:
    run_ranks(run_with_one_tracker, 2, str(tmp_path))
    assert written(tmp_path, "message", 0).startswith("process 1 took no step with a tracker in 2 s; ")


@pytest.mark.parametrize(("examples", "drop_last", "repeated"), [(7, False, 1), (8, False, 0), (7, True, 0)])
def test_a_sampler_that_repeats_examples(examples: int, drop_last: bool, repeated: int) -> None:
    data = TensorDataset(torch.zeros(examples, 1))
    loader = DataLoader(data, sampler=DistributedSampler(data, 2, 0, drop_last=drop_last))
    assert repeated_examples(loader) == repeated
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_repeats(loader)
    assert len(caught) == bool(repeated)
    assert repeated_examples(DataLoader(data)) == 0


def test_a_shard_of_accelerate_that_repeats_examples() -> None:
    from accelerate.data_loader import prepare_data_loader

    loader = DataLoader(TensorDataset(torch.zeros(9, 1)), batch_size=2)
    shard = prepare_data_loader(loader, num_processes=2, process_index=0, put_on_device=False)
    assert repeated_examples(shard) == 3
    even = prepare_data_loader(loader, num_processes=2, process_index=0, put_on_device=False, even_batches=False)
    assert repeated_examples(even) == 0
