"""Which rows of an activation are which tokens: padding, first tokens, and where sequences begin."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actratio.errors import SiteError

_OTHERS = ("pixel_values", "pixel_values_videos", "input_features", "input_values")
"""Arguments of models that read images or sound beside text."""


@dataclass(frozen=True)
class Rows:
    """Rows to count, in the order of their sequences.

    Attributes:
        index: which rows of the activation, or ``None`` for all in their order.
        lengths: how many of them each sequence has.
        first: bool, on the CPU, which of them are first tokens, or ``None`` where that means nothing.
    """

    index: Tensor | None
    lengths: list[int]
    first: Tensor | None


@dataclass(frozen=True)
class Tokens:
    """The tokens of one forward pass.

    Attributes:
        batch, length: sequences, and tokens of each with padding.
        keep: bool, (batch, length), what is no padding; ``None`` where all is kept.
        continued: the pass goes on with sequences whose first tokens came before (a decoding step).
        firsts: bool, (batch, length), on the CPU, the first tokens, of a part of the pass.
        others: the model reads something else too (images, sound), whose rows are no tokens.
    """

    batch: int
    length: int
    keep: Tensor | None
    continued: bool = False
    firsts: Tensor | None = None
    others: bool = False

    @classmethod
    def of(cls, arguments: Mapping[str, Any], prefix: str = "") -> Tokens | None:
        """From a model's arguments by name; ``None`` if none of them is a sequence of tokens.

        Args:
            prefix: ``"decoder_"`` for the decoder's.
        """
        given = arguments.get(f"{prefix}attention_mask")
        past = _cached(arguments.get("past_key_values"))
        mask = _checked(given, f"{prefix}attention_mask", past) if isinstance(given, Tensor) else None
        names = (f"{prefix}input_ids", f"{prefix}inputs_embeds", *["labels"] * bool(prefix))
        read = (arguments.get(name) for name in names)
        ids = next((each for each in read if isinstance(each, Tensor) and each.ndim >= 2), None)
        # Without text, a mask still says that something is padded.
        like = ids if ids is not None or prefix else mask
        if like is None:
            return None
        batch, length = like.shape[:2]
        keep = None
        if mask is not None and len(mask) == batch and mask.shape[1] >= length:
            keep = mask[:, -length:].bool()  # with a cache, the mask covers what came before too
            keep = None if bool(keep.all()) else keep
        others = ids is not None and any(name in arguments for name in _OTHERS)
        return cls(batch, length, keep, past > 0, others=others)

    @property
    def kept(self) -> int:
        """How many tokens are no padding."""
        return self.batch * self.length if self.keep is None else int(self.keep.sum())

    def part(self, start: int, stop: int) -> Tokens:
        """Some successive tokens of each sequence."""
        keep = None if self.keep is None else self.keep[:, start:stop]
        return Tokens(self.batch, stop - start, keep, self.continued, self.first()[:, start:stop], self.others)

    def first(self) -> Tensor:
        """Bool, (batch, length), on the CPU: the first token of each sequence that is no padding."""
        if self.firsts is not None:
            return self.firsts
        if self.continued:
            return torch.zeros(self.batch, self.length, dtype=torch.bool)
        if self.keep is None:
            return (torch.arange(self.length) == 0).expand(self.batch, self.length)
        return (self.keep & (self.keep.cumsum(1) == 1)).cpu()


def is_turned(shape: torch.Size, tokens: Tokens | None) -> bool:
    """Whether an activation is (tokens, sequences, width): it cannot be seen where there are as many of both."""
    return (
        tokens is not None and len(shape) > 2 and shape[0] == tokens.length != tokens.batch and shape[1] == tokens.batch
    )


def _checked(mask: Tensor, name: str, past: int) -> Tensor | None:
    if mask.ndim > 2 and _pads_nothing(mask, past):
        return None
    if mask.ndim != 2 or (mask.is_floating_point() and bool(((mask != 0) & (mask != 1)).any())):
        what = f"has the shape {tuple(mask.shape)}" if mask.ndim != 2 else "holds other numbers than 0 and 1"
        raise SiteError(
            f"{name} {what}, so it does not say which tokens are padding; give (batch, tokens) with 1 for a token and 0 "
            "for padding"
        )
    return mask


def _pads_nothing(mask: Tensor, past: int) -> bool:
    """Whether the last query of each sequence attends to all that came before it and to itself.

    Args:
        mask: (batch, …, queries, keys), bool, or added to the scores.
    """
    attends = mask if mask.dtype == torch.bool else mask == 0
    return bool((attends[..., -1, :].sum(-1) == past + mask.shape[-2]).all())


def rows_of(shape: torch.Size, tokens: Tokens | None, where: str, turned: bool = False) -> Rows:
    """The rows of an activation of this shape, whose last axis is the neurons', read in order.

    Args:
        turned: whether it is (tokens, sequences, width) where that cannot be seen.

    Raises:
        SiteError: some tokens are padding, but the rows are not the tokens.
    """
    rows = shape[:-1].numel()
    if tokens is not None and rows == tokens.batch * tokens.length:
        first = tokens.first()
        turned = is_turned(shape, tokens) or (turned and shape[0] == tokens.length == tokens.batch)
        if tokens.keep is None and not turned:
            return Rows(None, [tokens.length] * tokens.batch, first.flatten())
        keep = tokens.keep if tokens.keep is not None else torch.ones_like(first)
        index = keep.flatten().nonzero().flatten()
        first = first.flatten()[index.cpu()]
        if turned:  # (length, batch, width): the rows of a sequence lie apart
            index = index % tokens.length * tokens.batch + index // tokens.length
        return Rows(index, keep.sum(1).tolist(), first)
    if tokens is not None and tokens.keep is not None and not tokens.others:
        raise SiteError(
            f"{where} has {rows} rows for {tokens.batch} × {tokens.length} tokens, some of which are padding; "
            "it cannot be told which rows are: measure it without padding"
        )
    if len(shape) < 3:
        return Rows(None, [rows], None)
    length = shape[-2]
    return Rows(None, [length] * (rows // length), (torch.arange(length) == 0).repeat(rows // length))


def routed_rows(which: Tensor, tokens: Tokens | None) -> Rows:
    """The rows of an activation whose rows are the tokens ``which`` (rows,), as a router's dispatch gives them."""
    if tokens is None:
        return Rows(None, [len(which)], None)
    order = which.argsort(stable=True)
    if tokens.keep is not None:
        order = order[tokens.keep.flatten().to(which.device)[which[order]]]
    chosen = which[order]
    lengths = torch.bincount(chosen // tokens.length, minlength=tokens.batch).tolist()
    return Rows(order, lengths, tokens.first().flatten()[chosen.cpu()])


def arguments_of(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments by name."""
    try:
        bound = inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return dict(kwargs)
    extra = bound.pop("kwargs", {})
    return {**bound, **(extra if isinstance(extra, Mapping) else {})}


def _cached(past: Any) -> int:
    """How many tokens a cache holds."""
    length = getattr(past, "get_seq_length", None)
    if length is None:
        return 0
    try:
        return int(length())
    except ValueError:  # a cache of recurrent states alone, which counts no tokens
        return int(getattr(past, "has_previous_state", lambda: False)())
