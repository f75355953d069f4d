"""Readings in arrays: put off or not, in order, with sites that see no token, and in a checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from actratio.sites import Site
from actratio.tracking import history as module
from actratio.tracking.history import History
from actratio.tracking.layout import Layout

WIDTHS = {"a": 3, "b": 5}


def site(name: str, width: int) -> Site:
    return Site(
        name, "mlp", "relu", width, False, f"{name}.up", None, None, 0, 1, "", name, name, hidden_axis=1,
        sequence_first=False, direct=True,
    )  # fmt: skip


LAYOUT = Layout([site(name, width) for name, width in WIDTHS.items()])


def counts(tokens: list[int], active: list[int]) -> NDArray[np.int64]:
    return np.array([1, tokens[0], *active[:-5], 1, tokens[1], *active[-5:]], np.int64)


STEPS = [
    counts([100, 10], [0, 50, 99, 0, 0, 0, 0, 10]),
    counts([100, 0], [1, 0, 98, 0, 0, 0, 0, 0]),  # the second site sees nothing
    counts([100, 10], [0, 0, 100, 0, 1, 2, 10, 0]),
]


def read(steps: list[NDArray[np.int64]] = STEPS) -> History:
    history = History()
    history.use(LAYOUT)
    for number, item in enumerate(steps, start=1):
        history.add(number, item.copy())
    return history


def test_readings_by_hand() -> None:
    rows = [
        (r.step, r.site, r.tokens, r.active, r.dead, r.always_on, r.died, r.revived, r.changed) for r in read().rows()
    ]
    assert rows == [
        (1, "a", 100, 149, 1, 1, None, None, None),
        (1, "b", 10, 10, 4, 1, None, None, None),
        (2, "a", 100, 99, 1, 0, 1, 1, 3),
        (2, "b", 0, 0, 0, 0, None, None, None),
        (3, "a", 100, 100, 2, 1, 1, 0, 2),
        (3, "b", 10, 13, 2, 1, 1, 3, 4),  # compared with step 1
    ]


def test_putting_off_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    later = read()
    assert len(later) == 3
    monkeypatch.setattr(module, "_MOST_WAITING", 0)
    at_once = read()
    assert at_once.rows() == later.rows()
    assert at_once.state_dict() == later.state_dict()
    assert at_once.latest == later.latest


@pytest.mark.parametrize("limit", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_sites_with_dead_neurons(limit: float) -> None:
    for until in range(1, 4):
        history = read(STEPS[:until])
        above = [row for row in read(STEPS[:until]).last_rows() if row.dead > limit * row.width]
        assert history.sites_with_dead(limit) == above


def test_the_state_survives_json_and_goes_on() -> None:
    first = read(STEPS[:2])
    history = History.from_state(json.loads(json.dumps(first.state_dict())))
    assert history.rows() == first.rows()
    assert history.latest == first.latest
    history.use(Layout(LAYOUT.sites))
    history.add(3, STEPS[2])
    assert history.rows() == read().rows()
    again = History.from_state(json.loads(json.dumps(history.state_dict())))
    assert again.rows() == read().rows()


def test_other_sites_after_a_checkpoint() -> None:
    history = History.from_state(read(STEPS[:1]).state_dict())
    history.use(Layout([site("b", 5), site("c", 2)]))
    history.add(2, np.array([1, 10, 0, 1, 0, 0, 10, 1, 10, 0, 10], np.int64))
    b, c = history.last_rows()
    assert (b.dead, b.died, b.revived) == (3, 0, 1)
    assert (c.dead, c.died) == (1, None)
    history.use(Layout([site("a", 3)]))  # its states were kept meanwhile
    history.add(3, np.array([1, 100, 0, 0, 99], np.int64))
    assert history.last_rows()[0].died == 1


def test_a_site_that_is_narrower_after_a_checkpoint() -> None:
    history = History.from_state(read(STEPS[:1]).state_dict())
    history.use(Layout([site("a", 2)]))
    history.add(2, np.array([1, 100, 0, 50], np.int64))
    resumed = History.from_state(json.loads(json.dumps(history.state_dict())))
    assert resumed.rows() == history.rows()
    assert [(row.width, row.dead, row.died) for row in resumed.rows() if row.site == "a"] == [
        (3, 1, None),
        (2, 1, None),
    ]


@pytest.mark.parametrize("states", [[1], 3, None])
def test_damaged_states(states: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        History.from_state({**read().state_dict(), "states": states})


def test_the_state_is_small() -> None:
    random = np.random.default_rng(0)
    wide = Layout([site(str(number), 1000) for number in range(12)])
    history = History()
    history.use(wide)
    for step in range(200):
        active = random.integers(0, 100, 12_000)
        heads = np.tile(np.array([1, 100], np.int64), (12, 1))
        history.add(step, np.concatenate([heads, active.reshape(12, 1000)], axis=1).ravel())
    size = len(json.dumps(history.state_dict()["readings"]))
    assert size / (200 * 12) < 60  # bytes for each site and reading


def test_damaged_numbers() -> None:
    state = read().state_dict()
    state["readings"][0]["numbers"] = "AAAA"
    with pytest.raises(ValueError, match=r"can't be read"):
        History.from_state(state)
