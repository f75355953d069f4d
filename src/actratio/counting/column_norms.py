"""How much each neuron can add to an MLP's output: the norms of the down projection's columns."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from actratio.errors import SiteError
from actratio.sites import Site


class ColumnNorms:
    """The norms ‖W_down[:, i]‖₂ of a model's sites, computed when they are first asked for.

    Args:
        weights: the model's parameters and buffers by name.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights
        self._known: dict[str, tuple[int, Tensor]] = {}

    def at(self, site: Site, columns: Tensor | None = None) -> Tensor:
        """Return the norms at a site in float32, (width,), computed again when the weights have changed.

        Args:
            columns: the down projection as it was multiplied, (…, width), if the model computes it from its parameters.

        Raises:
            SiteError: the site has no down projection, or its weight can't be read.
        """
        if site.down is None:
            raise SiteError(
                f"{site.name} has no down projection, whose norms the criterion contribution(τ) needs; "
                "use another criterion, or leave the site out"
            )
        weight = self._weights.get(site.down)
        if (
            weight is None
            or (columns is None and not weight.is_floating_point())
            or (columns is not None and columns.is_meta)
        ):
            raise SiteError(
                f"the down projection of {site.name} is quantised, and the criterion contribution(τ) needs the norms of its "
                "columns; use another criterion, or leave the site out"
            )
        if columns is not None:
            computed: Tensor = columns.detach().float().flatten(0, -2).norm(dim=0)
            return computed
        version, norms = self._known.get(site.name, (None, None))
        if norms is None or version != weight._version:
            part = (weight if site.expert is None else weight[site.expert]).detach().float()
            # A grouped convolution has, for each group of outputs, the columns of that group's neurons.
            groups = site.width // part.shape[site.hidden_axis]
            chunks = (chunk.movedim(site.hidden_axis, -1).flatten(0, -2) for chunk in part.chunk(groups))
            norms = torch.cat([chunk.norm(dim=0) for chunk in chunks])
            self._known[site.name] = (weight._version, norms)
        return norms
