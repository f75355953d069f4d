"""Telling once for each layer that many of its neurons are dead."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from numbers import Real

from actratio.errors import TrackerError
from actratio.tracking.history import History

_FEWEST_TOKENS = 100
"""An expert that fewer tokens reached isn't called dead."""


class DeadNeuronsWarning(UserWarning):
    """Many neurons of a layer were active on no token of a step."""


class DeadLimit:
    """A share of dead neurons above which a layer is reported, once.

    Attributes:
        told: names of the sites that were reported.
    """

    def __init__(self, share: float | None, on_dead: Callable[[str, int], None] | None) -> None:
        """Prepare to report.

        Args:
            share: the limit; ``None`` for no reports.
            on_dead: called after the warning with the site's name and the step.

        Raises:
            TrackerError: the share isn't between 0 and 1.
        """
        if share is not None and not (isinstance(share, Real) and 0 <= share <= 1):
            raise TrackerError(f"dead_limit is {share!r}; give a share between 0 and 1, or None")
        self._share, self._on_dead = share, on_dead
        self.told: set[str] = set()

    def check(self, history: History) -> None:
        """Warn of the sites whose latest reading is above the limit."""
        if self._share is None:
            return
        for item in history.sites_with_dead(self._share):
            is_rare = history.sites[item.site].role == "expert" and item.tokens < _FEWEST_TOKENS
            if item.site in self.told or is_rare:
                continue
            self.told.add(item.site)
            warnings.warn(
                f"{item.dead:,} of {item.width:,} neurons of {item.site} ({item.dead / item.width:.0%}) were active on none "
                f"of the {item.tokens:,} tokens of step {item.step}; a lower learning rate or another initialization may "
                "keep them alive",
                DeadNeuronsWarning,
                stacklevel=2,
            )
            if self._on_dead is not None:
                self._on_dead(item.site, item.step)
