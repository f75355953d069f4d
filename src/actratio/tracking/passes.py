"""Which forward passes of a model belong to its training, and which of their tokens are counted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from actratio.sites.tokens import checked_mask
from actratio.tracking.hooks import Hook

IGNORED_LABEL = -100
"""The label of tokens that have no loss, as in ``torch.nn.CrossEntropyLoss``."""


class TrainingPasses:
    """Follows the forward passes of a model, in eager mode or while ``torch.compile`` traces them.

    A forward pass belongs to the training if gradients are enabled and the model is in training mode.

    Attributes:
        is_open: whether such a pass is running now. It is not while checkpointing computes activations a second time.
        has_run: whether one ran since ``forget``.
        was_seen: whether any pass with gradients was seen.
        evaluated_with_gradients: whether a pass in evaluation mode had gradients since ``forget``.
        rows: bool, the tokens to count of the pass that is running; ``None`` for all of them.
        decoder_rows: the same for the decoder of an encoder-decoder.
        on_end: called when a pass ends in eager mode, with whether it succeeded.
    """

    def __init__(self, model: nn.Module) -> None:
        """Prepare to follow the passes of a model."""
        self.is_open = False
        self.has_run = False
        self.was_seen = False
        self.evaluated_with_gradients = False
        self.rows: Tensor | None = None
        self.decoder_rows: Tensor | None = None
        self.on_end: Callable[[bool], None] = lambda succeeded: None
        self._model = model
        self._positions = {name: number for number, name in enumerate(inspect.signature(model.forward).parameters)}
        self._has_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))

    def forget(self) -> None:
        """Forget the passes so far."""
        self.has_run = False
        self.evaluated_with_gradients = False

    def register(self) -> list[Any]:
        """Register the hooks, and return their handles."""
        return [
            self._model.register_forward_pre_hook(_Begin(self), with_kwargs=True),
            self._model.register_forward_hook(_End(self), always_call=True),
        ]

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note that a pass of a module begins, if the module is the model."""
        if module is self._model:
            self._begin(args, kwargs)

    def end(self, module: nn.Module, succeeded: bool) -> None:
        """Note that a pass of a module has ended, if the module is the model."""
        if module is not self._model:
            return
        self.is_open = False
        self.rows = None
        self.decoder_rows = None
        if not torch.compiler.is_compiling():
            self.on_end(succeeded)

    def _begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not torch.is_grad_enabled():
            self.is_open = False
            return
        self.was_seen = True
        if not self._model.training:
            self.is_open = False
            self.evaluated_with_gradients = True
            return
        self.has_run = True
        self.is_open = True
        labels = self._argument("labels", args, kwargs)
        mask = self._argument("attention_mask", args, kwargs)
        if self._has_decoder:
            self.rows = kept(mask, None)
            self.decoder_rows = kept(self._argument("decoder_attention_mask", args, kwargs), labels)
        else:
            read = self._argument("input_ids", args, kwargs)
            if read is None and args and isinstance(args[0], Tensor):
                read = args[0]
            is_of_tokens = labels is not None and read is not None and labels.shape == read.shape[:2]
            self.rows = kept(mask, labels if is_of_tokens else None)

    def _argument(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        position = self._positions.get(name)
        value = args[position] if position is not None and position < len(args) else kwargs.get(name)
        return value if isinstance(value, Tensor) else None


class _Begin(Hook):
    def __init__(self, passes: TrainingPasses) -> None:
        self._passes = passes

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._passes.begin(module, args, kwargs)


class _End(Hook):
    def __init__(self, passes: TrainingPasses) -> None:
        self._passes = passes

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # PyTorch gives the hooks of a failed pass None; the compiler doesn't follow such a pass.
        self._passes.end(module, torch.compiler.is_compiling() or output is not None)


def kept(mask: Tensor | None, labels: Tensor | None) -> Tensor | None:
    """Return which tokens to count: those that are neither padding nor without a loss.

    Args:
        mask: (batch, tokens), 1 for a token and 0 for padding, or an attention mask with more dimensions.
        labels: (batch, tokens), ``IGNORED_LABEL`` for tokens without a loss.

    Returns:
        bool, (batch, tokens), or ``None`` for all tokens.

    Raises:
        SiteError: the mask doesn't say which tokens are padding.
    """
    present = None if mask is None else checked_mask(mask, "attention_mask")
    if present is not None:
        present = present != 0
    if labels is None:
        return present
    return labels != IGNORED_LABEL if present is None else present & (labels != IGNORED_LABEL)
