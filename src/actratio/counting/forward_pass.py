"""What a probe knows while one forward pass runs: made when the pass begins, and dropped when it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from actratio.counting.counts import SiteCounts
from actratio.counting.criteria import Criterion
from actratio.counting.magnitudes import Magnitudes
from actratio.errors import SiteError, plural
from actratio.sites import Group, Site
from actratio.sites.tokens import Rows, Tokens, reads_text, rows_of


class Pending(NamedTuple):
    """Counts of one call of a site, which are added to the probe's when the pass succeeds."""

    site: str
    tensor: str
    criterion: Criterion
    counts: SiteCounts
    magnitudes: Magnitudes | None


class Sampled(NamedTuple):
    """Neuron outputs of a site that must be kept; ``None`` if that isn't known.

    Attributes:
        tokens: number of tokens.
    """

    useful: int | None
    tokens: int

    def merge(self, other: Sampled) -> Sampled:
        """Return both together."""
        useful = None if self.useful is None or other.useful is None else self.useful + other.useful
        return Sampled(useful, self.tokens + other.tokens)


class ForwardPass:
    """One forward pass of a model that is being counted.

    Attributes:
        module: the module whose forward pass it is: the model, or the encoder that ``generate`` calls by itself.
        frame: Python's frame that runs the pass, which shows whether the pass still runs.
        calls: how often each group of sites ran so far.
        pending: what was counted so far.
        sampled: the useful outputs of sites that were counted so far.
    """

    def __init__(
        self,
        module: nn.Module,
        frame: FrameType,
        arguments: Mapping[str, Any],
        expected: Sequence[Sequence[Site]],
        *,
        has_decoder: bool = False,
        ignored_label: int | None = None,
    ) -> None:
        """Read the pass's tokens.

        Args:
            arguments: the arguments of the call, by name.
            expected: the groups of sites that must run.
            has_decoder: whether the model is an encoder-decoder, whose labels are the decoder's tokens.
            ignored_label: tokens with this label are left out like padding.
        """
        self.module = module
        self.frame = frame
        self.expected = expected
        self.calls: Counter[Group] = Counter()
        self.pending: list[Pending] = []
        self.sampled: dict[str, Sampled] = {}
        self._text = Tokens.of(arguments, ignored_label=ignored_label)
        has_decoder = has_decoder or arguments.get("decoder_input_ids") is not None
        self._decoder = Tokens.of(arguments, "decoder_", ignored_label=ignored_label) if has_decoder else None
        self._rows: dict[tuple[int, torch.Size, int, bool], Rows] = {}
        self._rows_seen: Counter[tuple[str, str]] = Counter()

    def tokens(self, site: Site) -> Tokens | None:
        """Return the tokens that a site sees: the decoder's, the text's, or ``None`` in a tower for images or sound."""
        if not reads_text(site.owner):
            return None
        return self._decoder if self._decoder is not None and "decoder" in site.owner else self._text

    def rows(self, x: Tensor, site: Site, tensor: str) -> Rows:
        """Return which rows of an activation are which tokens.

        Sites whose activations have one shape share the answer: making it asks a GPU for numbers, which takes time.
        """
        tokens, start = self.tokens(site), 0
        is_chunk = (
            tokens is not None
            and site.calls > 1
            and x.ndim == 3
            and len(x) == tokens.batch
            and x.shape[1] < tokens.length
        )
        part = tokens
        if tokens is not None and is_chunk:  # chunked feed-forward: some successive tokens of each sequence
            start = self._rows_seen[site.name, tensor] // tokens.batch
            if start + x.shape[1] <= tokens.length:
                part = tokens.part(start, start + x.shape[1])
        key = id(tokens), x.shape[:-1], start, site.sequence_first
        if key not in self._rows:
            self._rows[key] = rows_of(x.shape, part, site.name, site.sequence_first)
        self._rows_seen[site.name, tensor] += x.shape[:-1].numel()
        return self._rows[key]

    def check_calls(self) -> None:
        """Check that every expected site ran as often as when it was found.

        Raises:
            SiteError: a site ran another number of times.
        """
        for sites in self.expected:
            site, calls = sites[0], self.calls[sites[0].group]
            if not calls and site.role == "expert" and site.expert is None:
                continue  # no token was routed to it
            if calls != site.calls and site.down is not None and not self._saw_all_tokens(site):
                times = f"was called {plural(calls, 'time')}" if calls else "was not called"
                raise SiteError(
                    f"{site.name} {times} in a forward pass, but {plural(site.calls, 'time')} in the one that found it; "
                    "find the sites again with inputs such as these"
                )

    def _saw_all_tokens(self, site: Site) -> bool:
        """Whether each token was seen once, however many chunks the sequences were cut into."""
        tokens = self.tokens(site)
        return (
            site.calls > 1
            and tokens is not None
            and self._rows_seen[site.name, "activation"] == tokens.batch * tokens.length
        )
