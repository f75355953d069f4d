"""Whether what a file says was counted can have been counted."""

from __future__ import annotations

from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor, int64

from actratio.counting.co_activation import BLOCKS, WINDOWS
from actratio.counting.counts import SiteCounts
from actratio.counting.magnitudes import BINS, Magnitudes
from actratio.sites import Site

if TYPE_CHECKING:
    from actratio.counting.measurement import Measurement


def check_measurement(measurement: Measurement) -> None:
    """Check what a file says of a measurement.

    Raises:
        TypeError: something has another type.
        ValueError: counts are impossible.
    """
    texts = [measurement.model, *(text for row in measurement for text in (row.tensor, row.criterion))]
    objects = [measurement.settings, measurement.provenance]
    fingerprint = measurement.fingerprint
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(item, dict) for item in objects):
        raise TypeError("a name isn't text, or settings aren't an object")
    if fingerprint is not None and not isinstance(fingerprint, str):
        raise TypeError(f"the fingerprint is {fingerprint!r}")
    for row in measurement:
        check_site(row.site)
        check_counts(row.counts)
    for magnitudes in measurement.magnitudes.values():
        check_magnitudes(magnitudes)


def check_site(site: Site) -> None:
    """Check the types of a site's attributes, which a file may have wrong.

    Raises:
        TypeError: one has another type.
    """
    for name, hint in _hints().items():
        if not _fits(getattr(site, name), hint):
            raise TypeError(f"a site's {name} is {getattr(site, name)!r}")


@cache
def _hints() -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(Site).items() if name in Site.__dataclass_fields__}


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if isinstance(hint, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    return type(value) is hint


def check_counts(counts: SiteCounts) -> None:
    """Check that numbers of active neurons are between 0 and the tokens, that parts are no more than the whole, and all shapes.

    Args:
        counts: of one site, not stacked.

    Raises:
        ValueError: the counts are impossible.
    """
    width = counts.active.shape[-1]
    shapes = {
        "active": (width,), "squares": (), "first_active": (width,), "decode_active": (width,), "per_token": (width + 1,),
        "windows": (len(WINDOWS),), "union": (len(WINDOWS),), "both": (), "either": (), "idle_blocks": (len(BLOCKS),),
    }  # fmt: skip
    for name, value in counts.values().items():
        if isinstance(value, Tensor) and (tuple(value.shape) != shapes[name] or bool((value < 0).any())):
            raise ValueError(f"{name} has the shape {tuple(value.shape)} or negative counts")
        if isinstance(value, int) and value < 0:
            raise ValueError(f"{name} is {value}")
    parts = {
        "active": (counts.active, counts.tokens),
        "first_tokens": (counts.first_tokens, counts.tokens),
        "first_active": (counts.first_active, counts.first_tokens),
        "decode_tokens": (counts.decode_tokens, counts.tokens),
        "decode_active": (counts.decode_active, counts.decode_tokens),
        "tokens": (counts.tokens, counts.passed),
        "both": (counts.both, counts.either),
        "useful_tokens": (counts.useful_tokens, counts.tokens),
        "useful": (counts.useful, None if counts.useful_tokens is None else counts.useful_tokens * width),
    }
    for name, (part, whole) in parts.items():
        if part is None or whole is None:
            continue
        if bool((part > whole).any()) if isinstance(part, Tensor) else part > whole:
            raise ValueError(f"{name} is larger than what it is a part of")
    if counts.per_token is not None and int(counts.per_token.sum()) != counts.tokens:
        raise ValueError(f"per_token has {int(counts.per_token.sum())} tokens of {counts.tokens}")


def check_magnitudes(magnitudes: Magnitudes) -> None:
    """Check that a histogram has its bins, with counts that aren't negative.

    Raises:
        ValueError: it hasn't.
    """
    counts = magnitudes.counts
    if counts.dtype != int64 or tuple(counts.shape) != (BINS,) or bool((counts < 0).any()):
        raise ValueError(f"a histogram is {counts.dtype} {tuple(counts.shape)} or has negative counts")
