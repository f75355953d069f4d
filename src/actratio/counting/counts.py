"""What was counted at one site: integers that merge exactly, and the readings taken from them."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

ALWAYS_ON_PERCENT = 99
"""A neuron is *always-on* when it is active on at least this percentage of the tokens counted."""

_EXACT_IN_FLOAT32 = 1 << 24


_SUM = {"merge": operator.add}
"""Declares that a field of the state merges by addition."""

WINDOWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Successive tokens over which the union of active neurons is counted."""

BLOCKS = (16, 64, 256)
"""Successive neurons that count as one block."""


@dataclass(frozen=True)
class SiteCounts:
    """Counts of active neurons at one site, over ``tokens`` tokens (or examples).

    Leading axes (a stack of seeds, say) are counted side by side: ``active`` has the shape
    ``(*stack, width)`` and ``squares`` has ``(*stack,)``.  All are int64, so that
    ``a.merge(b)`` equals counting everything at once, bit for bit, in any order.

    Attributes:
        tokens: how many tokens were counted.
        active: for each neuron, on how many of them it was active.
        squares: Σ over tokens of (number of active neurons of that token)², from which the spread
            over tokens is read.
        first_tokens, first_active: ``tokens`` and ``active`` of the first token of each sequence alone; they
            are in ``tokens`` and ``active`` too.
        decode_tokens, decode_active: the same of forward passes that go on with a cache (decoding steps of ``generate``).
        per_token: (width + 1,), how many tokens had 0, 1, 2, … active neurons.
        windows, union: (len(WINDOWS),), how many whole windows of successive tokens of a sequence there were, and
            Σ over them of the neurons active for at least one of their tokens.
        both, either: (), Σ over pairs of successive tokens of the neurons active for both, and for at least one.
        idle_blocks: (len(BLOCKS),), Σ over tokens of the blocks of successive neurons without an active one; a last,
            smaller block counts too.
        passed: of an expert: the tokens that came through its layer, routed to it or not.

    All but ``tokens`` and ``active`` are ``None`` where they were not counted.

    Examples:
        >>> counts = SiteCounts.of(torch.tensor([[1.0, 0.0], [2.0, 3.0]]))
        >>> counts.tokens, counts.active.tolist(), float(counts.activation_ratio)
        (2, [2, 1], 0.75)
    """

    tokens: int = field(metadata=_SUM)
    active: Tensor = field(metadata=_SUM)
    squares: Tensor | None = field(default=None, metadata=_SUM)
    first_tokens: int | None = field(default=None, metadata=_SUM)
    first_active: Tensor | None = field(default=None, metadata=_SUM)
    decode_tokens: int | None = field(default=None, metadata=_SUM)
    decode_active: Tensor | None = field(default=None, metadata=_SUM)
    per_token: Tensor | None = field(default=None, metadata=_SUM)
    windows: Tensor | None = field(default=None, metadata=_SUM)
    union: Tensor | None = field(default=None, metadata=_SUM)
    both: Tensor | None = field(default=None, metadata=_SUM)
    either: Tensor | None = field(default=None, metadata=_SUM)
    idle_blocks: Tensor | None = field(default=None, metadata=_SUM)
    passed: int | None = field(default=None, metadata=_SUM)

    def __post_init__(self) -> None:
        if self.active.dtype != torch.int64:
            raise TypeError(f"counts are int64, not {self.active.dtype}")
        if self.squares is not None and self.squares.dtype != torch.int64:
            raise TypeError(f"sums of squared counts are int64, not {self.squares.dtype}")
        if self.active.ndim == 0 or (self.squares is not None and self.squares.shape != self.active.shape[:-1]):
            squares = None if self.squares is None else tuple(self.squares.shape)
            raise ValueError(
                f"counts of shape {tuple(self.active.shape)} with sums of squares of shape {squares}; "
                "they must be (*stack, width) and (*stack,)"
            )

    @classmethod
    def of(cls, activation: Tensor) -> SiteCounts:
        """Count ``activation > 0`` (NaN is not active) in a tensor of shape ``(*stack, tokens, width)``."""
        if activation.ndim < 2:
            raise ValueError(f"an activation has the shape (*stack, tokens, width), not {tuple(activation.shape)}")
        tokens, width = activation.shape[-2:]
        # Sums of ones are exact in float32 up to 2²⁴, and much faster there than in int64; and a comparison that
        # writes its ones as float32 takes half the time of one that writes booleans, which are converted then.
        exact = torch.float32 if max(tokens, width) < _EXACT_IN_FLOAT32 else torch.int64
        ones = torch.gt(activation, 0, out=torch.empty_like(activation, dtype=exact))
        per_token = ones.sum(-1).long()
        return cls(tokens=tokens, active=ones.sum(-2).long(), squares=(per_token * per_token).sum(-1))

    @property
    def width(self) -> int:
        """Number of neurons."""
        return self.active.shape[-1]

    def merge(self, other: SiteCounts) -> SiteCounts:
        """Both together: every field by the merge that it is declared with."""
        if self.active.shape != other.active.shape:
            raise ValueError(
                f"counts of shapes {tuple(self.active.shape)} and {tuple(other.active.shape)} do not merge"
            )
        merged: dict[str, Any] = {}
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            # What one side did not count is unknown for both together.
            merged[each.name] = None if mine is None or theirs is None else each.metadata["merge"](mine, theirs)
        return SiteCounts(**merged)

    def cpu(self) -> SiteCounts:
        """The same on the CPU; counts of a GPU's tensors stay there until they are asked for."""
        moved: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        for name, value in moved.items():
            if isinstance(value, Tensor):
                moved[name] = value.cpu()
        return SiteCounts(**moved)

    @property
    def active_mean(self) -> Tensor:
        """Mean number of active neurons a token, float64, shape ``(*stack,)``."""
        return self.active.sum(-1).double() / self.tokens

    @property
    def activation_ratio(self) -> Tensor:
        """Active neurons / neurons over the tokens counted, float64, shape ``(*stack,)``."""
        return self.active.sum(-1).double() / (self.tokens * self.width)

    @property
    def ratio_std(self) -> Tensor | None:
        """Standard deviation over tokens (population, not sample) of a token's own ratio.

        √(Σk²/T − (Σk/T)²) / N with k the active neurons of a token; the difference is taken in
        integers, T·Σk² − (Σk)², so that nothing cancels.
        """
        if self.squares is None:
            return None
        total = self.active.sum(-1)
        # T·Σk² can pass 2⁶³ for long corpora, so the products are Python's integers.
        pairs = zip(self.squares.flatten().tolist(), total.flatten().tolist(), strict=True)
        spread = [self.tokens * square - sum_ * sum_ for square, sum_ in pairs]
        per_pair = [x / self.tokens**2 if self.tokens else math.nan for x in spread]
        variance = torch.tensor(per_pair, dtype=torch.float64, device=total.device)
        return variance.sqrt().view(total.shape) / self.width

    @property
    def dead(self) -> Tensor:
        """Number of neurons active on none of the tokens, int64, shape ``(*stack,)``."""
        return (self.active == 0).sum(-1)

    @property
    def always_on(self) -> Tensor:
        """Number of neurons active on at least 99 % of the tokens, int64, shape ``(*stack,)``."""
        return (self.active * 100 >= ALWAYS_ON_PERCENT * self.tokens).sum(-1)

    @property
    def first_ratio(self) -> float | None:
        """Activation ratio of the first tokens of sequences alone; ``None`` if none was counted."""
        return self._part(self.first_tokens, self.first_active)

    @property
    def rest_ratio(self) -> float | None:
        """Activation ratio without the first tokens; ``None`` if nothing else was counted."""
        return self._rest(self.first_tokens, self.first_active)

    @property
    def decode_ratio(self) -> float | None:
        """Activation ratio of decoding steps alone; ``None`` if there was none."""
        return self._part(self.decode_tokens, self.decode_active)

    @property
    def prompt_ratio(self) -> float | None:
        """Activation ratio without the decoding steps; ``None`` if nothing else was counted."""
        return self._rest(self.decode_tokens, self.decode_active)

    def _part(self, tokens: int | None, active: Tensor | None) -> float | None:
        return None if active is None or not tokens else int(active.sum()) / (tokens * self.width)

    def _rest(self, tokens: int | None, active: Tensor | None) -> float | None:
        if active is None or tokens is None or tokens == self.tokens:
            return None
        return self._part(self.tokens - tokens, self.active - active)

    @property
    def union_ratio(self) -> Tensor | None:
        """For each of ``WINDOWS``, the share of neurons active for at least one token of a window, float64.

        ``nan`` where no sequence was long enough.
        """
        if self.union is None or self.windows is None:
            return None
        return self.union.double() / (self.windows * self.width)

    @property
    def independent_union_ratio(self) -> Tensor:
        """What ``union_ratio`` would be if a neuron's firing on one token said nothing about the next.

        Σᵢ (1 − (1 − pᵢ)ᴮ) / N with pᵢ the share of tokens on which neuron i was active.
        """
        p = self.active.double() / self.tokens
        return torch.stack([(1 - (1 - p) ** window).mean() for window in WINDOWS])

    @property
    def overlap(self) -> float | None:
        """Jaccard overlap of successive tokens, Σ|A∩B| / Σ|A∪B|; ``None`` without pairs, or without active neurons."""
        if self.both is None or self.either is None or not self.either:
            return None
        return int(self.both) / int(self.either)

    @property
    def idle_block_ratio(self) -> Tensor | None:
        """For each of ``BLOCKS``, the share of blocks without an active neuron, float64."""
        if self.idle_blocks is None:
            return None
        blocks = torch.tensor([-(-self.width // block) for block in BLOCKS])
        return self.idle_blocks.double() / (blocks * self.tokens)

    @property
    def rule_of_three(self) -> float:
        """With 95 % confidence a dead neuron fires on less than this share of tokens, 1 − 0.05^(1/T) ≈ 3/T.

        The exact form of the "rule of three" (Hanley & Lippman-Hand, JAMA 249, 1983).
        """
        return 1 - 0.05 ** (1 / self.tokens) if self.tokens else 1.0
