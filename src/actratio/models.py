"""Models of transformers' by hub id or folder, loaded without executing anything from the data."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actratio.devices import device_named
from actratio.errors import ModelError
from actratio.sites import device_of

DTYPES = {"auto": "auto", "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Names of dtypes; ``auto`` is what the weights were saved in."""


_PROBED_BYTES = 1 << 20


def load_model(
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> nn.Module:
    """Load the model that a folder or a hub id holds, with the class that it was saved from, in evaluation mode.

    Args:
        dtype: one of ``DTYPES``.
        device: ``auto``, ``cpu``, ``cuda`` or as torch has them.
        device_map: as transformers has it, to spread a model over devices; takes the place of ``device``.
        trust_remote_code: run Python that comes with the model.
        allow_pickle: load weights that are not safetensors, with ``weights_only``.

    Raises:
        ModelError: transformers is not installed, no such model, weights of another format, unknown options, more
            weights than the device has free memory.
    """
    if dtype not in DTYPES:
        raise ModelError(f"there is no dtype {dtype!r}; write one of {', '.join(DTYPES)}")
    place = device_named(device)
    transformers = _transformers()
    check_name(name)
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        kind = _class_of(transformers, config)
        if device_map is None:
            _check_memory(name, _empty(kind, config), DTYPES[dtype], place)
        model, loaded = kind.from_pretrained(
            name,
            config=config,
            dtype=DTYPES[dtype],
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            use_safetensors=None if allow_pickle else True,
            output_loading_info=True,
        )
        _check_complete(name, loaded["missing_keys"])
    except ModelError:
        raise
    except Exception as error:  # transformers and the hub's client raise many kinds
        raise ModelError(_why(name, error, allow_pickle, trust_remote_code)) from None
    if device_map is None:
        model = model.to(place)
    found: nn.Module = model.eval()
    return found


def check_name(name: str) -> None:
    """Refuse the path of a folder that is not there, which nobody else would say so plainly.

    Raises:
        ModelError: no such folder.
    """
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise ModelError(f"{name} is not a folder; give one that a model was saved to, or a hub id such as owner/name")


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer that a folder or a hub id holds.

    Raises:
        ModelError: there is none, or transformers is not installed.
    """
    transformers = _transformers()
    check_name(name)
    try:
        return transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers and the hub's client raise many kinds
        if _reads_no_text(transformers, name):
            raise ModelError(
                f"{name} reads images or sound, which this command has none of; in Python, actratio.measure takes them in batches"
            ) from None
        reason = " ".join(str(error).split())[:160]
        raise ModelError(
            f"{name} has no tokenizer that can be loaded ({type(error).__name__}: {reason}); name one with --tokenizer"
        ) from None


def _reads_no_text(transformers: Any, name: str) -> bool:
    try:
        config = transformers.AutoConfig.from_pretrained(name)
    except Exception:  # there is nothing to say about it
        return False
    kinds = [getattr(transformers, each, None) for each in config.architectures or ()]
    return any(getattr(kind, "main_input_name", "input_ids") != "input_ids" for kind in kinds)


def with_decoder_inputs(model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Batches for an encoder-decoder: its decoder reads the text that its encoder reads, one token later, as in training.

    Others read their batches as they are.
    """
    config: Any = getattr(model, "config", None)
    shifted: Any = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    for batch in batches:
        if not getattr(config, "is_encoder_decoder", False) or shifted is None:
            yield batch
            continue
        more = {"decoder_input_ids": shifted(labels=batch["input_ids"].to(device_of(model)))}
        if "attention_mask" in batch:
            more["decoder_attention_mask"] = batch["attention_mask"]
        yield {**batch, **more}


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise ModelError("models by name need the library 'transformers' (the extra 'hf'); install it") from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _class_of(transformers: Any, config: Any) -> Any:
    """The class that wrote the weights, or else the one for text that goes on."""
    for architecture in config.architectures or ():
        kind = getattr(transformers, architecture, None)
        if kind is not None:
            return kind
    if type(config) in transformers.AutoModelForCausalLM._model_mapping or hasattr(config, "auto_map"):
        return transformers.AutoModelForCausalLM
    return transformers.AutoModel


def _empty(kind: Any, config: Any) -> nn.Module | None:
    """The model without memory for its weights; ``None`` where it cannot be made so."""
    try:
        with torch.device("meta"):
            made: nn.Module = kind.from_config(config) if hasattr(kind, "_model_mapping") else kind(config)
    except Exception:  # whatever is wrong with it, loading it says so better
        return None
    return made


def _check_complete(name: str, missing: Iterable[str]) -> None:
    """A head may be new; a layer whose weights are missing would hold random numbers."""
    inside = sorted(key for key in missing if re.search(r"\.\d+\.|embed", key))
    if inside:
        more = f" and {len(inside) - 1} others" if len(inside) > 1 else ""
        raise ModelError(
            f"{name} holds no weights for {inside[0]}{more}, which would be random; give a model that is whole, saved by save_pretrained"
        )


def _check_memory(name: str, empty: nn.Module | None, dtype: Any, device: torch.device) -> None:
    import psutil

    if empty is None:
        return
    saved = getattr(empty.config, "dtype", None) or torch.float32
    size = (saved if dtype == "auto" else dtype).itemsize
    needed = sum(parameter.numel() for parameter in empty.parameters()) * size
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise ModelError(
            f"{name} has {needed / 1e9:.3g} GB of weights and {device} has {free / 1e9:.3g} GB free; "
            "load it with --dtype bf16 if it is not yet, or spread it with --device-map auto"
        )


def _why(name: str, error: Exception, allow_pickle: bool, trust_remote_code: bool) -> str:
    text = " ".join(str(error).split())
    if not trust_remote_code and "trust_remote_code" in text:
        return f"{name} comes with Python of its own, which is not run unless --trust-remote-code says so"
    if not allow_pickle and "safetensors" in text:
        return f"{name} has no weights in safetensors, the format that cannot execute anything; --allow-pickle loads others"
    return f"{name} could not be loaded ({type(error).__name__}: {text[:200]}); give a model's folder or its hub id, and check the network"


def model_fingerprint(name: str) -> str:
    """Return what identifies the model's files: 16 hexadecimal digits that change if a file of the model changes.

    For a folder, this covers the name, the size, the first and the last mebibyte of every file. For a hub id, it
    is the commit of the files in the local cache, or ``"unknown"``.

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
    transformers = _transformers()
    try:
        config = transformers.AutoConfig.from_pretrained(name)
    except Exception:  # loading the model reports what is wrong
        return "unknown"
    return str(getattr(config, "_commit_hash", None) or "unknown")[:16]
