"""What counts as an active neuron.

To add a criterion, write its class here, a frozen dataclass, and list the class in ``CRITERIA``. Kernels that don't
know the class leave it to the reference, so counts are right from the start.
"""

from __future__ import annotations

import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from actratio.errors import CriterionError, short


class Criterion(ABC):
    """Decides which neurons of an activation are active.

    A criterion's text is its label in tables: the name, and the values of the dataclass's fields in brackets. Different
    values have different labels.

    Attributes:
        name: the name in tables and on the command line.
        needs_norms: whether ``active`` needs the norms of the down projection's columns.
        comparison: a short form for sentences, such as ``> 0``, or an empty string if there is none.
    """

    name: ClassVar[str]
    needs_norms: ClassVar[bool] = False
    comparison: ClassVar[str] = ""

    @abstractmethod
    def active(self, x: Tensor, norms: Tensor | None = None) -> Tensor:
        """Return a bool tensor that says which elements are active.

        Args:
            x: activations, (tokens, width).
            norms: ‖W_down[:, i]‖₂ in float32, (width,), for criteria with ``needs_norms``.
        """

    def for_site(self, site_name: str) -> Criterion:
        """Return the criterion to use at one site; by default the same at all sites."""
        return self

    def __repr__(self) -> str:
        return f"<Criterion {self}>"

    def __str__(self) -> str:
        values = [_exact_text(getattr(self, item.name)) for item in fields(self)]  # type: ignore[arg-type]
        return f"{self.name}({', '.join(values)})" if values else self.name


@dataclass(frozen=True)
class Positive(Criterion):
    """Active: x > 0. NaN isn't active.

    >>> Positive().active(torch.tensor([[-1.0, 0.0, 2.0]])).tolist()
    [[False, False, True]]
    """

    name: ClassVar[str] = "positive"
    comparison: ClassVar[str] = "> 0"

    def active(self, x: Tensor, norms: Tensor | None = None) -> Tensor:
        return x > 0


@dataclass(frozen=True)
class Nonzero(Criterion):
    """Active: x ≠ 0. NaN is active, because a kernel could not skip it."""

    name: ClassVar[str] = "nonzero"
    comparison: ClassVar[str] = "≠ 0"

    def active(self, x: Tensor, norms: Tensor | None = None) -> Tensor:
        return x != 0


@dataclass(frozen=True)
class Above(Criterion):
    """Active: \\|x\\| ≥ threshold, with the threshold rounded to the dtype of x. NaN isn't active.

    >>> str(Above(0.5))
    'above(0.5)'
    """

    name: ClassVar[str] = "above"
    threshold: float

    def active(self, x: Tensor, norms: Tensor | None = None) -> Tensor:
        values = x if x.is_floating_point() else x.float()
        return values.abs() >= nearest(self.threshold, values.dtype)


@dataclass(frozen=True)
class Contribution(Criterion):
    """Active: \\|x\\| · ‖W_down[:, i]‖₂ ≥ threshold, in float32. NaN isn't active.

    The product is the length of what the neuron adds to the MLP's output.
    """

    name: ClassVar[str] = "contribution"
    needs_norms: ClassVar[bool] = True
    threshold: float

    def active(self, x: Tensor, norms: Tensor | None = None) -> Tensor:
        if norms is None:
            raise ValueError("contribution needs the norms of the down projection's columns; pass norms")
        return x.float().abs() * norms >= nearest(self.threshold, torch.float32)


@dataclass(frozen=True, eq=False, repr=False)
class Thresholds(Criterion):
    """Active: not \\|h\\| ≤ τᵢ, with a threshold for each neuron of each site. NaN is active, as in sparse layers.

    The label has a fingerprint of the sites' names and the thresholds instead of their values.

    Attributes:
        by_site: thresholds (width,) by the site's name.

    >>> limits = Thresholds({"layers.0.mlp": torch.tensor([0.1, 2.0])})
    >>> limits.for_site("layers.0.mlp").active(torch.tensor([[1.0, 1.0]])).tolist()
    [[True, False]]
    """

    name: ClassVar[str] = "thresholds"
    by_site: Mapping[str, Tensor]

    def active(self, x: Tensor, norms: Tensor | None = None) -> Tensor:
        raise TypeError("thresholds differ from site to site; call for_site first")

    def for_site(self, site_name: str) -> Criterion:
        """Return the criterion with the thresholds of one site.

        Raises:
            CriterionError: the site has no thresholds.
        """
        if site_name not in self.by_site:
            raise CriterionError(f"there are no thresholds for the site {site_name}; give a tensor (width,) for it")
        return _SiteThresholds(self.by_site[site_name])


