"""Where the counters of all sites lie in one buffer, so that they are added, cleared and reduced at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actratio.sites import Site


class Layout:
    """Places in a buffer, int64: each site's calls, then each site's tokens, then the neurons of one site after another.

    Attributes:
        sites: the sites, in order.
        widths: neurons of each site, int64, (sites,).
        starts: each site's first neuron among those of all sites, int64, (sites,).
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = tuple(sites)
        self.widths = np.array([site.width for site in sites], np.int64)
        self.starts = np.cumsum(self.widths) - self.widths

    def zeros(self, device: torch.device | str = "cpu") -> Tensor:
        """Return a buffer of zeros."""
        return torch.zeros(2 * len(self.sites) + int(self.widths.sum()), dtype=torch.int64, device=device)

    def place(self, number: int) -> int:
        """Return where the neurons of a site begin in a buffer."""
        return 2 * len(self.sites) + int(self.starts[number])

    def calls(self, buffer: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how often each site's activation was computed, (sites,)."""
        return buffer[: len(self.sites)]

    def tokens(self, buffer: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tokens counted at each site, (sites,)."""
        return buffer[len(self.sites) : 2 * len(self.sites)]

    def active(self, buffer: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return for each neuron of all sites the tokens on which it was active, (neurons,)."""
        return buffer[2 * len(self.sites) :]
