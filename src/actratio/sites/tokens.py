"""Which rows of an activation are which tokens: padding, first tokens, and where sequences begin."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actratio.errors import SiteError

_OTHERS = ("pixel_values", "pixel_values_videos", "input_features", "input_values")
"""Arguments of models that read images or sound in addition to text."""

_NOT_TEXT = re.compile(r"(^|[._])(vision|visual|image|audio|speech)")
"""In the path of a tower whose rows are not the tokens of the text."""


@dataclass(frozen=True)
class Rows:
    """Rows to count, in the order of their sequences.

    Attributes:
        index: which rows of the activation, or ``None`` for all of them in order.
        lengths: number of rows of each sequence.
        first: bool, on the CPU, which rows are first tokens, or ``None`` if rows have no order.
    """

    index: Tensor | None
    lengths: list[int]
    first: Tensor | None


@dataclass(frozen=True)
class Tokens:
    """The tokens of one forward pass.

    Attributes:
        batch, length: number of sequences, and of tokens of each with padding.
        keep: bool, (batch, length), false for padding; ``None`` if there is no padding.
        continued: whether the pass continues sequences whose first tokens came in an earlier one (a decoding step).
        firsts: bool, (batch, length), on the CPU, the first tokens, for a part of the pass.
        others: whether the model also reads images or sound, whose rows are not tokens.
    """

    batch: int
    length: int
    keep: Tensor | None
    continued: bool = False
    firsts: Tensor | None = None
    others: bool = False

    @classmethod
    def of(cls, arguments: Mapping[str, Any], prefix: str = "", *, ignored_label: int | None = None) -> Tokens | None:
        """Return the tokens in a model's arguments, or ``None`` if no argument is a sequence of tokens.

        Args:
            prefix: ``"decoder_"`` for the decoder's tokens.
            ignored_label: tokens with this label are left out like padding.

        Raises:
            SiteError: the attention mask doesn't say which tokens are padding.
        """
        name = f"{prefix}attention_mask"
        given = mask_in(arguments.get(name), name, None if prefix else arguments.get("src_key_padding_mask"))
        past = _cached(arguments.get("past_key_values"))
        mask = None if given is None else checked_mask(given, name, past)
        names = (f"{prefix}input_ids", f"{prefix}inputs_embeds", *["labels"] * bool(prefix))
        read = (arguments.get(name) for name in names)
        ids = next((value for value in read if isinstance(value, Tensor) and value.ndim >= 2), None)
        # Without text, a mask still says that something is padding.
        like = ids if ids is not None or prefix else mask
        if like is None:
            return None
        batch, length = like.shape[:2]
        keep = None
        if mask is not None and len(mask) == batch and mask.shape[1] >= length:
            keep = mask[:, -length:].bool()  # with a cache, the mask covers what came before too
            keep = None if bool(keep.all()) else keep
        labels = arguments.get("labels")
        if ignored_label is not None and isinstance(labels, Tensor) and labels.shape == (batch, length):
            labelled = labels != ignored_label
            if not bool(labelled.all()):
                keep = labelled if keep is None else keep & labelled
        others = ids is not None and any(name in arguments for name in _OTHERS)
        return cls(batch, length, keep, past > 0, others=others)

    @property
    def kept(self) -> int:
        """Number of tokens that are not padding."""
        return self.batch * self.length if self.keep is None else int(self.keep.sum())

    def part(self, start: int, stop: int) -> Tokens:
        """Return some successive tokens of each sequence."""
        keep = None if self.keep is None else self.keep[:, start:stop]
        return Tokens(self.batch, stop - start, keep, self.continued, self.first()[:, start:stop], self.others)

    def first(self) -> Tensor:
        """Return which tokens are the first of their sequence that is not padding: bool, (batch, length), on the CPU."""
        if self.firsts is not None:
            return self.firsts
        if self.continued:
            return torch.zeros(self.batch, self.length, dtype=torch.bool)
        if self.keep is None:
            return (torch.arange(self.length) == 0).expand(self.batch, self.length)
        return (self.keep & (self.keep.cumsum(1) == 1)).cpu()


def reads_text(owner: str) -> bool:
    """Return whether the rows of a site are tokens of the text, by the path of the module that computes it."""
    return _NOT_TEXT.search(owner) is None


def is_sequence_first(shape: torch.Size, tokens: Tokens | None) -> bool:
    """Return whether an activation is (tokens, sequences, width); ``False`` if there are as many tokens as sequences."""
    return (
        tokens is not None and len(shape) > 2 and shape[0] == tokens.length != tokens.batch and shape[1] == tokens.batch
    )


def mask_in(given: Any, name: str, padded: Any = None) -> Tensor | None:
    """Return the attention mask in a model's arguments, of which only ``checked_mask`` knows whether it says what is padding.

    Args:
        given: the argument: a tensor, or a mask for each kind of attention, as transformers makes them. Of those, the one for
            attention to all earlier tokens is returned.
        name: the argument's name, for errors.
        padded: ``src_key_padding_mask``, (batch, tokens), which is true, or minus infinity, for padding.

    Raises:
        SiteError: the argument is something else.
    """
    if isinstance(given, Mapping):
        masks = [mask for mask in given.values() if mask is not None]
        given = given.get("full_attention", masks[0] if masks else None)
    if given is None and isinstance(padded, Tensor) and padded.ndim == 2:
        return padded == 0
    if given is None or isinstance(given, Tensor):
        return given
    raise SiteError(
        f"{name} is a {type(given).__name__}, so it does not say which tokens are padding; give a tensor (batch, tokens) with 1 "
        "for a token and 0 for padding"
    )


def checked_mask(mask: Tensor, name: str, past: int = 0) -> Tensor | None:
    """Return a mask (batch, tokens) that says which tokens are padding, or ``None`` if a larger mask pads nothing.

    Args:
        name: the argument's name, for errors.
        past: how many tokens a cache holds.

    Raises:
        SiteError: the mask doesn't say which tokens are padding.
    """
    if mask.ndim > 2 and _pads_nothing(mask, past):
        return None
    if mask.ndim != 2 or (mask.is_floating_point() and bool(((mask != 0) & (mask != 1)).any())):
        what = f"has the shape {tuple(mask.shape)}" if mask.ndim != 2 else "has numbers other than 0 and 1"
        static = ". generate makes larger masks for a static cache; use a dynamic one" if mask.ndim > 2 else ""
        raise SiteError(
            f"{name} {what}, so it does not say which tokens are padding; give (batch, tokens) with 1 for a token and 0 "
            f"for padding{static}"
        )
    return mask


def _pads_nothing(mask: Tensor, past: int) -> bool:
    """Return whether the last query of each sequence attends to itself and to everything before it.

    Args:
        mask: (batch, …, queries, keys), bool, or added to the scores.
    """
    attends = mask if mask.dtype == torch.bool else mask == 0
    return bool((attends[..., -1, :].sum(-1) == past + mask.shape[-2]).all())


def rows_of(shape: torch.Size, tokens: Tokens | None, where: str, sequence_first: bool = False) -> Rows:
    """Return which rows of an activation are which tokens.

    Args:
        shape: the activation's; its last axis is the neurons'.
        where: the site's name, for errors.
        sequence_first: whether it is (tokens, sequences, width), where the shape doesn't tell.

    Raises:
        SiteError: some tokens are padding, and the rows are not the tokens.
    """
    rows = shape[:-1].numel()
    if tokens is not None and rows == tokens.batch * tokens.length:
        first = tokens.first()
        sequence_first = is_sequence_first(shape, tokens) or (
            sequence_first and shape[0] == tokens.length == tokens.batch
        )
        if tokens.keep is None and not sequence_first:
            return Rows(None, [tokens.length] * tokens.batch, first.flatten())
        keep = tokens.keep if tokens.keep is not None else torch.ones_like(first)
        index = keep.flatten().nonzero().flatten()
        first = first.flatten()[index.cpu()]
        if sequence_first:  # the rows of a sequence lie apart
            index = index % tokens.length * tokens.batch + index // tokens.length
        return Rows(index, keep.sum(1).tolist(), first)
    if tokens is not None and tokens.keep is not None and not tokens.others:
        raise SiteError(
            f"{where} has {rows} rows for {tokens.batch} × {tokens.length} tokens, and some tokens are padding; "
            "the rows that are padding can't be found, so measure without padding"
        )
    if len(shape) < 3:
        return Rows(None, [rows], None)
    length = shape[-2]
    if not rows:
        return Rows(None, [], torch.zeros(0, dtype=torch.bool))
    return Rows(None, [length] * (rows // length), (torch.arange(length) == 0).repeat(rows // length))


def routed_rows(which: Tensor, tokens: Tokens | None) -> Rows:
    """Return the rows of an expert's activation in the order of their tokens, where ``which`` (rows,) are the tokens."""
    if tokens is None:
        return Rows(None, [len(which)], None)
    order = which.argsort(stable=True)
    if tokens.keep is not None:
        order = order[tokens.keep.flatten().to(which.device)[which[order]]]
    chosen = which[order]
    lengths = torch.bincount(chosen // tokens.length, minlength=tokens.batch).tolist()
    return Rows(order, lengths, tokens.first().flatten()[chosen.cpu()])


def arguments_of(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name."""
    try:
        bound = inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return dict(kwargs)
    extra = bound.pop("kwargs", {})
    return {**bound, **(extra if isinstance(extra, Mapping) else {})}


def _cached(past: Any) -> int:
    """Return how many tokens a cache holds."""
    length = getattr(past, "get_seq_length", None)
    if length is None:
        return 0
    try:
        return int(length())
    except ValueError:  # a cache of recurrent states only, which counts no tokens
        return int(getattr(past, "has_previous_state", lambda: False)())
