"""Small parts of a batch, which are enough to find a model's sites."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from actratio.sites.tokens import arguments_of

SEQUENCES, TOKENS = 2, 11
"""Size of the smallest part.

Two sequences, because a tensor with one number for each example can't be told from others with one. Eleven tokens,
because models rarely have that many neurons, heads, experts or tokens in a chunk: a model that reads chunks of four or
eight tokens refuses eleven, and is then followed through a longer part.
"""

_TOKEN_ARGUMENTS = frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids", "labels"})


def shrink_inputs(model: nn.Module, inputs: Any, few_tokens: bool, few_sequences: bool = True) -> Iterator[Any]:
    """Yield smaller versions of a model's inputs, the smallest one first, and the inputs themselves last.

    Args:
        inputs: a tensor, a tuple of positional arguments, or a mapping of keyword arguments.
        few_tokens: whether to cut sequences of tokens too.
        few_sequences: whether to leave out sequences at all.
    """
    sequences = _few_sequences(inputs) if few_sequences else None
    if few_tokens:
        tokens = _few_tokens(model, inputs if sequences is None else sequences)
        if tokens is not None:
            yield tokens
    if sequences is not None:
        yield sequences
    yield inputs


def _few_sequences(inputs: Any) -> Any:
    """Return one or two examples of a larger batch, or ``None`` if they can't be cut out.

    There are never as many examples as tokens, because these two axes must be told apart.
    """
    named = dict(inputs) if isinstance(inputs, Mapping) else dict(enumerate(_positional(inputs)))
    tensors = [value for value in named.values() if isinstance(value, Tensor) and value.ndim]
    if not tensors or not _is_plain(named.values()) or len(tensors[0]) < 2:
        return None
    batch, second = len(tensors[0]), tensors[0].shape[1] if tensors[0].ndim > 1 else 0
    few = 1 if batch == 2 or second == 2 else SEQUENCES
    if batch == 2 and second != 2:
        return None
    cut = {
        key: value[:few] if isinstance(value, Tensor) and value.ndim and len(value) == batch else value
        for key, value in named.items()
    }
    if isinstance(inputs, Mapping):
        return cut
    return tuple(cut.values()) if isinstance(inputs, tuple | list) else cut[0]


def _few_tokens(model: nn.Module, inputs: Any) -> dict[str, Any] | None:
    """Return the first or the last tokens of each sequence as keyword arguments.

    ``None`` if the inputs are short already, or hold something else than sequences of tokens, such as images.
    """
    arguments = dict(inputs) if isinstance(inputs, Mapping) else arguments_of(model, _positional(inputs), {})
    if not _is_plain(arguments.values()):
        return None
    short = dict(arguments)
    for name, value in arguments.items():
        if not isinstance(value, Tensor) or (name == "labels" and value.ndim == 1):
            continue
        prefix = "decoder_" if name.startswith("decoder_") else ""
        if name == "labels" and "decoder_input_ids" in arguments:
            prefix = "decoder_"
        ids = arguments.get(f"{prefix}input_ids")
        of_tokens = name.removeprefix("decoder_") in _TOKEN_ARGUMENTS
        if not of_tokens or not isinstance(ids, Tensor) or ids.ndim != 2 or value.shape != ids.shape:
            return None
        short[name] = value[:, _kept_tokens(ids, arguments.get(f"{prefix}attention_mask"))]
    is_shorter = any(
        isinstance(value, Tensor) and value.shape != short[name].shape for name, value in arguments.items()
    )
    return short if is_shorter else None


def _kept_tokens(ids: Tensor, mask: Any) -> slice:
    """Return which tokens to keep: the first ones, or the last ones where the first ones are padding."""
    if isinstance(mask, Tensor) and mask.shape == ids.shape and not bool(mask[:, :TOKENS].all()):
        return slice(-TOKENS, None)
    return slice(0, TOKENS)


def _is_plain(values: Iterable[Any]) -> bool:
    """Whether there are only tensors and simple values, and no caches or other objects with tensors of their own."""
    return all(value is None or isinstance(value, Tensor | bool | int | float | str) for value in values)


def _positional(inputs: Any) -> tuple[Any, ...]:
    return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