@dataclass(frozen=True, eq=False, repr=False)
class _SiteThresholds(Criterion):
    name: ClassVar[str] = Thresholds.name
    thresholds: Tensor

    def active(self, x: Tensor, norms: Tensor | None = None) -> Tensor:
        if x.shape[-1] != len(self.thresholds):
            raise CriterionError(
                f"there are {len(self.thresholds)} thresholds for {x.shape[-1]} neurons; give one for each neuron"
            )
        # Both have dimensions, so torch compares a half-precision activation with float32 thresholds in float32.
        return ~(x.abs() <= self.thresholds.to(x.device))


CRITERIA: dict[str, type[Criterion]] = {kind.name: kind for kind in (Positive, Nonzero, Above, Contribution)}
"""Criteria that can be written as text, by name."""


def criterion_forms() -> list[str]:
    """Return the texts that ``parse_criterion`` reads, with τ for a threshold.

    >>> criterion_forms()
    ['positive', 'nonzero', 'above(τ)', 'contribution(τ)']
    """
    return [f"{name}(τ)" if fields(kind) else name for name, kind in CRITERIA.items()]  # type: ignore[arg-type]


def criterion_name(label: str) -> str:
    """Return the name of the criterion that has a label.

    >>> criterion_name("above(0.1)")
    'above'
    """
    return label.partition("(")[0]


def comparison(label: str) -> str:
    """Return the criterion that has a label as a comparison, or the label if the criterion has no short form.

    >>> comparison("positive"), comparison("above(0.1)")
    ('> 0', 'above(0.1)')
    """
    kind = CRITERIA.get(criterion_name(label))
    return label if kind is None else kind.comparison or label


def to_criteria(criteria: str | Criterion | Iterable[str | Criterion]) -> tuple[Criterion, ...]:
    """Return one criterion or several, given as text or as ``Criterion``, as a tuple of ``Criterion``.

    Raises:
        CriterionError: there is no criterion, a text is not one, or two criteria have the same label.

    >>> to_criteria("positive")
    (Positive(),)
    """
    items = [criteria] if isinstance(criteria, str | Criterion) else criteria
    items = list(items) if isinstance(items, Iterable) else [items]
    wrong = next((item for item in items if not isinstance(item, str | Criterion)), None)
    if wrong is not None or (None in items):
        raise CriterionError(f"a criterion is {short(repr(wrong))}; give text, such as 'positive', or a Criterion")
    parsed = tuple(item if isinstance(item, Criterion) else parse_criterion(item) for item in items)
    if not parsed:
        raise CriterionError("there is no criterion to count by; give one, such as positive")
    labels = [str(criterion) for criterion in parsed]
    repeated = next((label for label in labels if labels.count(label) > 1), None)
    if repeated is not None:
        raise CriterionError(f"the criterion {repeated} is given twice; give each criterion once")
    return parsed


def parse_criterion(text: str) -> Criterion:
    """Return the criterion that a text names: ``positive``, ``above(0.1)`` and so on.

    Raises:
        CriterionError: the name is unknown, or the threshold is missing, not a positive number, or not expected.

    >>> parse_criterion("above(0.5)")
    Above(threshold=0.5)
    """
    match = re.fullmatch(r"\s*([a-z]+)\s*(?:\(\s*([^()]*?)\s*\))?\s*", text)
    if match is None or match[1] not in CRITERIA:
        known = criterion_forms()
        raise CriterionError(f"there is no criterion {text!r}; write {', '.join(known[:-1])} or {known[-1]}")
    name, argument = match[1], match[2]
    kind = CRITERIA[name]
    if not fields(kind):  # type: ignore[arg-type]
        if argument is not None:
            raise CriterionError(f"the criterion {name} has no threshold, but {argument!r} was given; write {name}")
        return kind()
    try:
        threshold = float(argument or "")
    except ValueError:
        threshold = math.nan
    if not (math.isfinite(threshold) and threshold > 0):
        raise CriterionError(f"the criterion {name} needs a threshold above zero, such as {name}(0.1), not {text!r}")
    return kind(threshold)  # type: ignore[call-arg]


def nearest(threshold: float, dtype: torch.dtype) -> float:
    """Return the threshold rounded to a dtype, as torch compares it; never zero, because every zero would reach it."""
    rounded = float(torch.tensor(threshold, dtype=torch.float64).to(dtype))
    return rounded or torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps


def _exact_text(value: Any) -> str:
    """Return a text that is different for different values; tensors have a fingerprint, because they are too long."""
    if isinstance(value, Tensor):
        return _fingerprint({"": value})
    if isinstance(value, Mapping):
        return _fingerprint(value)
    if not isinstance(value, float):
        return str(value)
    shortest = f"{value:g}"
    return shortest if float(shortest) == value else repr(value)


def _fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return the first 12 hexadecimal digits of a hash of the names and the values, in any order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().double()
        digest.update(f"{name}\0{tuple(values.shape)}\0".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:12]
