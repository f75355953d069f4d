"""What was counted at one site: integers that merge exactly, and the readings taken from them.

To add a counted reading, declare its field and the reading here. Until the fast kernels list the field in their
``FIELDS``, it is counted by its own ``from_mask`` beside them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from actratio.counting import co_activation
from actratio.counting.co_activation import BLOCKS, WINDOWS
from actratio.counting.declarations import Counts, counted, reading
from actratio.errors import plural

ALWAYS_ON_PERCENT = 99
"""A neuron is *always-on* when it is active on at least this percentage of the tokens counted."""

FEWEST_TOKENS = math.ceil(math.log(0.05) / math.log(ALWAYS_ON_PERCENT / 100))
"""With fewer tokens, 299, a neuron that was never (or always) active may, with 95% confidence, be active on over 1% of tokens (or
on under 99%), so counts of dead and always-on neurons say little."""

_EXACT_IN_FLOAT32 = 1 << 24


@dataclass(frozen=True, repr=False)
class SiteCounts(Counts):
    """Counts of active neurons at one site, over ``tokens`` tokens (or examples).

    Leading axes (a stack of seeds, for example) are counted side by side: ``active`` has the shape
    ``(*stack, width)`` and ``squares`` has ``(*stack,)``. All tensors are int64, so ``a.merge(b)`` equals counting
    everything at once, bit for bit, in any order.

    Attributes:
        tokens: number of tokens counted.
        active: for each neuron, the number of tokens on which it was active.
        squares: Σ over tokens of (number of active neurons of that token)², from which the spread over tokens is read.
        first_tokens: the number of those tokens that are the first of their sequence.
        first_active: (*stack, width), ``active`` on first tokens only.
        decode_tokens: the number of tokens of forward passes that continue a cache (decoding steps of ``generate``).
        decode_active: (*stack, width), ``active`` in those passes only.
        per_token: (width + 1,), the number of tokens with 0, 1, 2, … active neurons.
        windows: (len(WINDOWS),), the number of whole windows of successive tokens of a sequence.
        union: (len(WINDOWS),), Σ over those windows of the neurons active for at least one of their tokens.
        both: (), Σ over pairs of successive tokens of the neurons active for both.
        either: (), Σ over pairs of successive tokens of the neurons active for at least one.
        idle_blocks: (len(BLOCKS),), Σ over tokens of the blocks of successive neurons without an active one; a last,
            smaller block counts too.
        passed: for an expert, the tokens that passed through its layer, routed to it or not.
        useful: neuron outputs that must be kept for nearly the whole output of the MLP, over ``useful_tokens`` tokens.
        useful_tokens: the number of tokens, the first ones, on which they were counted.

    All but ``tokens`` and ``active`` are ``None`` where they were not counted.

    Examples:
        >>> counts = SiteCounts.of(torch.tensor([[1.0, 0.0], [2.0, 3.0]]))
        >>> counts.tokens, counts.active.tolist(), counts.activation_ratio
        (2, [2, 1], 0.75)
        >>> counts
        <SiteCounts: 2 tokens, 2 neurons, ratio 0.75, 0 dead, 1 always-on>
    """

    tokens: int = field(metadata=counted(int, from_mask=lambda active, lengths, first: len(active)))
    active: Tensor = field(
        metadata=counted(
            Tensor,
            from_mask=lambda active, lengths, first: active.sum(0),
            per_neuron=True,
            formula="for each neuron, the tokens on which it was active",
            note="shows which neurons are active always, rarely or never",
        )
    )
    squares: Tensor | None = field(
        default=None,
        metadata=counted(Tensor, from_mask=lambda active, lengths, first: (active.sum(1) * active.sum(1)).sum()),
    )
    first_tokens: int | None = field(
        default=None,
        metadata=counted(int, from_mask=lambda active, lengths, first: None if first is None else int(first.sum())),
    )
    first_active: Tensor | None = field(
        default=None,
        metadata=counted(
            Tensor,
            from_mask=lambda active, lengths, first: None if first is None else active[first.to(active.device)].sum(0),
            per_neuron=True,
        ),
    )
    decode_tokens: int | None = field(default=None, metadata=counted(int))
    decode_active: Tensor | None = field(default=None, metadata=counted(Tensor, per_neuron=True))
    per_token: Tensor | None = field(
        default=None,
        metadata=counted(
            Tensor,
            from_mask=lambda active, lengths, first: torch.bincount(active.sum(1), minlength=active.shape[1] + 1),
            formula="number of tokens with k = 0, 1, …, N",
            note="the whole distribution over tokens",
        ),
    )
    windows: Tensor | None = field(
        default=None, metadata=counted(Tensor, from_mask=co_activation.windows, co_activation=True)
    )
    union: Tensor | None = field(
        default=None, metadata=counted(Tensor, from_mask=co_activation.union, co_activation=True)
    )
    both: Tensor | None = field(
        default=None, metadata=counted(Tensor, from_mask=co_activation.both, co_activation=True)
    )
    either: Tensor | None = field(
        default=None, metadata=counted(Tensor, from_mask=co_activation.either, co_activation=True)
    )
    idle_blocks: Tensor | None = field(
        default=None, metadata=counted(Tensor, from_mask=co_activation.idle_blocks, co_activation=True)
    )
    passed: int | None = field(default=None, metadata=counted(int, of_layer=True))
    useful: int | None = field(default=None, metadata=counted(int))
    useful_tokens: int | None = field(default=None, metadata=counted(int))

    def __post_init__(self) -> None:
        super().__post_init__()
        squares = self.squares
        if self.active.ndim == 0 or (squares is not None and squares.shape != self.active.shape[:-1]):
            shape = None if squares is None else tuple(squares.shape)
            raise ValueError(
                f"active has the shape {tuple(self.active.shape)} and squares has {shape}; "
                "they must be (*stack, width) and (*stack,)"
            )

    def __repr__(self) -> str:
        size = f"{plural(self.tokens, 'token')}, {plural(self.width, 'neuron')}"
        stack = self.active.shape[:-1]
        if stack:
            return f"<SiteCounts: a stack of {'×'.join(map(str, stack))}, {size}>"
        return (
            f"<SiteCounts: {size}, ratio {self.activation_ratio:.3g}, {self.dead:,} dead, {self.always_on:,} always-on>"
        )

    @classmethod
    def of(cls, activation: Tensor) -> SiteCounts:
        """Count ``activation > 0`` (NaN is not active) in a tensor of shape ``(*stack, tokens, width)``."""
        if activation.ndim < 2:
            raise ValueError(f"an activation has the shape (*stack, tokens, width), not {tuple(activation.shape)}")
        tokens, width = activation.shape[-2:]
        # Sums of ones are exact in float32 up to 2²⁴, and much faster than in int64. A comparison that writes ones in
        # float32 takes half the time of one that writes booleans, which would have to be converted.
        exact = torch.float32 if max(tokens, width) < _EXACT_IN_FLOAT32 else torch.int64
        ones = torch.gt(activation, 0, out=torch.empty_like(activation, dtype=exact))
        per_token = ones.sum(-1).long()
        return cls(tokens=tokens, active=ones.sum(-2).long(), squares=(per_token * per_token).sum(-1))

    @property
    def width(self) -> int:
        """Number of neurons."""
        return self.active.shape[-1]

    def merge(self, other: SiteCounts) -> SiteCounts:
        """Return both together, each field merged as it is declared.

        What one side did not count is ``None``, unless that side counted no tokens at all.

        Raises:
            ValueError: the shapes differ.
        """
        if self.active.shape != other.active.shape:
            raise ValueError(
                f"counts of shapes {tuple(self.active.shape)} and {tuple(other.active.shape)} do not merge"
            )
        merged = self.merged_values(other)
        if not self.tokens or not other.tokens:
            counted_side = self if self.tokens else other
            merged = {
                name: merged[name] if item.of_layer else getattr(counted_side, name)
                for name, item in self.declared().items()
            }
        return type(self)(**merged)

    def all_reduce(self, group: Any = None) -> SiteCounts:
        """Return the counts of all processes of a ``torch.distributed`` group together, on every process.

        Every process must call it for the same sites in the same order.

        Raises:
            ValueError: the processes counted different shapes.
        """
        from actratio.counting.distributed import all_reduce_counts

        return all_reduce_counts(self, group)

    @reading("Σk / T", note="the mean number of active neurons of a token", column=float)
    def active_mean(self) -> float | Tensor:
        """Mean number of active neurons per token; for stacked counts float64, shape ``(*stack,)``."""
        return self.active.sum(-1).double() / self.tokens

    @reading(
        "Σk / (T·N)",
        note="the share of neuron outputs that are active. For `hidden` in a gated MLP by `nonzero`, it is what the down "
        "projection can't skip. By `positive` on GELU or SiLU it doesn't show waste: outputs below zero are small, not zero",
        column=float,
    )
    def activation_ratio(self) -> float | Tensor:
        """Active neurons / neurons over the tokens counted; for stacked counts float64, shape ``(*stack,)``."""
        return self.active.sum(-1).double() / (self.tokens * self.width)

    @reading(
        "√(Σk²/T − (Σk/T)²) / N",
        note="how much tokens differ; it describes tokens, and is not the error of the estimate",
        column=float,
    )
    def ratio_std(self) -> float | Tensor | None:
        """Standard deviation over tokens (population, not sample) of a token's own ratio.

        √(Σk²/T − (Σk/T)²) / N with k the active neurons of a token; the difference is taken in
        integers, T·Σk² − (Σk)², so that no digits are lost.
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

    @reading(
        "smallest share of neuron outputs, by \\|hᵢ\\| · ‖W_down[:, i]‖₂, with which an MLP's output has a mean error of at most 0.2",
        note="the share of an MLP's neuron outputs that matters, whatever its activation function: it can be compared between ReLU, GELU "
        "and SiLU. Counted on the first 256 tokens, alike for each tensor and criterion; missing for experts and quantised weights",
        column=float,
    )
    def useful_ratio(self) -> float | None:
        """Share of neuron outputs that must be kept so that the error of the MLP's output, CETT, is at most 0.2.

        ``None`` where it isn't known: for experts, quantised or computed weights, outputs that aren't finite, and if unions weren't counted.
        """
        return (
            self.useful / (self.useful_tokens * self.width) if self.useful is not None and self.useful_tokens else None
        )

    @reading(
        "number of neurons active on none of T tokens",
        note="with few tokens, many neurons look dead; see `rule_of_three`",
        column=int,
    )
    def dead(self) -> int | Tensor:
        """Number of neurons active on none of the tokens; for stacked counts int64, shape ``(*stack,)``."""
        return (self.active == 0).sum(-1)

    @reading("number of neurons active on at least 99% of T tokens", note="0 if no token was counted", column=int)
    def always_on(self) -> int | Tensor:
        """Number of neurons active on at least 99% of the tokens; for stacked counts int64, shape ``(*stack,)``."""
        always = (self.active * 100 >= ALWAYS_ON_PERCENT * self.tokens).sum(-1)
        return always if self.tokens else torch.zeros_like(always)

    @reading(
        "Σk / (T·N) over the first tokens of sequences",
        note="a first token (BOS, an attention sink) is often unlike the others, and short prompts give it much weight",
        column=float,
    )
    def first_ratio(self) -> float | None:
        """Activation ratio of the first tokens of sequences; ``None`` if none was counted."""
        return self._part(self.first_tokens, self.first_active)

    @reading("Σk / (T·N) over all other tokens", note="compare with `first_ratio`", column=float)
    def rest_ratio(self) -> float | None:
        """Activation ratio without the first tokens; ``None`` if nothing else was counted."""
        return self._rest(self.first_tokens, self.first_active)

    @reading(
        "Σk / (T·N) over forward passes that continue a cache",
        note="decoding is what an inference engine does one token at a time; measured inside a `Probe` around `generate`",
        column=float,
    )
    def decode_ratio(self) -> float | None:
        """Activation ratio of decoding steps; ``None`` if there were none."""
        return self._part(self.decode_tokens, self.decode_active)

    @reading("Σk / (T·N) over all other forward passes", note="compare with `decode_ratio`")
    def prompt_ratio(self) -> float | None:
        """Activation ratio without the decoding steps; ``None`` if nothing else was counted."""
        return self._rest(self.decode_tokens, self.decode_active)

    def _part(self, tokens: int | None, active: Tensor | None) -> float | None:
        return None if active is None or not tokens else int(active.sum()) / (tokens * self.width)

    def _rest(self, tokens: int | None, active: Tensor | None) -> float | None:
        if active is None or tokens is None or tokens == self.tokens:
            return None
        return self._part(self.tokens - tokens, self.active - active)

    @reading(
        "neurons active for at least one of B tokens / N, over whole windows of B = 1, 2, 4, … 256 successive tokens of a sequence",
        note="a kernel for a batch of B can skip 1 minus this",
    )
    def union_ratio(self) -> Tensor | None:
        """For each of ``WINDOWS``, the share of neurons active for at least one token of a window, float64.

        NaN where no sequence was long enough.
        """
        if self.union is None or self.windows is None:
            return None
        return self.union.double() / (self.windows * self.width)

    @reading(
        "Σᵢ (1 − (1 − pᵢ)ᴮ) / N",
        note="the union if a neuron's activity on one token said nothing about the next token; if the measured union is "
        "smaller, successive tokens share neurons",
    )
    def independent_union_ratio(self) -> Tensor:
        """What ``union_ratio`` would be if a neuron's activity on one token said nothing about the next token.

        Σᵢ (1 − (1 − pᵢ)ᴮ) / N with pᵢ the share of tokens on which neuron i was active.
        """
        p = self.active.double() / self.tokens
        return torch.stack([(1 - (1 - p) ** window).mean() for window in WINDOWS])

    @reading(
        "Σ\\|A∩B\\| / Σ\\|A∪B\\| over successive tokens",
        note="how many neurons two successive tokens share. For an expert, successive tokens are those routed to it",
        column=float,
    )
    def overlap(self) -> float | None:
        """Jaccard overlap of successive tokens, Σ|A∩B| / Σ|A∪B|; ``None`` without pairs or active neurons."""
        if self.both is None or self.either is None or not self.either:
            return None
        return int(self.both) / int(self.either)

    @reading(
        "tokens routed to an expert / tokens of its layer",
        note="how evenly the router works; the sum over experts is the number of experts for each token. "
        "`routed_share` × `activation_ratio` is an expert's density over all tokens",
        column=float,
    )
    def routed_share(self) -> float | None:
        """Share of its layer's tokens that were routed to an expert; ``None`` for other sites."""
        return self.tokens / self.passed if self.passed else None

    @reading(
        "blocks of 16, 64, 256 successive neurons without an active one / blocks",
        note="what hardware that skips blocks could skip, in the order that the neurons have",
    )
    def idle_block_ratio(self) -> Tensor | None:
        """For each of ``BLOCKS``, the share of blocks without an active neuron, float64."""
        if self.idle_blocks is None:
            return None
        blocks = torch.tensor([-(-self.width // block) for block in BLOCKS])
        return self.idle_blocks.double() / (blocks * self.tokens)

    @reading(
        "1 − 0.05^(1/T) ≈ 3/T",
        note="with 95% confidence, a dead neuron is active on less than this share of tokens",
    )
    def rule_of_three(self) -> float:
        """With 95% confidence, a dead neuron is active on less than this share of tokens, 1 − 0.05^(1/T) ≈ 3/T.

        The exact form of the "rule of three" (Hanley & Lippman-Hand, JAMA 249, 1983).
        """
        return 1 - 0.05 ** (1 / self.tokens) if self.tokens else 1.0
