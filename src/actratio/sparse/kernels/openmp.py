"""The OpenMP library that torch uses."""

from __future__ import annotations

import ctypes
from functools import cache

import torch


@cache
def parallel_address() -> int:
    """Return the address of ``GOMP_parallel`` in the OpenMP library that torch calls; 0 if there is none.

    The sparse products run in that library's threads, which torch's own products run in too. With a second pool of threads,
    each pool would wait for cores on which the other's threads still spin, for longer than a small product takes.
    """
    return symbol_address("GOMP_parallel")


def symbol_address(name: str) -> int:
    """Return the address that the dynamic linker gives to torch for this symbol; 0 if there is none.

    The linker searches the libraries of the global scope (``LD_PRELOAD``, for example), then those that torch depends on. A
    library that only another package has loaded is in neither.
    """
    for library in (None, torch._C.__file__):
        try:
            function = getattr(ctypes.CDLL(library), name)
        except (AttributeError, OSError, TypeError):  # no such symbol; no such file; Windows has no global scope
            continue
        return ctypes.cast(function, ctypes.c_void_p).value or 0
    return 0
