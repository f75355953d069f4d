"""Where the counters of all sites lie in one buffer, so that they are added, cleared and reduced at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actratio.sites import Site


class Layout:
    """Places in a buffer, int64, of one block for each site: its calls, its tokens, and then its neurons.

    Attributes:
        sites: the sites, in order.
        widths: neurons of each site, int64, (sites,).
        starts: each site's first neuron among those of all sites, int64, (sites,).
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = tuple(sites)
        self.widths = np.array([site.width for site in sites], np.int64)
        self.starts = np.cumsum(self.widths) - self.widths
        self._blocks: NDArray[np.int64] = self.starts + _HEAD * np.arange(len(sites))
        self._neurons: NDArray[np.int64] = np.arange(int(self.widths.sum())) + np.repeat(
            self._blocks + _HEAD - self.starts, self.widths
        )

    def zeros(self, device: torch.device | str = "cpu") -> Tensor:
        """Return a buffer of zeros."""
        return torch.zeros(_HEAD * len(self.sites) + len(self._neurons), dtype=torch.int64, device=device)

    def block(self, number: int) -> slice:
        """Return where a site's block lies in a buffer."""
        start = int(self._blocks[number])
        return slice(start, start + _HEAD + int(self.widths[number]))

    def calls(self, buffer: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how often each site's activation was computed, (sites,)."""
        return buffer.take(self._blocks)

    def tokens(self, buffer: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tokens counted at each site, (sites,)."""
        return buffer.take(self._blocks + 1)

    def active(self, buffer: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return for each neuron of all sites the tokens on which it was active, (neurons,)."""
        return buffer.take(self._neurons)


_HEAD = 2
"""Numbers in a block before those of the neurons: calls and tokens."""
