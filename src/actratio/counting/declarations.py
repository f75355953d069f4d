"""How counted fields and readings are declared, and what follows from the declarations.

A field says how two of its values merge and how it is counted from a mask of active neurons; a reading says its
formula and its column. Merging, saving, loading, adding up over processes, the columns of the tidy table and the table
in ``docs/readings.md`` follow.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Generic, Self, TypeVar, overload

import torch
from torch import Tensor

T = TypeVar("T")

FromMask = Callable[[Tensor, Sequence[int], Tensor | None], Any]
"""Counts a field from a mask (tokens, width), the lengths of its sequences, and which tokens are first ones."""


class Merge(Enum):
    """How a field's values merge: those of two parts, and those of all processes of a ``torch.distributed`` group.

    To add a way, list it here with its three attributes.

    Attributes:
        of_two: merges the values of two parts, which are both ``int`` or both tensors.
        reduce_op: name of the same operation in ``torch.distributed.ReduceOp``.
        neutral: the value that changes no other value, for a process that counted nothing.
    """

    SUM = operator.add, "SUM", 0
    MAX = (
        (lambda a, b: torch.maximum(a, b) if isinstance(a, Tensor) else max(a, b)),
        "MAX",
        torch.iinfo(torch.int64).min,
    )
    MIN = (
        (lambda a, b: torch.minimum(a, b) if isinstance(a, Tensor) else min(a, b)),
        "MIN",
        torch.iinfo(torch.int64).max,
    )

    def __init__(self, of_two: Callable[[Any, Any], Any], reduce_op: str, neutral: int) -> None:
        self.of_two, self.reduce_op, self.neutral = of_two, reduce_op, neutral


@dataclass(frozen=True)
class Counted:
    """The declaration of a counted field.

    Attributes:
        kind: ``int``, or ``Tensor`` for int64 tensors.
        merge: how the values of two parts, and of several processes, merge.
        from_mask: how a kernel counts it, or ``None`` if kernels don't: the probe fills it in.
        co_activation: whether it says which neurons are active together, which ``counts_alone`` leaves out.
        of_layer: whether it is counted even when the site itself saw no tokens.
        per_neuron: whether it has one value for each neuron.
        formula, note: for the table of readings in the documentation; without a formula it isn't listed.
    """

    kind: type
    merge: Merge = Merge.SUM
    from_mask: FromMask | None = field(default=None, repr=False)
    co_activation: bool = False
    of_layer: bool = False
    per_neuron: bool = False
    formula: str = ""
    note: str = ""


def counted(kind: type, **declaration: Any) -> dict[str, Counted]:
    """Return the metadata of a counted dataclass field; the arguments are those of ``Counted``.

    A field whose default is ``None`` is ``None`` where it was not counted.
    """
    return {"counted": Counted(kind, **declaration)}


class Reading(Generic[T]):
    """A property that is read from counts, with its formula. A tensor without dimensions becomes a Python number.

    Attributes:
        name: the property's name, which is also the name of its column.
        column: ``float`` or ``int`` if it is a column of the tidy table, else ``None``.
    """

    def __init__(self, function: Callable[[Any], T], formula: str, note: str, column: type | None) -> None:
        self.function, self.formula, self.note, self.column = function, formula, note, column
        self.name = function.__name__
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, counts: None, owner: type) -> Reading[T]: ...

    @overload
    def __get__(self, counts: object, owner: type) -> T: ...

    def __get__(self, counts: object | None, owner: type) -> Any:
        if counts is None:
            return self
        value = self.function(counts)
        # A number of one site is a Python number, which JSON and formats accept.
        return value.item() if isinstance(value, Tensor) and value.ndim == 0 else value

    def __repr__(self) -> str:
        return f"<Reading {self.name}: {self.formula}>"


def reading(formula: str, *, note: str = "", column: type | None = None) -> Callable[[Callable[[Any], T]], Reading[T]]:
    """Declare a reading of counts, as a decorator of a method without arguments."""
    return lambda function: Reading(function, formula, note, column)


def readings_of(kind: type) -> dict[str, Reading[Any]]:
    """Return the readings that a class declares, by name and in their order."""
    return {name: value for name, value in vars(kind).items() if isinstance(value, Reading)}


def readings_table(kind: type) -> str:
    """Return the Markdown table of a class's fields with a formula and of its readings."""
    declared = {item.name: item.metadata["counted"] for item in fields(kind)} | readings_of(kind)
    rows = [
        f"| `{name}` | {item.formula} | {item.note} |".replace("  |", " |")
        for name, item in declared.items()
        if item.formula
    ]
    return "\n".join(["| reading | formula | use, and what to watch for |", "| --- | --- | --- |", *rows])


@dataclass(frozen=True, repr=False)
class Counts:
    """Base class of counts whose fields are declared with ``counted``."""

    def __post_init__(self) -> None:
        for name, value in self.values().items():
            if isinstance(value, Tensor) and value.dtype != torch.int64:
                raise TypeError(f"{name} has the dtype {value.dtype}; counts must be int64")

    @classmethod
    def declared(cls) -> dict[str, Counted]:
        """Return the declarations of the fields, by name."""
        return {item.name: item.metadata["counted"] for item in fields(cls)}

    @classmethod
    def kernel_fields(cls, co_activation: bool) -> frozenset[str]:
        """Return the names of the fields that a kernel has to count."""
        declared = cls.declared().items()
        return frozenset(n for n, item in declared if item.from_mask and (co_activation or not item.co_activation))

    @classmethod
    def from_mask(
        cls, active: Tensor, lengths: Sequence[int], first: Tensor | None, names: frozenset[str]
    ) -> dict[str, Any]:
        """Return the values of some fields, counted from a mask (tokens, width) by their declarations."""
        chosen = ((name, item.from_mask) for name, item in cls.declared().items() if name in names)
        return {name: count(active, lengths, first) for name, count in chosen if count is not None}

    def values(self) -> dict[str, Any]:
        """Return the values of the fields, by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def cpu(self) -> Self:
        """Return the same counts on the CPU; those of a GPU's activations stay on the GPU until then."""
        return type(self)(**{k: v.cpu() if isinstance(v, Tensor) else v for k, v in self.values().items()})

    def to_arrays(self) -> dict[str, Tensor]:
        """Return what was counted as int64 tensors that share no memory, for a safetensors file."""
        return {name: torch.as_tensor(value).clone() for name, value in self.values().items() if value is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Tensor]) -> Self:
        """Return the counts that ``to_arrays`` was called on.

        Raises:
            KeyError: a required field is missing.
        """
        declared = cls.declared()
        missing = [item.name for item in fields(cls) if item.default is not None and item.name not in arrays]
        if missing:
            raise KeyError(missing[0])
        return cls(**{name: int(x) if declared[name].kind is int else x for name, x in arrays.items()})

    def merged_values(self, other: Self) -> dict[str, Any]:
        """Return each field of both together; what one side did not count is ``None``."""
        merged = {}
        for name, item in self.declared().items():
            a, b = getattr(self, name), getattr(other, name)
            merged[name] = None if a is None or b is None else item.merge.of_two(a, b)
        return merged
