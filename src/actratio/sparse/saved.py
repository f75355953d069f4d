"""Folders with a model that transformers loads, and a JSON file beside it with what makes the model sparse or smaller."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actratio.errors import ModelError, RunError, short
from actratio.files import check_result_folder, new_file_mode, write_json
from actratio.models.source import INT8_FILE
from actratio.sites.mlps import MLP, resolve
from actratio.sparse.conversion import sparsify
from actratio.sparse.converted import densify
from actratio.sparse.crossover import Crossover
from actratio.sparse.saved_int8 import load_int8, save_int8
from actratio.sparse.thresholds import BY, ZEROS, LayerThresholds

NAME = "thresholds.json"
_FORMAT = 1
_BY_SITE = ("tau", "cett", "dropped")
"""Keys whose values are a number for each site, in the order of ``LayerThresholds``."""


def save_sparse(
    folder: Path,
    model: Any,
    tokenizer: Any,
    chosen: LayerThresholds,
    settings: dict[str, Any],
    *,
    weights: str | None = None,
    force: bool = False,
) -> None:
    """Write the dense model as ``save_pretrained`` does, and ``thresholds.json`` beside it.

    Args:
        weights: with ``int8``, the model was converted by ``sparsify(..., weights="int8")`` and is written as it is. transformers can't
            read that; ``load_sparse`` can.
        force: replace an earlier result.

    Raises:
        RunError: the folder holds something else, or an earlier result.
    """
    if weights is None:
        densify(model)
    write = model.save_pretrained if weights is None else partial(save_int8, model=model)
    save_with(folder, write, tokenizer, NAME, _content(chosen, settings), force=force)


def save_thresholds(folder: Path, chosen: LayerThresholds, settings: dict[str, Any], *, force: bool = False) -> None:
    """Write ``thresholds.json`` alone, a few kilobytes, without the model.

    Args:
        force: replace an earlier result.

    Raises:
        RunError: the folder holds something else, or an earlier result.
    """
    save_with(folder, Path.mkdir, None, NAME, _content(chosen, settings), force=force)


def _content(chosen: LayerThresholds, settings: dict[str, Any]) -> dict[str, Any]:
    described = {"by": chosen.by, "tau": chosen.thresholds, "cett": chosen.cett, "dropped": chosen.dropped}
    return {"format": _FORMAT, **described, "settings": settings}


def save_with(
    folder: Path,
    write: Callable[[Path], object],
    tokenizer: Any,
    name: str,
    content: dict[str, Any],
    *,
    force: bool = False,
) -> None:
    """Write a model, its tokenizer and a JSON file. The folder appears when it is complete.

    Args:
        write: writes the model to a folder, as ``save_pretrained`` does.
        name: of the JSON file.
        content: of the JSON file.
        force: replace an earlier result.

    Raises:
        RunError: the folder holds something else, or an earlier result.
    """
    check_folder(folder, name, force=force)
    unfinished = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
    try:
        write(unfinished)
        if tokenizer is not None:
            tokenizer.save_pretrained(unfinished)
        write_json(unfinished / name, content)
        mode = new_file_mode(unfinished / ".mode")
        (unfinished / ".mode").unlink()
        for path in unfinished.rglob("*"):
            if path.is_file():
                path.chmod(mode)  # safetensors makes files that only their owner can read
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_folder(folder: Path, name: str, *, force: bool = False) -> None:
    """Refuse a folder that holds anything, or with ``force`` anything but an earlier result with the JSON file ``name``.

    Raises:
        RunError: it holds something else, or an earlier result, or can't be replaced.
    """
    check_result_folder(folder, name, force=force)
    if folder.is_symlink() or folder.resolve() == Path.cwd():  # a new folder is moved to its place
        raise RunError(
            f"{folder} is a link or the current folder and cannot be replaced; choose another folder for the model"
        )


def load_sparse(
    folder: str | Path, *, dense: bool | None = None, crossover: Crossover | None = None, **options: Any
) -> nn.Module:
    """Load a folder that ``actratio sparsify`` wrote, as a sparse model.

    Args:
        dense: as for ``sparsify``; by default, what ``actratio sparsify`` was called with. It has no effect on int8 weights.
        crossover: as for ``sparsify``.
        options: as for ``actratio.models.load_model``; for int8 weights, ``dtype`` and ``device`` only.

    Raises:
        ModelError: there is no such folder, or it is damaged.
    """
    from actratio.models import load_model

    path = Path(folder)
    chosen = read_thresholds(path)  # before the model is loaded, which takes longer
    if (path / INT8_FILE).is_file():
        return load_int8(path, zeros=chosen if chosen.by == ZEROS else None, crossover=crossover, **options)
    model = load_model(str(path), **options)
    mlps = resolve(model)
    _check_sites(path, chosen, mlps)
    with_dense = _was_dense(path) if dense is None else dense
    return sparsify(model, chosen, crossover=crossover, dense=with_dense, mlps=mlps)


def _was_dense(path: Path) -> bool:
    """Return whether a folder was written with ``--dense``."""
    settings = json.loads((path / NAME).read_text(encoding="utf-8")).get("settings")
    return isinstance(settings, dict) and settings.get("dense") is True


def load_thresholds(folder: str | Path, mlps: Sequence[MLP]) -> dict[str, Tensor] | None:
    """Return the thresholds of a saved sparse model, (width,) by site's name; ``None`` if it has none, or skips zeros only.

    Args:
        mlps: of the folder's model.

    Raises:
        ModelError: the file is damaged, or has thresholds of sites that the model doesn't have.
    """
    path = Path(folder)
    if not (path / NAME).is_file():
        return None
    chosen = read_thresholds(path)
    _check_sites(path, chosen, mlps)
    return chosen.by_neuron(mlps) or None


def has_thresholds(folder: str | Path) -> bool:
    """Return whether a folder has a ``thresholds.json``, damaged or not, that doesn't say that only zeros are skipped."""
    try:
        content = json.loads((Path(folder) / NAME).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return True
    except OSError:  # not there, or not a path
        return False
    return not (isinstance(content, dict) and content.get("by") == ZEROS)


def _check_sites(path: Path, chosen: LayerThresholds, mlps: Sequence[MLP]) -> None:
    """Refuse thresholds of sites that a model doesn't have, or that can't have thresholds.

    Raises:
        ModelError: there is one.
    """
    supported = {mlp.site.name for mlp in mlps if mlp.unsupported_reason is None or chosen.by == ZEROS}
    unknown = sorted(set(chosen.thresholds) - supported)
    if unknown:
        raise ModelError(
            f"{path / NAME} has a threshold for {unknown[0]}, which is not an MLP of the model that can have one; "
            "run 'actratio sparsify' again"
        )


def read_thresholds(path: str | Path) -> LayerThresholds:
    """Read the thresholds that ``actratio sparsify`` wrote, with or without a model. ``sparsify(model, thresholds)`` uses them.

    Args:
        path: the folder, or its ``thresholds.json``.

    Raises:
        ModelError: there are none, or they are damaged.
    """
    file = Path(path)
    file = file if file.is_file() else file / NAME
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {short(content['format'])}, and this version reads {_FORMAT}")
        if content["by"] not in (*BY, ZEROS):
            raise ValueError(f"neurons are dropped by {short(content['by'])}")
        if not content["tau"] and content["by"] != ZEROS:
            raise ValueError("it has no thresholds")
        numbers = {key: {name: _number(name, value) for name, value in content[key].items()} for key in _BY_SITE}
        if any(set(numbers[key]) != set(numbers["tau"]) for key in _BY_SITE):
            raise ValueError("not every site has a threshold, an error and a share")
        if max(numbers["dropped"].values(), default=0.0) > 1:
            raise ValueError("a share is above 1")
        if content["by"] == ZEROS and any(numbers["tau"].values()):
            raise ValueError("only zeros are skipped, and a threshold is not 0")
    except FileNotFoundError:
        raise ModelError(f"{path} has no {NAME}; give a folder that 'actratio sparsify' wrote") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file} is damaged ({short(error, 200)}); run 'actratio sparsify' again") from None
    return LayerThresholds(content["by"], *(numbers[key] for key in _BY_SITE))


def _number(name: str, value: Any) -> float:
    # Compared with float32, in which a larger one would be infinite.
    if type(value) not in (int, float) or not 0 <= value <= torch.finfo(torch.float32).max:
        raise ValueError(f"a number of {short(name)} is {short(value)}")
    return float(value)
