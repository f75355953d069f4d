"""Load models of transformers by hub id or folder, without executing code that comes with them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actratio.devices import device_named
from actratio.errors import ModelError, short
from actratio.sites import device_of

DTYPES = {"auto": "auto", "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Dtypes by name; ``auto`` is the dtype in which the weights were saved."""

_PROBED_BYTES = 1 << 20  # bytes at each end of a file that the fingerprint covers
_MAX_REASON_SHOWN = 200  # characters of another library's message that an error message shows


def load_model(
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> nn.Module:
    """Load a model in evaluation mode, with the class that it was saved from.

    Args:
        name: a folder or a hub id, ``owner/name``.
        dtype: a key of ``DTYPES``.
        device: ``auto``, ``cpu``, ``cuda`` or another device name of PyTorch.
        device_map: passed to transformers, to split the model over several devices; overrides ``device``.
        trust_remote_code: run Python code that comes with the model.
        allow_pickle: also load weights that are not in safetensors, with ``weights_only``.

    Raises:
        ModelError: transformers is not installed, the dtype is unknown, the model does not exist or is incomplete, its
            weights have another format, or they don't fit in the free memory of the device.
        ActratioError: the device is unknown or not available.
    """
    if dtype not in DTYPES:
        raise ModelError(f"there is no dtype {dtype!r}; use one of {', '.join(DTYPES)}")
    target = device_named(device)
    transformers = _transformers()
    check_name(name)
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        model_class = _model_class(transformers, config)
        if device_map is None:
            _check_memory(name, _build_without_weights(model_class, config), DTYPES[dtype], target)
        model, info = model_class.from_pretrained(
            name,
            config=config,
            dtype=DTYPES[dtype],
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            use_safetensors=None if allow_pickle else True,
            output_loading_info=True,
        )
        _check_complete(name, info["missing_keys"])
    except ModelError:
        raise
    except Exception as error:  # transformers and the hub's client raise many types of exceptions
        raise ModelError(_explain(name, error, allow_pickle, trust_remote_code)) from None
    if device_map is None:
        model = model.to(target)
    loaded: nn.Module = model.eval()
    return loaded


def check_name(name: str) -> None:
    """Raise a clear error if a local model path does not exist.

    Raises:
        ModelError: ``name`` starts like a path (``.``, ``/`` or ``~``), and the folder does not exist.
    """
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise ModelError(f"{name} is not a folder; pass a folder with a saved model, or a hub id such as owner/name")


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a folder or a hub id.

    Raises:
        ModelError: there is no tokenizer, or transformers is not installed.
    """
    transformers = _transformers()
    check_name(name)
    try:
        return transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers and the hub's client raise many types of exceptions
        if _reads_no_text(transformers, name):
            raise ModelError(
                f"{name} reads images or sound, but this command reads only text; "
                "use actratio.measure in Python with batches of its inputs"
            ) from None
        raise ModelError(
            f"the tokenizer of {name} could not be loaded ({type(error).__name__}: {short(error, _MAX_REASON_SHOWN)}); "
            "name another with --tokenizer"
        ) from None


def _reads_no_text(transformers: Any, name: str) -> bool:
    """Return whether the main input of the model is not text; ``False`` if that is unknown."""
    try:
        config = transformers.AutoConfig.from_pretrained(name)
    except Exception:  # transformers and the hub's client raise many types of exceptions
        return False
    classes = [getattr(transformers, architecture, None) for architecture in config.architectures or ()]
    return any(getattr(model_class, "main_input_name", "input_ids") != "input_ids" for model_class in classes)


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


def _transformers() -> Any:
    """Import transformers, and turn off its log messages and progress bars."""
    try:
        import transformers
    except ImportError:
        raise ModelError(
            "loading a model by name needs the library 'transformers'; install actratio with the extra 'hf'"
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _model_class(transformers: Any, config: Any) -> Any:
    """Return the class that the model was saved from, else ``AutoModelForCausalLM``, else ``AutoModel``."""
    for architecture in config.architectures or ():
        model_class = getattr(transformers, architecture, None)
        if model_class is not None:
            return model_class
    if type(config) in transformers.AutoModelForCausalLM._model_mapping or hasattr(config, "auto_map"):
        return transformers.AutoModelForCausalLM
    return transformers.AutoModel


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


def _explain(name: str, error: Exception, allow_pickle: bool, trust_remote_code: bool) -> str:
    """Return an error message for an exception that was raised while loading a model."""
    if not trust_remote_code and "trust_remote_code" in str(error):
        return f"{name} needs Python code that comes with it; if you trust it, pass --trust-remote-code to run it"
    if not allow_pickle and "safetensors" in str(error):
        return f"{name} has no weights in safetensors, which cannot execute code; pass --allow-pickle to load other formats"
    what = name if Path(name).is_dir() else f"there is no folder {name}, and a hub model of that name"
    return (
        f"{what} could not be loaded ({type(error).__name__}: {short(error, _MAX_REASON_SHOWN)}); "
        "check the folder or the hub id, and the network"
    )


def model_fingerprint(name: str) -> str:
    """Return 16 hexadecimal digits that change if a file of the model changes.

    For a folder, they cover the name, the size, and the first and last mebibyte of every file. For a hub id, they are
    the start of the commit in the local cache, or ``"unknown"``.

    Raises:
        ModelError: the folder does not exist.
    """
    check_name(name)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return _cached_commit(name)
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(_PROBED_BYTES))
            file.seek(max(0, size - _PROBED_BYTES))
            digest.update(file.read(_PROBED_BYTES))
    return digest.hexdigest()[:16]


def _cached_commit(name: str) -> str:
    """Return the start of the commit of a hub id, or ``"unknown"``."""
    transformers = _transformers()
    try:
        config = transformers.AutoConfig.from_pretrained(name)
    except Exception:  # loading the model reports what is wrong
        return "unknown"
    return str(getattr(config, "_commit_hash", None) or "unknown")[:16]
