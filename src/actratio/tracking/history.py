"""All readings of a training, in arrays: what they say about neurons, and how they are kept in a checkpoint."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actratio.counting.counts import ALWAYS_ON_PERCENT
from actratio.sites import Site
from actratio.tracking.layout import Layout
from actratio.tracking.readings import SiteReading, scalars

_UNKNOWN, _DEAD, _LIVING, _ALWAYS_ON = -1, 0, 1, 2
"""States of a neuron: not read yet, or active on none, on some, on at least 99% of the tokens at the latest reading."""

_MOST_WAITING = 2**18
"""Counts that wait, at most, until they are read together: 2 MB of them."""

_NUMBERS = ("tokens", "active", "dead", "always_on", "died", "revived", "changed")
"""What is kept of a site at a reading, in order; −1 for a number that isn't known."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """One reading: ``numbers``, int64, (sites, numbers), are those of the sites of a layout."""

    step: int
    layout: Layout
    numbers: NDArray[np.int64]

    def rows(self) -> list[SiteReading]:
        rows = []
        for site, numbers in zip(self.layout.sites, self.numbers.tolist(), strict=True):
            *counted, died, revived, changed = numbers
            changes = (None if number < 0 else number for number in (died, revived, changed))
            rows.append(SiteReading(self.step, site.name, site.width, *counted, *changes))
        return rows


