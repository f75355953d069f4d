"""Which of a model's sites are selected."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from actratio.errors import SiteError, short
from actratio.sites.site import MEASURED, Site

ALL = "all-activations"
"""Selects every activation of a model, also those that enter no down projection, as in a convolutional network."""

Select = str | Sequence[str] | Callable[[Site], bool] | None
"""Globs over names (sites that match any of them), a function of a site, or ``None`` for MLPs and experts."""


def check_select(select: Any) -> None:
    """Check the type of what selects sites.

    Raises:
        SiteError: it is none of ``Select``.
    """
    is_list = isinstance(select, Sequence) and all(isinstance(glob, str) for glob in select)
    if select is not None and not is_list and not callable(select):
        raise SiteError(
            f"sites is {short(repr(select))}; give globs over their names, such as '*', or a function of a site"
        )


def choose(sites: Sequence[Site], select: Select) -> list[Site]:
    """Return the selected sites in their order.

    Raises:
        SiteError: a glob or the whole selection matches nothing, or ``select`` is of another type.
    """
    check_select(select)
    if select is None:
        chosen = [site for site in sites if site.role in MEASURED]
        if not chosen:
            raise SiteError(f"the model has no MLP; {_others(sites)}")
        return chosen
    if callable(select):
        chosen = [site for site in sites if select(site)]
        if not chosen:
            raise SiteError(f"the function selects none of the model's {len(sites)} sites; {_others(sites)}")
        return chosen
    globs = [select] if isinstance(select, str) else list(select)
    if ALL in globs:
        return list(sites)
    if not globs:
        raise SiteError("no sites are asked for; give a glob over their names, such as '*'")
    for glob in globs:
        if not any(fnmatch.fnmatchcase(site.name, glob) for site in sites):
            raise SiteError(f"no site matches {glob!r}; {_nearest(glob, sites)}")
    return [site for site in sites if any(fnmatch.fnmatchcase(site.name, glob) for glob in globs)]


def _others(sites: Iterable[Site]) -> str:
    listed = ", ".join(dict.fromkeys(f"{site.name} ({site.role}, {site.function})" for site in sites))
    return (
        f"its activations are {listed}; select them by name, or all of them as {ALL}"
        if listed
        else "no activation function follows a linear layer"
    )


def _nearest(glob: str, sites: Sequence[Site]) -> str:
    names = [site.name for site in sites]
    near = get_close_matches(glob, names, n=3, cutoff=0.3) or names[:3]
    return f"nearest: {', '.join(near)}" if near else "the model has no sites"
