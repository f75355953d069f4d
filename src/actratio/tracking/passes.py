"""Which forward passes of a model belong to its training, and which of their tokens are counted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from actratio.hooks import Hook
from actratio.sites.tokens import checked_mask, mask_in

IGNORED_LABEL = -100
"""The label of tokens that have no loss, as in ``torch.nn.CrossEntropyLoss``."""


class TrainingPasses:
    """Follows the forward passes of a model, in eager mode or while ``torch.compile`` traces them.

    A forward pass belongs to the training if gradients are enabled and the model is in training mode.

    Attributes:
        is_open: whether such a pass is running now. It is not while checkpointing computes activations a second time.
        tracker: kept alive as long as the model has the hooks.
        has_run: whether one ran since ``forget``.
        was_seen: whether any pass with gradients was seen.
        evaluated_with_gradients: whether a pass in evaluation mode had gradients since ``forget``.
        on_end: called when a pass ends in eager mode, with whether it succeeded.
    """

    def __init__(self, model: nn.Module) -> None:
        """Prepare to follow the passes of a model."""
        self.is_open = False
        self.tracker: Any = None
        self.has_run = False
        self.was_seen = False
        self.evaluated_with_gradients = False
        self._mask: Tensor | None = None
        self._decoder_mask: Tensor | None = None
        self._labels: Tensor | None = None
        self._read: Tensor | None = None
        self._known_rows: dict[bool, Tensor | None] = {}  # in eager mode, by whether they are the decoder's
        self.on_end: Callable[[bool], None] = lambda succeeded: None
        self._model = model
        self._positions = {name: number for number, name in enumerate(inspect.signature(model.forward).parameters)}
        self._had_no_gradients = False
        self.has_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))

    def _forget_arguments(self) -> None:
        self._mask = self._decoder_mask = self._labels = self._read = None
        if not torch.compiler.is_compiling():
            self._known_rows.clear()

    def forget(self) -> None:
        """Forget the passes so far."""
        self.has_run = False
        self.evaluated_with_gradients = False
        self._had_no_gradients = False

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
        self._forget_arguments()
        if not torch.compiler.is_compiling():
            self.on_end(succeeded)

    def _begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        is_compiling = torch.compiler.is_compiling()
        if not is_compiling and self.is_open:  # the pass before was interrupted; PyTorch calls no hooks then
            self._forget_arguments()
            self.on_end(False)
        self.is_open = False
        if not torch.is_grad_enabled():
            self._had_no_gradients = self._had_no_gradients or self._model.training
            return
        if not is_compiling and torch._C._current_graph_task_id() != -1 and not self._had_no_gradients:
            return  # checkpointing runs the pass again during the backward pass
        self.was_seen = True
        if not self._model.training:
            self.evaluated_with_gradients = True
            return
        self.has_run = True
        self.is_open = True
        # Only kept here: which tokens to count is computed when a site asks.
        padded = self._argument("src_key_padding_mask", args, kwargs)
        self._mask = mask_in(self._any_argument("attention_mask", args, kwargs), "attention_mask", padded)
        decoder_mask = "decoder_attention_mask"
        self._decoder_mask = mask_in(self._any_argument(decoder_mask, args, kwargs), decoder_mask)
        self._labels = self._argument("labels", args, kwargs)
        self._read = self._argument("input_ids", args, kwargs)
        if self._read is None:
            self._read = self._argument("inputs_embeds", args, kwargs)
        if self._read is None and args and isinstance(args[0], Tensor):
            self._read = args[0]

    def rows(self, *, of_decoder: bool, counting: Tensor) -> Tensor | None:
        """Return which tokens of the pass that runs are counted: bool, (batch, tokens), or ``None`` for all of them.

        Args:
            of_decoder: the tokens of the decoder of an encoder-decoder.
            counting: bool, (), whether the step is counted, for compiled code.

        Raises:
            SiteError: the mask doesn't say which tokens are padding.
        """
        of_decoder = of_decoder and self.has_decoder
        if torch.compiler.is_compiling():
            return self._rows(of_decoder, counting)
        if of_decoder not in self._known_rows:
            self._known_rows[of_decoder] = self._rows(of_decoder, counting)
        return self._known_rows[of_decoder]

    def _rows(self, of_decoder: bool, counting: Tensor) -> Tensor | None:
        if of_decoder:
            return kept(self._decoder_mask, self._labels, counting)
        labels, read = self._labels, self._read
        is_of_tokens = (
            not self.has_decoder and labels is not None and read is not None and labels.shape == read.shape[:2]
        )
        return kept(self._mask, labels if is_of_tokens else None, counting)

    def _argument(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        value = self._any_argument(name, args, kwargs)
        return value if isinstance(value, Tensor) else None

    def _any_argument(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        position = self._positions.get(name)
        return args[position] if position is not None and position < len(args) else kwargs.get(name)


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


def kept(mask: Tensor | None, labels: Tensor | None, counting: Tensor) -> Tensor | None:
    """Return which tokens to count: those that are neither padding nor without a loss.

    Args:
        mask: (batch, tokens), 1 for a token and 0 for padding, or an attention mask with more dimensions.
        labels: (batch, tokens), ``IGNORED_LABEL`` for tokens without a loss.
        counting: bool, (), whether the step is counted, for compiled code.

    Returns:
        bool, (batch, tokens), or ``None`` for all tokens.

    Raises:
        SiteError: the mask doesn't say which tokens are padding.
    """
    present = None
    if mask is not None and torch.compiler.is_compiling():  # its numbers can be checked only when the code runs
        is_plain = mask.ndim == 2 and not mask.is_floating_point()
        present = mask if is_plain else torch.ops.actratio.checked_rows(mask.detach(), counting)
    elif mask is not None:
        present = checked_mask(mask, "attention_mask")
    if present is not None:
        present = present != 0
    if labels is None:
        return present
    return labels != IGNORED_LABEL if present is None else present & (labels != IGNORED_LABEL)
