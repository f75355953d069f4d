"""A folder that holds a model with thresholds: transformers loads the model, and this file what makes it sparse."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from actratio.errors import ModelError, RunError
from actratio.files import write_json
from actratio.sparse.calibration import BY, Chosen, thresholds_of
from actratio.sparse.conversion import densify, sparsify
from actratio.sparse.crossover import Crossover

NAME = "thresholds.json"
_FORMAT = 1


def save_sparse(folder: Path, model: Any, tokenizer: Any, chosen: Chosen, settings: dict[str, Any]) -> None:
    """Write the dense model as ``save_pretrained`` does, and ``thresholds.json`` beside it.

    Raises:
        RunError: the folder holds something else.
    """
    densify(model)
    save_with(folder, model, tokenizer, NAME, {"format": _FORMAT, **asdict(chosen), "settings": settings})


def save_with(folder: Path, model: Any, tokenizer: Any, name: str, beside: dict[str, Any]) -> None:
    """Write a model as ``save_pretrained`` does with a JSON file beside it: all of the folder, or nothing.

    Raises:
        RunError: the folder holds something else.
    """
    check_folder(folder, name)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
    try:
        model.save_pretrained(partial)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        write_json(partial / name, beside)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_folder(folder: Path, name: str) -> None:
    """Refuse a folder that holds something else than what was written with such a file before.

    Raises:
        RunError: it does.
    """
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / name).is_file())):
        raise RunError(f"{folder} holds something else; choose another place for the model")
    if folder.is_symlink() or folder.resolve() == Path.cwd():  # it is written beside and moved
        raise RunError(f"{folder} is a link or the current folder; choose a folder of its own for the model")
    above = next(each for each in folder.absolute().parents if each.exists())
    if not above.is_dir():
        raise RunError(f"{above} is no folder; choose another place for the model")


def load_sparse(folder: str | Path, *, crossover: Crossover | None = None, **options: Any) -> nn.Module:
    """Load such a folder as a sparse model.

    Args:
        crossover: as for ``sparsify``.
        options: as for ``actratio.models.load_model``.

    Raises:
        ModelError: no such folder, or a damaged one.
    """
    from actratio.models import load_model

    path = Path(folder)
    _read(path)  # before a model is loaded
    model = load_model(str(path), **options)
    return sparsify(model, thresholds=thresholds_in(path, model), crossover=crossover)


def thresholds_in(folder: str | Path, model: nn.Module) -> dict[str, Tensor]:
    """The thresholds of such a folder, (width,) for each site of its model.

    Raises:
        ModelError: as for ``load_sparse``; or thresholds of sites that the model has not.
    """
    chosen = _read(Path(folder))
    found = thresholds_of(model, chosen)
    if set(found) != set(chosen.tau):
        raise ModelError(
            f"{Path(folder) / NAME} has a threshold for {sorted(set(chosen.tau) - set(found))[0]}, which the model has not; "
            "run 'actratio sparsify' again"
        )
    return found


def _read(path: Path) -> Chosen:
    try:
        held = json.loads((path / NAME).read_text(encoding="utf-8"))
        if held["format"] != _FORMAT:
            raise ValueError(f"its format is {held['format']}, and this version reads {_FORMAT}")
        chosen = Chosen(held["by"], held["tau"], held["cett"], held["dropped"])
        _check(chosen)
    except FileNotFoundError:
        raise ModelError(f"{path} has no {NAME}; give a folder that 'actratio sparsify' wrote") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path / NAME} is damaged ({error}); run 'actratio sparsify' again") from None
    return chosen


def _check(chosen: Chosen) -> None:
    if chosen.by not in BY:
        raise ValueError(f"neurons are dropped by {chosen.by!r}")
    if not chosen.tau:
        raise ValueError("it has no thresholds")
    for name, tau in chosen.tau.items():
        if isinstance(tau, bool) or not isinstance(tau, int | float) or not 0 <= tau < math.inf:
            raise ValueError(f"the threshold of {name} is {tau!r}")
