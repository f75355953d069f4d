"""Models with int8 weights in a folder: ``int8.safetensors`` beside the model's configuration.

The file has the model's tensors under their names. An int8 weight ``X.weight`` comes with ``X.weight_scale``, float32, one for each
output, and, if its layer has thresholds, with ``X.weight_thresholds``. The file's metadata says which axis of each weight has the
outputs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actratio.errors import ModelError, short
from actratio.models.source import INT8_FILE
from actratio.sites.mlps import resolve
from actratio.sparse.conversion import sparsify
from actratio.sparse.crossover import Crossover
from actratio.sparse.int8 import WEIGHT_SCALE, Int8Linear, output_axis
from actratio.sparse.kernels.int8_weights import dequantize
from actratio.sparse.thresholds import LayerThresholds

_WEIGHT, _THRESHOLDS = "weight", "weight_thresholds"


def save_int8(folder: Path, model: Any) -> None:
    """Write a model that ``sparsify(..., weights="int8")`` converted, without a tokenizer.

    Args:
        folder: is made if it isn't there.
    """
    from safetensors.torch import save_file

    embeddings = _shared_embeddings(model)
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in model.state_dict().items():
        is_copy = name.rpartition(".")[0] in embeddings or (tensor.data_ptr(), tensor.shape) in seen
        if not is_copy:  # transformers ties the others again
            seen.add((tensor.data_ptr(), tensor.shape))
            tensors[name] = tensor.detach().contiguous()
    axes = {}
    for name, layer in int8_layers(model).items():
        axes[name] = output_axis(layer)
        if layer._thresholds is not None:
            tensors[f"{name}.{_THRESHOLDS}"] = layer._thresholds
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures, model.config.dtype = [type(model).__name__], model.dtype  # as save_pretrained does
    model.config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    save_file(
        tensors, folder / INT8_FILE, {"format": "pt", "axes": json.dumps(axes), "embeddings": json.dumps(embeddings)}
    )


def load_int8(
    folder: Path,
    *,
    zeros: LayerThresholds | None = None,
    dtype: str = "auto",
    device: str = "auto",
    crossover: Crossover | None = None,
) -> nn.Module:
    """Load a model that ``save_int8`` wrote, with the same weights, scales and thresholds.

    Args:
        zeros: the MLPs whose zeros are skipped, if they were measured.
        dtype: of the activations and the other weights, as for ``actratio.models.load_model``.
        device: as for ``load_model``; int8 weights need a CPU.
        crossover: as for ``sparsify``.

    Raises:
        ModelError: the file is damaged, or is of another model than the configuration.
        SiteError: no kernel multiplies by int8 weights there.
    """
    from actratio.models.loading import model_from_tensors

    path = folder / INT8_FILE
    tensors, axes, embeddings = _read(path)
    weights, scales, thresholds = (
        {name: tensors.pop(f"{name}.{kind}") for name in axes if f"{name}.{kind}" in tensors}
        for kind in (_WEIGHT, WEIGHT_SCALE, _THRESHOLDS)
    )
    for name, axis in axes.items():
        tensors[f"{name}.{_WEIGHT}"] = dequantize(weights[name], scales[name], torch.float32, axis)
    for name, layer_name in embeddings.items():
        tensors[f"{name}.{_WEIGHT}"] = tensors[f"{layer_name}.{_WEIGHT}"]
    model = model_from_tensors(folder, tensors, dtype=dtype, device=device)
    del tensors
    mlps = resolve(model)
    by_module = {id(module): name for name, module in model.named_modules()}
    by_site = {
        mlp.site.name: thresholds[by_module[id(mlp.down)]] for mlp in mlps if by_module.get(id(mlp.down)) in thresholds
    }
    thresholds_by_site = by_site if zeros is None else None
    sparsify(model, zeros, thresholds=thresholds_by_site, crossover=crossover, weights="int8", mlps=mlps)
    for name, layer in int8_layers(model).items():
        if name not in axes:
            continue
        if axes[name] != output_axis(layer):
            raise ModelError(_unreadable(path, f"the scales of {short(name)} do not fit its weight"))
        layer.weight.data.copy_(weights[name])  # exactly what was saved, not rounded a second time
        layer.get_buffer(WEIGHT_SCALE).copy_(scales[name])
    return model


def int8_layers(model: nn.Module) -> dict[str, Any]:
    """Return the layers with int8 weights, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Int8Linear)}


def _shared_embeddings(model: nn.Module) -> dict[str, str]:
    """Return the names of the embeddings with int8 weights, and of the linear layers they share them with."""
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(embedding)]: name for name, layer in int8_layers(model).items() for embedding in layer._embeddings}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, int], dict[str, str]]:
    """Return the tensors, the axis of each int8 weight that has its outputs, and the embeddings that share a layer's weight.

    Raises:
        ModelError: the file isn't there, or is damaged.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            axes, embeddings = (json.loads(file.metadata()[name]) for name in ("axes", "embeddings"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if any(name.endswith(".neuron_scale") for name in tensors):
            raise ValueError("an earlier version of actratio wrote it, with scales of neurons")
        for name, axis in axes.items():
            weight, scales = tensors[f"{name}.{_WEIGHT}"], tensors[f"{name}.{WEIGHT_SCALE}"]
            if (
                axis not in (0, 1)
                or (weight.dtype, scales.dtype) != (torch.int8, torch.float32)
                or weight.ndim != 2
                or scales.shape != weight.shape[axis : axis + 1]
            ):
                raise ValueError(f"the scales of {short(name)} do not fit its weight")
        if not set(embeddings.values()) <= set(axes):
            raise ValueError("an embedding shares the weight of a layer that is not there")
    except Exception as error:  # the library raises types of its own
        raise ModelError(_unreadable(path, error)) from None
    return tensors, axes, embeddings


def _unreadable(path: Path, reason: object) -> str:
    return f"{path} cannot be read ({short(reason, 200)}); run 'actratio sparsify' again"
