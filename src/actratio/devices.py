"""Choose the device to compute on, by name."""

from __future__ import annotations

import torch

from actratio.errors import ActratioError


def device_named(name: str) -> torch.device:
    """Return the device that ``name`` stands for: ``auto``, ``cpu``, ``cuda`` or any name that PyTorch knows.

    ``auto`` is the GPU if there is one, and the CPU otherwise.

    Raises:
        ActratioError: the name is unknown, or PyTorch can't compute on such a device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ActratioError(
            f"there is no device {name!r}; use auto, cpu, cuda or another device name of PyTorch"
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ActratioError(f"the device {name} was requested, but PyTorch finds no GPU on this machine; use cpu")
    try:
        torch.zeros(1, device=device).item()
    except (AssertionError, ImportError, NotImplementedError, RuntimeError):  # each backend has its own way to refuse
        raise ActratioError(
            f"the device {name} was requested, but PyTorch can't compute on it on this machine; use auto or cpu"
        ) from None
    return device
