"""Checks of a study's options that several studies share."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from actratio.errors import ActratioError
from actratio.training.architecture import Architecture

_LONGEST = 5  # digits of a width


def check_unique(kind: str, names: Sequence[object]) -> None:
    """Raise an error if a name, or a number, is given twice.

    Args:
        kind: what a name stands for, such as ``data set``.
        names: the names.

    Raises:
        ActratioError: see above.
    """
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ActratioError(f"the {kind} {repeated!r} is given twice; give each {kind} once")


def check_at_least(least: int, **numbers: int | None) -> None:
    """Raise an error if a number is smaller than ``least``; ``None`` stands for a default, and is not checked.

    Args:
        least: the smallest number that is allowed.
        numbers: the numbers, by what they are, with underscores for spaces.

    Raises:
        ActratioError: see above.
    """
    for name, number in numbers.items():
        if number is not None and number < least:
            raise ActratioError(f"the {name.replace('_', ' ')} is {number}; it must be at least {least}")


def check_widths(widths: Sequence[str]) -> None:
    """Raise an error if a width is not a whole number from 1 to 99999, or is given twice.

    Raises:
        ActratioError: see above.
    """
    for width in widths:
        if not (width.isascii() and width.isdigit() and len(width) <= _LONGEST and int(width)):
            raise ActratioError(
                f"the width {width!r} is not a whole number from 1 to 99999; give widths such as 16,64,256"
            )
    check_unique("width", [int(width) for width in widths])


def check_memory(network: Architecture | int, seeds: int, device: torch.device) -> None:
    """Raise an error if the networks of all seeds, which are trained together, don't fit in the device's memory.

    Args:
        network: its architecture, or only the width of its widest layer.

    Raises:
        ActratioError: weights, gradients and momenta alone need more than all memory of the device.
    """
    # A layer has at least one weight before and one after each neuron.
    weights = 2 * network if isinstance(network, int) else sum(out * into for out, into in network.shapes)
    needed = 3 * 4 * weights * seeds  # weights, gradients and momenta in float32
    if device.type == "cuda":
        memory = torch.cuda.mem_get_info(device)[1]
    elif hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:  # Windows doesn't say
        return
    if needed > memory:
        what = f"a network of width {network}" if isinstance(network, int) else str(network)
        raise ActratioError(
            f"{seeds:,} seeds of {what} need {needed / 1e9:,.0f} GB, and {device} has {memory / 1e9:,.0f} GB; "
            "use fewer seeds"
        )
