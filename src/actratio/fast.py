"""The kernels, which need compilers that may be missing or broken (the extra ``fast``)."""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from actratio.errors import pip_install, short

_broken: dict[str, str] = {}


@cache
def import_kernel(module: str, package: str) -> ModuleType | None:
    """Import a module of kernels; return ``None`` if its compiler is not installed, or can't be imported.

    Args:
        module: its path.
        package: the compiler.

    Warns:
        UserWarning: the compiler is installed and can't be imported; once for each compiler.
    """
    if find_spec(package) is None:
        return None
    try:
        return import_module(module)
    except Exception as error:  # an installation can be broken in many ways, such as by a version that doesn't fit
        if package not in _broken:
            _broken[package] = (
                f"{package} is installed but can't be imported ({type(error).__name__}: {short(error, 160)}); "
                f"run {pip_install('fast')} again"
            )
            warnings.warn(
                f"counting falls back to plain PyTorch, which is slower: {_broken[package]}, or remove it",
                UserWarning,
                stacklevel=2,
            )
        return None


def broken_packages() -> list[str]:
    """Return a sentence for each compiler that ``import_kernel`` couldn't import."""
    return list(_broken.values())