class History:
    """The readings of a training so far, and the states of the neurons at the latest one.

    Attributes:
        sites: the sites of all readings, by name.
    """

    def __init__(self) -> None:
        self.sites: dict[str, Site] = {}
        self._read_so_far: list[_Reading] = []
        self._waiting: list[tuple[int, NDArray[np.int64]]] = []  # steps and counts that are still to be read
        self._latest: dict[str, float] | None = {}  # made when it is asked for
        self._layout = Layout([])
        self._states = np.zeros(0, np.int8)  # of the neurons of the layout
        self._other_states: dict[str, NDArray[np.int8]] = {}  # of sites that the layout doesn't have

    def __len__(self) -> int:
        return len(self._read_so_far) + len(self._waiting)

    @property
    def _readings(self) -> list[_Reading]:
        self._read_waiting()
        return self._read_so_far

    def use(self, layout: Layout) -> None:
        """Expect the readings of these sites from now on."""
        known = self._states_by_site()  # also reads what is waiting, by the layout so far
        self.sites |= {site.name: site for site in layout.sites}
        self._layout = layout
        self._states = np.full(int(layout.widths.sum()), _UNKNOWN, np.int8)
        for site, start in zip(layout.sites, layout.starts, strict=True):
            states = known.pop(site.name, None)
            if states is not None and len(states) == site.width:
                self._states[start : start + site.width] = states
        self._other_states = known

    def add(self, step: int, counts: NDArray[np.int64]) -> None:
        """Add the reading of a step.

        Args:
            counts: what was counted, a buffer of the layout, which the history keeps. A site that saw no token keeps
                its neurons' states.
        """
        # Read later, several at a time: between two training steps, the processor's caches hold the model, and the same
        # work takes several times as long.
        self._waiting.append((step, counts))
        self._latest = None
        if len(self._waiting) * len(counts) > _MOST_WAITING:
            self._read_waiting()

    def _read_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for step, counts in waiting:
            self._read(step, counts)

    def _read(self, step: int, counts: NDArray[np.int64]) -> None:
        layout, before = self._layout, self._states
        tokens, active = layout.tokens(counts), layout.active(counts)
        of_neurons = np.repeat(tokens, layout.widths)
        now = np.where(active == 0, _DEAD, _LIVING + (active * 100 >= ALWAYS_ON_PERCENT * of_neurons)).astype(np.int8)
        seen, known = tokens > 0, before[layout.starts] != _UNKNOWN
        if not seen.all():
            now = np.where(of_neurons > 0, now, before)
        is_dead, was_dead = now == _DEAD, before == _DEAD
        masks = np.stack([is_dead, now == _ALWAYS_ON, is_dead & ~was_dead, was_dead & ~is_dead, now != before])
        dead, always_on, *changes = np.add.reduceat(masks, layout.starts, axis=1, dtype=np.int64)
        numbers = np.empty((len(tokens), len(_NUMBERS)), np.int64)
        numbers[:, 0], numbers[:, 1] = tokens, np.add.reduceat(active, layout.starts)
        numbers[:, 2], numbers[:, 3] = dead * seen, always_on * seen
        for column, change in enumerate(changes, start=4):
            numbers[:, column] = np.where(seen & known, change, -1)
        self._states = now
        self._read_so_far.append(_Reading(step, layout, numbers))

    @property
    def latest(self) -> dict[str, float]:
        """The values of the latest reading for a logger, by key; empty before the first one."""
        if self._latest is None:
            self._latest = scalars(self.last_rows())
        return self._latest

    def last_rows(self) -> list[SiteReading]:
        """Return the latest reading of each site."""
        return self._readings[-1].rows() if self._readings else []

    def sites_with_dead(self, limit: float) -> list[SiteReading]:
        """Return the latest readings of the sites whose share of dead neurons is above a limit."""
        if self._waiting:
            counts = self._waiting[-1][1]
            if len(counts) - np.count_nonzero(counts) <= limit * self._layout.widths.min():
                return []  # not even if all of them are of the narrowest site
        numbers, layout = self._readings[-1].numbers, self._readings[-1].layout
        above = numbers[:, 2] > limit * layout.widths
        return [row for row, is_above in zip(self.last_rows(), above, strict=True) if is_above] if above.any() else []

    def rows(self) -> list[SiteReading]:
        """Return every site's every reading, in order of the steps."""
        return [row for reading in self._readings for row in reading.rows()]

    def state_dict(self) -> dict[str, Any]:
        """Return all readings and states as objects that JSON can hold."""
        blocks = []
        for layout, readings in groupby(self._readings, key=lambda reading: reading.layout):
            same = list(readings)
            blocks.append(
                {
                    "sites": [site.name for site in layout.sites],
                    "widths": layout.widths.tolist(),  # a model that was pruned since has others
                    "steps": [reading.step for reading in same],
                    "numbers": _packed(np.stack([reading.numbers for reading in same])),
                }
            )
        return {
            "sites": [asdict(site) for site in self.sites.values()],
            "readings": blocks,
            "states": {name: _packed(states) for name, states in self._states_by_site().items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> History:
        """Return the history that ``state_dict`` was called on.

        Raises:
            KeyError, TypeError, ValueError: it is not a state.
        """
        history = cls()
        history.sites = {item["name"]: Site(**item) for item in state["sites"]}
        for block in state["readings"]:
            names_and_widths = zip(block["sites"], block["widths"], strict=True)
            layout = Layout([replace(history.sites[name], width=int(width)) for name, width in names_and_widths])
            steps, shape = block["steps"], (len(layout.sites), len(_NUMBERS))
            numbers = _unpacked(block["numbers"], np.int64).reshape(len(steps), *shape)
            history._read_so_far += [_Reading(int(step), layout, own) for step, own in zip(steps, numbers, strict=True)]
        history._other_states = {name: _unpacked(text, np.int8) for name, text in dict(state["states"]).items()}
        history._latest = None
        return history

    def _states_by_site(self) -> dict[str, NDArray[np.int8]]:
        self._read_waiting()
        states = dict(self._other_states)
        for site, start in zip(self._layout.sites, self._layout.starts, strict=True):
            own = self._states[start : start + site.width]
            if own[0] != _UNKNOWN:
                states[site.name] = own
        return states


def _packed(numbers: NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(numbers.tobytes())).decode("ascii")


def _unpacked(text: str, kind: type[Any]) -> NDArray[Any]:
    try:
        return np.frombuffer(zlib.decompress(base64.b64decode(text)), kind)
    except zlib.error as error:
        raise ValueError(f"its numbers can't be read: {error}") from None
