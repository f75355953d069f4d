"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from actratio import ActratioError
from actratio.devices import device_named


def test_auto_and_cpu() -> None:
    assert device_named("cpu") == torch.device("cpu")
    assert device_named("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["mps", "xpu", "hpu", "meta", "vulkan"])
def test_a_device_that_cannot_compute_here_is_one_sentence(name: str) -> None:
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(
        ActratioError, match=f"the device {name} was requested, but PyTorch can't compute on it"
    ) as raised:
        device_named(name)
    assert "\n" not in str(raised.value)


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(ActratioError, match="there is no device 'abacus'"):
        device_named("abacus")
