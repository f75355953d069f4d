"""Inputs of models: their device, a small made-up input for models from transformers, and inputs without a KV cache."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from actratio.errors import SiteError

_BATCH, _TOKENS = 1, 8


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's inputs: that of its first weights or, if they are offloaded, where they will run."""
    for parameter in model.parameters():
        if parameter.device.type != "meta":
            return parameter.device
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    places = (getattr(hook, "execution_device", None) for hook in hooks)
    return torch.device(next((place for place in places if place is not None), "cpu"))


def made_up(model: nn.Module) -> dict[str, Any]:
    """Return keyword arguments for one forward pass.

    Raises:
        SiteError: the model does not say what it reads.
    """
    config, reads = getattr(model, "config", None), getattr(model, "main_input_name", None)
    if config is None or reads is None:
        raise SiteError(
            f"{type(model).__name__} does not say what it reads; give inputs, such as a tensor or a mapping of keyword arguments"
        )
    some = next(model.parameters(), torch.empty(0))
    device, dtype = device_of(model), some.dtype
    # One pass needs no cache, and some caches can't be made for models with few layers.
    inputs: dict[str, Any] = {"use_cache": False} if hasattr(config, "use_cache") else {}
    if reads == "input_ids":
        inputs["input_ids"] = _tokens(config.get_text_config(), device)
    elif reads == "pixel_values":
        sized = config if hasattr(config, "image_size") else getattr(config, "vision_config", None) or config
        inputs["pixel_values"] = _image(sized, device, dtype)
    elif reads == "input_features":
        frames = 2 * getattr(config, "max_source_positions", 50)
        inputs["input_features"] = torch.rand(_BATCH, config.num_mel_bins, frames, device=device, dtype=dtype)
    elif reads == "input_values":
        inputs["input_values"] = torch.rand(_BATCH, 4000, device=device, dtype=dtype)
    else:
        raise SiteError(f"{type(model).__name__} reads {reads!r}, which can't be made up; give inputs")
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = _tokens(config.get_text_config(decoder=True), device)
    elif reads == "input_ids" and getattr(config, "vision_config", None) is not None and hasattr(model, "vision_model"):
        inputs["pixel_values"] = _image(config.vision_config, device, dtype)
    return inputs


def without_cache(model: nn.Module, inputs: Any) -> Any:
    """Return the inputs with ``use_cache=False``, so that a model from transformers builds no KV cache.

    Inputs that set ``use_cache``, and inputs of models without this option, are returned unchanged.

    Args:
        inputs: a mapping of keyword arguments, or the first positional argument.
    """
    parameters = inspect.signature(getattr(model, "_orig_mod", model).forward).parameters
    if "use_cache" not in parameters or not hasattr(getattr(model, "config", None), "use_cache"):
        return inputs
    by_name = inputs if isinstance(inputs, Mapping) else {next(iter(parameters)): inputs}
    return {"use_cache": False, **by_name}


def with_own_cache(inputs: Any) -> Any:
    """Return the inputs with a copy of their KV cache, because a forward pass writes to it.

    Raises:
        SiteError: it can't be copied.
    """
    if not isinstance(inputs, Mapping) or inputs.get("past_key_values") is None:
        return inputs
    try:
        return {**inputs, "past_key_values": copy.deepcopy(inputs["past_key_values"])}
    except RuntimeError as error:  # torch copies no tensors that have a history
        raise SiteError(
            f"past_key_values can't be copied ({' '.join(str(error).split())}); make it under torch.no_grad()"
        ) from error


def _tokens(config: Any, device: torch.device) -> Tensor:
    """Return distinct tokens without the padding and the end token."""
    special = [getattr(config, name, None) for name in ("pad_token_id", "eos_token_id")]
    usable = [token for token in range(min(config.vocab_size, 100)) if token not in special]
    return torch.tensor([(usable * _TOKENS)[:_TOKENS]] * _BATCH, device=device)


def _image(config: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
    size = getattr(config, "image_size", 224)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    channels = getattr(config, "num_channels", 3)
    return torch.rand(_BATCH, channels, height, width, device=device, dtype=dtype)
