"""Load models of transformers."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actratio.devices import device_named
from actratio.errors import ModelError, short_message
from actratio.models.hub import check_hub
from actratio.models.source import INT8_FILE, ModelSource, find_source
from actratio.models.tokenizer import load_tokenizer
from actratio.models.transformers_library import import_transformers
from actratio.models.trust import check_index, check_kernels, code_needed, needs_code
from actratio.models.weights import stored_weights, unreadable
from actratio.sites import device_of

DTYPES = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Dtypes by torch's names and by short ones; ``auto`` is the dtype in which the weights were saved."""


MAX_LAYERS = 10_000
"""Most layers of a model that is loaded; the modules of more would take minutes to build."""


_MOST_MISSING = 2
"""Most weights of a model for each in its GGUF file; some are stored once and used twice."""


def check_dtype(name: str) -> None:
    """Raise a clear error if there is no dtype of this name.

    Raises:
        ModelError: ``name`` is not a key of ``DTYPES``.
    """
    if name not in DTYPES:
        raise ModelError(f"there is no dtype {name!r}; use one of {', '.join(DTYPES)}")


def check_model(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> None:
    """Check that a model is there, with a configuration and a tokenizer that can be read, without loading its weights.

    Raises:
        ModelError: it isn't, or transformers isn't installed.
    """
    transformers = import_transformers()
    source = find_source(name, revision)
    check_hub(source)
    if source.gguf_path is not None:
        stored_weights(source.gguf_path)
    _check_has_model(source)
    try:
        config = transformers.AutoConfig.from_pretrained(
            source.place, trust_remote_code=trust_remote_code, **source.options
        )
        _check_layers(name, config)
    except ModelError:
        raise
    except Exception as error:  # transformers and the hub's client raise many types of exceptions
        if source.gguf_file is not None:
            raise unreadable(source, error) from None
        raise ModelError(_explain(source, error, trust_remote_code)) from None
    load_tokenizer(name, revision=revision, trust_remote_code=trust_remote_code)


def _check_has_model(source: ModelSource) -> None:
    """Raise an error if a folder has no configuration of a model, or weights that transformers can't read."""
    folder = Path(source.place)
    if source.gguf_file is None and folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(
            f"{source.name} holds no model: it has no config.json and no GGUF file; pass a folder that save_pretrained wrote"
        )
    if (folder / INT8_FILE).is_file():
        raise ModelError(
            f"{source.name} has 8-bit weights, which actratio.sparse.load_sparse reads; give the model that they were made from"
        )


def load_model(
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> nn.Module:
    """Load a model in evaluation mode, with the class that it was saved from.

    Args:
        name: a folder, a GGUF file, a hub id (``owner/name``) or a key of ``SHORT_NAMES``. A folder with one GGUF file and no
            safetensors is that file. GGUF files are dequantised.
        dtype: a key of ``DTYPES``; ``auto`` is float32 for a GGUF file.
        device: ``auto``, ``cpu``, ``cuda`` or another device name of PyTorch.
        device_map: passed to transformers, to split the model over several devices; overrides ``device``.
        revision: branch, tag or commit of a hub model.
        trust_remote_code: run Python code that comes with the model, or that its configuration names.
        allow_pickle: also load weights that are not in safetensors, with ``torch.load(weights_only=True)``, which executes no code
            but has been broken in the past. The packages of ``SHORT_NAMES`` don't need it.

    Raises:
        ModelError: transformers or gguf is not installed, the dtype is unknown, the model does not exist or is incomplete, its
            weights have another format, or they don't fit in the free memory of the device.
        ActratioError: the device is unknown or not available.
    """
    check_dtype(dtype)
    target = device_named(device)
    transformers = import_transformers()
    source = find_source(name, revision)
    check_hub(source)
    if source.gguf_path is not None:
        stored_weights(source.gguf_path)  # a clear error if the file is damaged
    _check_has_model(source)
    allow_pickle = allow_pickle or source.has_pickle
    check_index(source)
    try:
        config = transformers.AutoConfig.from_pretrained(
            source.place, trust_remote_code=trust_remote_code, **source.options
        )
        _check_layers(name, config)
        if not trust_remote_code:
            check_kernels(name, config)
        model_class = _model_class(transformers, config)
        empty = _build_without_weights(model_class, config)
        _check_size(source, empty)
        if device_map is None:
            _check_memory(name, empty, _dtype_in_memory(source, dtype), target)
        model, info = _from_pretrained(
            model_class,
            source,
            config=config,
            dtype=_dtype_in_memory(source, dtype),
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            use_safetensors=None if allow_pickle else True,
            output_loading_info=True,
        )
        _check_complete(name, info["missing_keys"])
    except ModelError:
        raise
    except Exception as error:  # transformers and the hub's client raise many types of exceptions
        if source.gguf_file is not None:
            raise unreadable(source, error) from None
        if not allow_pickle and "safetensors" in str(error):
            raise ModelError(
                f"{name} has no weights in safetensors, which cannot execute code; pass --allow-pickle to load other formats"
            ) from None
        raise ModelError(_explain(source, error, trust_remote_code)) from None
    if device_map is None:
        model = model.to(target)
    loaded: nn.Module = model.eval()
    return loaded


def model_from_tensors(
    folder: Path, tensors: dict[str, Tensor], *, dtype: str = "auto", device: str = "auto"
) -> nn.Module:
    """Build the model of a folder's configuration with the given weights, in evaluation mode.

    Args:
        tensors: by the names of the model's ``state_dict``; tied ones may be missing.
        dtype: a key of ``DTYPES``; ``auto`` is the configuration's.
        device: as for ``load_model``.

    Raises:
        ModelError: transformers is not installed, or the configuration can't be read or has other weights.
        ActratioError: the device is unknown or not available.
    """
    check_dtype(dtype)
    target = device_named(device)
    transformers = import_transformers()
    source = find_source(str(folder), None)
    try:
        config = transformers.AutoConfig.from_pretrained(source.place)
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # the tensors are plain weights
        _check_layers(source.name, config)
        kind = _model_class(transformers, config)
        wanted = (getattr(config, "dtype", None) or torch.float32) if dtype == "auto" else DTYPES[dtype]
        model, info = kind.from_pretrained(
            None, config=config, state_dict=tensors, dtype=wanted, output_loading_info=True
        )
        _check_complete(source.name, info["missing_keys"])
    except ModelError:
        raise
    except Exception as error:  # transformers raises many types of exceptions
        raise ModelError(_explain(source, error, False)) from None
    loaded: nn.Module = _named(model, source).to(target).eval()
    return loaded


def _dtype_in_memory(source: ModelSource, dtype: str) -> Any:
    """Return the dtype of the loaded weights; those of a GGUF file are dequantised to float32 unless another is asked for."""
    return torch.float32 if source.gguf_file is not None and dtype == "auto" else DTYPES[dtype]


def _from_pretrained(model_class: Any, source: ModelSource, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Load the model and the lists of missing weights. A GGUF file becomes a dense model like any other."""
    if source.gguf_file is None:
        dense, info = model_class.from_pretrained(source.place, weights_only=True, **source.options, **options)
        return _named(dense, source), info
    import transformers

    del options["use_safetensors"]
    keep_no_blocks = getattr(transformers, "GgufConfig", None)  # older versions always dequantise
    if keep_no_blocks is not None:
        options["quantization_config"] = keep_no_blocks(dequantize=True)
    with redirect_stderr(io.StringIO()):  # a progress bar that no setting turns off
        model, info = model_class.from_pretrained(source.place, **source.options, **options)
    # What is loaded are plain weights, which can be saved, pruned and rounded.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for attribute in ("hf_quantizer", "quantization_method", "is_quantized"):
        if attribute in vars(model):
            delattr(model, attribute)
    return _named(model, source), info


def _named(model: Any, source: ModelSource) -> Any:
    """Return the model, with the name by which it was asked for."""
    model.name_or_path = model.config.name_or_path = source.name
    return model


def with_decoder_inputs(model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Yield batches with ``decoder_input_ids`` added if the model is an encoder-decoder.

    The decoder gets the encoder's tokens, shifted by one position as in training. Batches for other models don't change.

    Args:
        model: the model.
        batches: dicts with ``input_ids`` and, optionally, ``attention_mask``, shape (batch, length).
    """
    config: Any = getattr(model, "config", None)
    shift: Any = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    for batch in batches:
        if not getattr(config, "is_encoder_decoder", False) or shift is None:
            yield batch
            continue
        decoder_inputs = {"decoder_input_ids": shift(labels=batch["input_ids"].to(device_of(model)))}
        if "attention_mask" in batch:
            decoder_inputs["decoder_attention_mask"] = batch["attention_mask"]
        yield {**batch, **decoder_inputs}


def _model_class(transformers: Any, config: Any) -> Any:
    """Return the class that the model was saved from, else ``AutoModelForCausalLM``, else ``AutoModel``."""
    for architecture in config.architectures or ():
        model_class = getattr(transformers, architecture, None)
        if model_class is not None:
            return model_class
    if type(config) in transformers.AutoModelForCausalLM._model_mapping or hasattr(config, "auto_map"):
        return transformers.AutoModelForCausalLM
    return transformers.AutoModel


def _check_layers(name: str, config: Any) -> None:
    """Raise an error if a configuration has so many layers that building them would take minutes."""
    for part in (config, config.get_text_config()):
        layers = getattr(part, "num_hidden_layers", None)
        if isinstance(layers, int) and layers > MAX_LAYERS:
            raise ModelError(
                f"the configuration of {name} has {layers:,} layers, but at most {MAX_LAYERS:,} are read; check config.json"
            )


def _build_without_weights(model_class: Any, config: Any) -> nn.Module | None:
    """Build the model on the meta device, without memory for its weights; return ``None`` if that fails."""
    build = model_class.from_config if hasattr(model_class, "_model_mapping") else model_class
    try:
        with torch.device("meta"):
            model: nn.Module = build(config)
    except Exception:  # loading the model will raise a clearer error
        return None
    return model


def _check_complete(name: str, missing: Iterable[str]) -> None:
    """Raise an error if weights of a layer or an embedding are missing, because they would be random. A new head is fine."""
    missing_inside = sorted(key for key in missing if re.search(r"\.\d+\.|embed", key))
    if missing_inside:
        others = f" and {len(missing_inside) - 1} others" if len(missing_inside) > 1 else ""
        raise ModelError(
            f"{name} has no weights for {missing_inside[0]}{others}; pass a complete model, saved with save_pretrained"
        )


def _check_size(source: ModelSource, model: nn.Module | None) -> None:
    """Raise an error if a GGUF file has far fewer weights than its configuration says, before memory is filled with random ones."""
    if source.gguf_path is None or model is None:
        return
    stored = stored_weights(source.gguf_path).parameters
    needed = sum(parameter.numel() for parameter in model.parameters())
    if needed > _MOST_MISSING * stored:
        raise ModelError(
            f"{source.name} describes a model of {needed:,} weights, and has {stored:,}; download it again, or pass another model"
        )


def _check_memory(name: str, model: nn.Module | None, dtype: Any, device: torch.device) -> None:
    """Raise an error if the weights of ``model`` need more than the free memory of the device."""
    import psutil

    if model is None:
        return
    saved_dtype = getattr(model.config, "dtype", None) or torch.float32
    size = (saved_dtype if dtype == "auto" else dtype).itemsize
    needed = sum(parameter.numel() for parameter in model.parameters()) * size
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise ModelError(
            f"{name} has {needed / 1e9:.3g} GB of weights but {device} has {free / 1e9:.3g} GB of free memory; "
            "use --dtype bf16 to load smaller weights, or --device-map auto to split the model over devices"
        )


def _explain(source: ModelSource, error: Exception, trust_remote_code: bool) -> str:
    """Return an error message for an exception that was raised while loading a model from a folder or the hub."""
    name = source.name
    if not trust_remote_code and needs_code(error):
        return code_needed(name)
    kind = "folder" if Path(name).is_dir() else "hub model"
    return (
        f"the {kind} {name} could not be loaded ({type(error).__name__}: {short_message(error)}); "
        "pass a model that transformers loads"
    )
