"""Checksums of JSON objects and arrays."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from actratio.checksums import with_checksum, without_checksum


def test_what_was_written_is_read() -> None:
    arrays = {"a": torch.tensor([1, 2])}
    described = {"text": "é", "pair": (1, 2.5), "nothing": None}
    written = json.loads(json.dumps(with_checksum(described, arrays)))
    assert without_checksum(written, arrays) == {"text": "é", "pair": [1, 2.5], "nothing": None}


@pytest.mark.parametrize("change", [{"text": "e"}, {"more": 1}, {"pair": [1, 2]}, {"checksum": "0"}])
def test_a_change_is_refused(change: dict[str, Any]) -> None:
    written = with_checksum({"text": "é", "pair": (1, 2.5)})
    with pytest.raises(ValueError, match="its checksum does not match"):
        without_checksum(written | change)


def test_a_changed_array_is_refused() -> None:
    written = with_checksum({"text": "é"}, {"a": torch.tensor([1, 2])})
    for changed in (torch.tensor([1, 3]), torch.tensor([[1, 2]]), torch.tensor([1.0, 2.0])):
        with pytest.raises(ValueError, match="its files come from two measurements"):
            without_checksum(written, {"a": changed})


def test_something_else_is_refused() -> None:
    with pytest.raises(KeyError):
        without_checksum({"text": "é"})
    with pytest.raises(TypeError):
        without_checksum([1])
