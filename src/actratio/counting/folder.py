"""The folder of a measurement: saved, loaded, and never replaced by accident."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from actratio.checksums import with_checksum, without_checksum
from actratio.counting.counts import SiteCounts
from actratio.counting.magnitudes import Magnitudes
from actratio.counting.measurement import Measurement, Row
from actratio.counting.validity import check_measurement
from actratio.errors import RunError, short
from actratio.files import check_creatable, is_temporary, remove_leftovers, write_arrays, write_json, write_table
from actratio.sites import Site

PARTIAL = "partial.safetensors"
"""The file in a measurement's folder that has the counts of an unfinished measurement."""

SHARDS = "shards"
"""The folder in a measurement's folder that has the shards of a corpus."""

_DESCRIPTION = "measurement.json"
_NEURONS = "neurons.safetensors"
_TABLE = "sites.parquet"
_FORMAT = 4

DAMAGES = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RuntimeError)
"""What reading a damaged file can raise, apart from ``SafetensorError``."""


def save_measurement(measurement: Measurement, path: str | Path, *, force: bool = False) -> None:
    """Write a measurement's folder; see ``Measurement.save``."""
    folder = Path(path)
    check_place(folder, measurement.model, force=force)
    remove_leftovers(folder)
    for old in folder.glob("*.csv"):  # of the measurement that was here
        old.unlink()
    arrays, described = encode(measurement)
    write_arrays(folder / _NEURONS, arrays)
    # After a kill between the two files, the checksum also shows that they don't belong together.
    write_json(folder / _DESCRIPTION, with_checksum({"format": _FORMAT, **described}, arrays))
    metadata = {"settings": measurement.settings, "provenance": measurement.provenance}
    write_table(folder / _TABLE, measurement.to_frame(), metadata)
    (folder / PARTIAL).unlink(missing_ok=True)


def load(path: str | Path) -> Measurement:
    """Read a measurement that ``Measurement.save`` wrote.

    Raises:
        RunError: the folder contains no measurement, an unfinished one, or a damaged one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(path)
    if not is_measurement(folder):
        if (folder / PARTIAL).is_file():
            raise RunError(f"the measurement in {folder} is not finished; run the command that started it again")
        raise RunError(f"{folder} holds no measurement: it has no {_DESCRIPTION}")
    try:
        described = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        if described["format"] != _FORMAT:
            raise ValueError(f"its format is {short(described['format'])}, and this version reads {_FORMAT}")
        arrays = load_file(folder / _NEURONS)
        without_checksum(described, arrays)
        return decode(arrays, described)
    except (*DAMAGES, SafetensorError) as error:
        raise RunError(f"{folder} is damaged ({short(error, 200)}); measure again") from None


def encode(measurement: Measurement) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return all integers of a measurement by name, and the rest of it for JSON."""
    arrays: dict[str, Tensor] = {}
    rows = []
    for number, row in enumerate(measurement.rows):
        rows.append({"site": asdict(row.site), "tensor": row.tensor, "criterion": row.criterion})
        arrays |= {f"{number}.{name}": value for name, value in row.counts.to_arrays().items()}
    for number, magnitudes in enumerate(measurement.magnitudes.values()):
        arrays[f"magnitudes.{number}"] = magnitudes.counts
    return arrays, {
        "model": measurement.model,
        "fingerprint": measurement.fingerprint,
        "rows": rows,
        "magnitudes": [list(key) for key in measurement.magnitudes],
        "settings": measurement.settings,
        "provenance": measurement.provenance,
    }


def decode(arrays: Mapping[str, Tensor], described: Mapping[str, Any]) -> Measurement:
    """Return the measurement that ``encode`` was called on.

    Raises:
        KeyError, TypeError, ValueError: something is missing, of the wrong type or impossible.
    """
    own: list[dict[str, Tensor]] = [{} for _ in described["rows"]]
    for name, value in arrays.items():
        number, _, field = name.partition(".")
        if number.isdigit():
            own[int(number)][field] = value
    rows = [
        Row(Site(**row["site"]), row["tensor"], row["criterion"], SiteCounts.from_arrays(values))
        for row, values in zip(described["rows"], own, strict=True)
    ]
    magnitudes = {
        (name, tensor): Magnitudes(arrays[f"magnitudes.{number}"])
        for number, (name, tensor) in enumerate(described["magnitudes"])
    }
    measurement = Measurement(
        described["model"],
        rows,
        magnitudes,
        described["settings"],
        described["provenance"],
        described.get("fingerprint"),
    )
    check_measurement(measurement)
    return measurement


def is_measurement(path: Path) -> bool:
    """Return whether a folder contains a saved measurement."""
    return (path / _DESCRIPTION).is_file()


def check_place(folder: Path, model: str, *, force: bool = False) -> None:
    """Check that a measurement of the model can be saved in a folder.

    Args:
        force: accept a folder with a measurement of another model, too.

    Raises:
        RunError: the folder contains something else, or a measurement of another model.
    """
    if not folder.exists():
        check_creatable(folder)
        return
    if folder.is_dir() and all(_is_unfinished(path.name) for path in folder.iterdir()):
        return
    if not is_measurement(folder) and not (folder / PARTIAL).is_file():
        raise RunError(f"{folder} holds something else; choose another place for the measurement")
    there = _description(folder).get("model", model)
    if there != model and not force:
        raise RunError(f"{folder} holds a measurement of {there}; choose another place for that of {model}")


def _is_unfinished(name: str) -> bool:
    """Return whether a measurement that was interrupted may have left a file or folder of this name."""
    return name in (SHARDS, _NEURONS) or is_temporary(name)  # the description is written after the neurons


def finished(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether a folder contains a finished measurement with these settings.

    Raises:
        RunError: it contains a measurement with other settings, finished or not.
    """
    from actratio.counting.partial import read_settings

    wanted = json.loads(json.dumps(settings))
    unfinished = read_settings(folder / PARTIAL)
    if unfinished is not None:  # newer than a finished one beside it, which --force was going to replace
        _check_settings(folder, "unfinished measurement", unfinished, wanted)
        return False
    there = _description(folder).get("settings")
    if not isinstance(there, dict):
        return False
    _check_settings(folder, "measurement", there, wanted)
    return True


def _check_settings(folder: Path, what: str, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    odd = next((name for name, value in wanted.items() if there.get(name) != value), None)
    if odd is not None:
        raise RunError(
            f"{folder} holds {'an' if what[0] in 'aeiou' else 'a'} {what} with other settings ({odd}: {there.get(odd)} there, {wanted[odd]} here); "
            "choose another folder with --out, or replace it with --force"
        )


def _description(folder: Path) -> dict[str, Any]:
    """Return what is described in a folder; nothing if the file is missing or damaged, so that it can be replaced."""
    try:
        described = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return described if isinstance(described, dict) else {}
