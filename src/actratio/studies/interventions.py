"""Drop outputs of MLPs while a model runs: by sign, by least contribution, at random, or by sign with their mean instead.

Ways can be made to drop equally many outputs at each token, so that their costs can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from actratio.errors import SiteError
from actratio.sites.mlps import MLP
from actratio.sparse.masking import hidden_hooks

WAYS = ("sign", "least", "random", "mean")
"""``sign``: outputs of the activation function at or below 0 become zero; ``least``: as many with the least contribution
|hᵢ|·‖W_down[:, i]‖; ``random``: as many at random; ``mean``: those of ``sign`` become the mean of such outputs of their neuron."""


@dataclass
class Tally:
    """How many outputs were dropped.

    Attributes:
        dropped: outputs that were dropped.
        outputs: outputs that there were, in the same layers.
        counts: for each MLP's site name and each call, how many were dropped at each token.
    """

    dropped: int = 0
    outputs: int = 0
    counts: dict[str, list[Tensor]] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Share of the outputs that was dropped; 0 if nothing ran."""
        return self.dropped / self.outputs if self.outputs else 0.0


@dataclass
class _Signs:
    """Where the activation function's outputs are at or below 0, and so the hidden outputs that are dropped by sign."""

    activations: dict[str, Tensor] = field(default_factory=dict)

    def nonpositive(self, mlp: MLP, hidden: Tensor) -> Tensor:
        return (self.activations.pop(mlp.site.name) if mlp.site.gated else hidden) <= 0


@contextmanager
def dropping(
    mlps: Sequence[MLP],
    way: str,
    share: float = 1.0,
    *,
    means: Mapping[str, Tensor] | None = None,
    counts: Mapping[str, Sequence[Tensor]] | None = None,
    seed: int = 0,
) -> Iterator[Tally]:
    """Drop outputs of the MLPs' hidden layers while the block runs.

    At each token, the number that is dropped is ``share`` of the number of outputs at or below 0, rounded. If ``share`` is below
    1, ``sign`` and ``mean`` draw among these outputs at random, the same ones for both.

    The same calls inside the block draw the same random numbers.

    >>> with dropping(mlps, "least"):                                     # doctest: +SKIP
    ...     logits = model(ids)

    Args:
        mlps: as ``resolve`` returns them.
        way: one of ``WAYS``.
        share: share of the outputs at or below 0, from 0 to 1.
        means: what ``nonpositive_means`` returned, for ``mean``.
        counts: ``Tally.counts`` of another block with the same calls, for ``least`` and ``random``: at each token, as many are dropped as in
            that block. Outputs dropped in one layer change how many are at or below 0 in the next.
        seed: of the random numbers.

    Raises:
        SiteError: an MLP's neurons can't be told from its modules.
    """
    tally, signs = Tally(), _Signs()
    rank = {mlp.site.name: position for position, mlp in enumerate(mlps)}
    calls = dict.fromkeys(rank, 0)
    norms = {mlp.site.name: mlp.rows.detach().float().norm(dim=1) for mlp in _supported(mlps)}

    def drop(mlp: MLP, hidden: Tensor) -> Tensor:
        name = mlp.site.name
        nonpositive = signs.nonpositive(mlp, hidden)
        numbers = np.random.SeedSequence((seed, rank[name], calls[name])).generate_state(1)
        random = torch.Generator(hidden.device).manual_seed(int(numbers[0]))
        calls[name] += 1
        if counts is not None and way in ("least", "random"):
            count = counts[name][calls[name] - 1]
        else:
            count = nonpositive.sum(-1, keepdim=True)
            if share < 1:
                count = (share * count.double()).round().long()
        chosen = nonpositive
        if way == "least":
            chosen = _lowest(hidden.float().abs() * norms[name], count)
        elif way == "random" or share < 1:
            keys = torch.rand(hidden.shape, generator=random, device=hidden.device)
            chosen = _lowest(keys if way == "random" else keys.masked_fill(~nonpositive, 2.0), count)
        tally.counts.setdefault(name, []).append(count)
        tally.dropped += int(count.sum())
        tally.outputs += hidden.numel()
        instead = means[name].to(hidden) if way == "mean" and means is not None else hidden.new_zeros(())
        return torch.where(chosen, instead, hidden)

    with _activations(mlps, signs), hidden_hooks(mlps, drop):
        yield tally


def nonpositive_means(mlps: Sequence[MLP], run: Callable[[], None]) -> dict[str, Tensor]:
    """Return, for each MLP's site name, the mean of each neuron's outputs at or below 0, (width,).

    A neuron without such outputs has the mean 0.

    Args:
        mlps: as ``resolve`` returns them.
        run: runs the model on the documents that the means are taken from.

    Raises:
        SiteError: as for ``dropping``.
    """
    signs = _Signs()
    sums = {mlp.site.name: torch.zeros(mlp.site.width, dtype=torch.float64) for mlp in _supported(mlps)}
    counts = {name: torch.zeros_like(total) for name, total in sums.items()}

    def add(mlp: MLP, hidden: Tensor) -> None:
        nonpositive = signs.nonpositive(mlp, hidden).flatten(0, -2)
        dropped = torch.where(nonpositive, hidden.detach().flatten(0, -2), 0)
        sums[mlp.site.name] += dropped.sum(0, dtype=torch.float64).cpu()
        counts[mlp.site.name] += nonpositive.sum(0).cpu()

    with _activations(mlps, signs), hidden_hooks(mlps, add), torch.no_grad():
        run()
    return {name: (total / counts[name].clamp_min(1)).float() for name, total in sums.items()}


def _lowest(keys: Tensor, count: Tensor) -> Tensor:
    """Return where the ``count`` lowest keys of each row are; ties are broken, so that there are exactly as many."""
    order = keys.argsort(dim=-1, stable=True)
    places = torch.arange(keys.shape[-1], device=keys.device).expand_as(order)
    return torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order, places < count)


def _supported(mlps: Sequence[MLP]) -> Sequence[MLP]:
    for mlp in mlps:
        reason = mlp.unsupported_reason
        if reason is None and mlp.site.gated and mlp.activation is None:
            reason = "its activation function is not a module"
        if reason is not None:
            raise SiteError(f"outputs of {mlp.site.name} can't be dropped: {reason}; give another model")
    return mlps


@contextmanager
def _activations(mlps: Sequence[MLP], signs: _Signs) -> Iterator[None]:
    """Keep what the activation function of each gated MLP returns until its down projection runs."""
    with ExitStack() as stack:
        for mlp in mlps:
            if mlp.site.gated:

                def keep(module: nn.Module, args: tuple[Any, ...], output: Tensor, name: str = mlp.site.name) -> None:
                    signs.activations[name] = output.detach()

                stack.callback(mlp.activation.register_forward_hook(keep).remove)
        yield
