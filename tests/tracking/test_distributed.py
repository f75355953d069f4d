"""Two processes have the integers of one."""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from actratio.tracking.samplers import repeated_examples, warn_of_repeats
from tests.tracking.distributed_run import run


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_equal_one(kind: str, tmp_path: Path) -> None:
    run(0, 1, "one", "", str(tmp_path))
    torch.multiprocessing.spawn(run, (2, kind, str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    one = pd.read_csv(tmp_path / "one-0.csv")
    assert set(one["tokens"]) == {8}
    for rank in (0, 1):
        assert pd.read_csv(tmp_path / f"{kind}-{rank}.csv").equals(one)


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
