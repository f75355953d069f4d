"""Whether all processes of a data-parallel training track the model, and in the same way."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Mapping
from datetime import timedelta
from textwrap import shorten
from typing import TYPE_CHECKING

import torch.distributed as dist

from actratio.errors import TrackerError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

_PATIENCE = timedelta(seconds=30)
_ADVICE = "make a tracker in every process, with the same arguments"

_agreements = itertools.count()


def check_agreement(facts: Mapping[str, str | int]) -> None:
    """Wait until all processes call this, and check that they give the same facts.

    The processes meet in the store of the process group. A collective would be paired with one of the training in a process
    that has no tracker, and then gradients are lost, or the program ends without a Python error.

    Args:
        facts: what all processes must have in common: a name for the error, and the value.

    Raises:
        TrackerError: a process didn't call this in nine tenths of the process group's timeout, or gave other facts.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    from torch.distributed.distributed_c10d import PrefixStore, _get_default_store  # not in all builds of PyTorch

    rank, world = dist.get_rank(), dist.get_world_size()
    store = PrefixStore(f"actratio/{next(_agreements)}", _get_default_store())
    text = json.dumps(facts)
    store.set(str(rank), text)
    # Two counters instead of all texts, which a thousand processes would have to read from each other.
    store.add(text, 1)
    if store.add("arrived", 1) == world:
        store.set("all arrived", "")
    _wait_for_all(store, rank, world)
    if store.add(text, 0) != world:
        texts = ((other, store.get(str(other)).decode()) for other in range(world))
        other, theirs = next((other, json.loads(found)) for other, found in texts if found != text)
        name = next(name for name in facts if facts[name] != theirs[name])
        mine, other_value = (shorten(str(value), 100, placeholder=" …") for value in (facts[name], theirs[name]))
        raise TrackerError(
            f"{name} is {mine} in process {rank} and {other_value} in process {other}; give the trackers of all processes the "
            "same arguments and the same state"
        )


def _wait_for_all(store: Store, rank: int, world: int) -> None:
    # A process without a tracker waits in a collective. This error comes before the one of its timeout, which says less.
    limit = 0.9 * store.timeout  # type: ignore[attr-defined]
    patience = min(_PATIENCE, limit)
    if _have_all_arrived(store, patience):
        return
    warnings.warn(
        f"process {_first_missing(store, world)} has not taken a step with a tracker, and process {rank} waits for it; {_ADVICE}",
        UserWarning,
        stacklevel=3,
    )
    if not _have_all_arrived(store, limit - patience):
        missing = _first_missing(store, world)
        raise TrackerError(f"process {missing} took no step with a tracker in {limit.total_seconds():.0f} s; {_ADVICE}")


def _have_all_arrived(store: Store, timeout: timedelta) -> bool:
    try:
        store.wait(["all arrived"], timeout)
    except RuntimeError:  # what it is called depends on the kind of store
        return False
    return True


def _first_missing(store: Store, world: int) -> int:
    return next((rank for rank in range(world) if not store.check([str(rank)])), world - 1)
