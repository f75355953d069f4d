"""Following the data of a forward pass: linear → activation → (⊙ up) → linear.

``Flow`` is a ``TorchFunctionMode``: every torch function called below it passes through here, and what
is known of a tensor goes with it from one call to the next.  When something that came out of a
nonlinear function enters a matrix product with a weight, that is a ``Use``: the place where a zero
of the activation would have spared work.  No list of architectures and no attribute names are
involved.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from actratio.sites import functions
from actratio.sites.followed import follow
from actratio.sites.values import Stream, Use, Value, Weight, cut, select


@dataclass(frozen=True)
class _Frame:
    path: str
    module: nn.Module
    atomic: bool


class Flow(TorchFunctionMode):
    """Follow the data of what runs below it, and call ``on_use`` at every down projection.

    >>> flow = Flow(model, print)                            # doctest: +SKIP
    >>> with torch.no_grad(), flow.modules(), flow:          # doctest: +SKIP
    ...     model(inputs)

    Attributes:
        activations: every value that came out of a nonlinear function of a linear map, by the identity
            of its tensor; for what never entered a product.
        scans: where an activation was multiplied by data that is no linear map of the same input, whatever became of
            the product: the path of the module, and the names of the weights that made the two, as far as they are known.
        ran: paths of the modules whose hooks were called: no list of modules, and none whose ``forward`` was
            called past them.
        multiplied: names of the weights that entered a product.
    """

    def __init__(self, model: nn.Module, on_use: Callable[[Use], None]) -> None:
        super().__init__()
        self._names = {id(module): name for name, module in model.named_modules()}
        self._weights = {id(parameter): name for name, parameter in model.named_parameters()}
        self._on_use = on_use
        self.activations: dict[int, Value] = {}
        self.scans: set[tuple[str, frozenset[str]]] = set()
        self.ran: set[str] = set()
        self.multiplied: set[str] = set()
        self._thread = threading.get_ident()
        self._values: dict[int, Value] = {}
        self._sources: dict[int, int] = {}
        self._first_use: dict[tuple[int, int], str] = {}
        self._parts: dict[int, Weight] = {}
        self._rows: dict[int, Tensor] = {}
        self._alive: list[Tensor] = []
        self._frames: list[_Frame] = []

    @contextmanager
    def modules(self, inside: nn.Module | None = None) -> Iterator[None]:
        """Know which module is running, through hooks that end with the block.

        Args:
            inside: the module that is running already.
        """
        if inside is not None:
            self._frames.append(_Frame(self._names[id(inside)], inside, atomic=False))
        enter = nn.modules.module.register_module_forward_pre_hook(self._enter)
        leave = nn.modules.module.register_module_forward_hook(self._leave, always_call=True)
        follow(1)
        try:
            yield
        finally:
            follow(-1)
            enter.remove()
            leave.remove()
            self.forget()

    def forget(self) -> None:
        """Let go of all tensors, between forward passes."""
        known: tuple[Any, ...] = (self.activations, self._values, self._sources, self._first_use, self._parts)
        for each in (*known, self._rows, self._alive, self._frames):
            each.clear()

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if threading.get_ident() != self._thread:  # hooks of all modules hear other threads' too
            return
        path = self._names.get(id(module), self._owner())
        self.ran.add(path)
        inside = bool(self._frames) and self._frames[-1].atomic
        self._frames.append(
            _Frame(path, module, inside or functions.is_activation(module) or functions.is_norm(module))
        )

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() != self._thread or not self._frames:
            return
        frame = self._frames.pop()
        if (
            self._atomic()
            or not frame.atomic
            or not (args and isinstance(args[0], Tensor) and isinstance(output, Tensor))
        ):
            return
        value = self._values.get(id(args[0]))
        if value is None:
            return
        if functions.is_activation(module):
            self._activated(value, args[0], output, functions.function_name(module), frame.path)
        else:
            self._set(output, value)

    def _owner(self) -> str:
        return self._frames[-1].path if self._frames else ""

    def _atomic(self) -> bool:
        return bool(self._frames) and self._frames[-1].atomic

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._atomic():  # what an activation module does inside is its own business
            return func(*args, **kwargs)
        name, in_place = functions.canonical_name(func)
        in_place = in_place or functions.writes(name, args, kwargs)
        if in_place and args and isinstance(args[0], Tensor):
            self._keep_before_writing(args[0])
        output = func(*args, **kwargs)
        if name == "__setitem__":
            self._written(args[0])
        elif name in functions.ALIAS:
            self._alias(func, name, args, kwargs, output)
        elif name in functions.LINEAR:
            self._linear(name, args, kwargs, output)
        elif name in functions.KNOWN and isinstance(output, Tensor):
            self._pointwise(name, args, kwargs, output)
        elif in_place and args:
            self._values.pop(id(args[0]), None)
        return output

    def _keep_before_writing(self, target: Tensor) -> None:
        """A tensor that is about to be overwritten may be the activation that somebody wants to see."""
        value = self._values.get(id(target))
        if value is not None and value.activation is target:
            kept = self.activations[value.origin] = replace(value, activation=target.clone())
            self._set(target, kept)

    def _written(self, target: Any) -> None:
        value = self._values.get(id(target))
        if value is not None and value.activation is not None:
            self._activated(value, value.activation, target, value.function, value.module)

    def _alias(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        source = args[0] if args else kwargs.get("input")
        if isinstance(source, list | tuple):
            self._joined(source, output)
            return
        if not isinstance(source, Tensor):
            return
        outputs = [each for each in functions.flat((output,)) if isinstance(each, Tensor)]
        weight = self._weight(source)
        if weight is not None:
            for number, each in enumerate(outputs):
                self._keep(each)
                index = number if name == "unbind" else functions.index_of(name, args, kwargs)
                self._parts[id(each)] = select(weight, index, len(source) if source.ndim else 1)
            return
        for each in outputs:
            if each is not source:
                self._select_rows(name, source, args, kwargs, each)
        value = self._values.get(id(source))
        if value is None:
            self._keep(source)
            for each in outputs:
                self._keep(each)
                self._sources[id(each)] = self._sources.get(id(source), id(source))
            return
        for number, each in enumerate(outputs):
            if name not in functions.SPLITS and name != "index_select":
                self._set(each, value)
            elif value.activation is None:
                # Perhaps the gate or the up half of a fused projection: a stream of its own.
                stream = value.stream
                self._set(each, Value(Stream(stream.data, stream.rows, stream.source, stream.weight)))
            else:
                self._set(each, cut(value, source, partial(_again, func, args[1:], kwargs, number)))

    def _joined(self, parts: list[Any] | tuple[Any, ...], output: Any) -> None:
        """cat and stack: known where all parts are one thing, or the outputs of experts that share a weight."""
        values = [self._values.get(id(each)) for each in parts]
        if not isinstance(output, Tensor) or not values or any(value is None for value in values):
            return
        known = [value for value in values if value is not None]
        streams = [value.stream for value in known]
        if all(value is known[0] for value in known):
            self._set(output, known[0])
        elif len({stream.weight for stream in streams}) == 1 and all(value.activation is None for value in known):
            every = [stream.rows for stream in streams if stream.rows is not None]
            rows = torch.cat(every) if len(every) == len(streams) else None
            self._set(output, Value(Stream(streams[0].data, rows, object(), streams[0].weight)))

    def _select_rows(
        self, name: str, source: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> None:
        """Remember which rows of a (tokens, features) tensor were taken, as a router's dispatch does."""
        before = self._rows.get(id(source))
        rows = before
        index = functions.index_of(name, args, kwargs)
        if (
            isinstance(index, Tensor)
            and index.dtype == torch.bool
            and index.ndim == source.ndim - 1
            and index.shape == source.shape[:-1]
        ):  # a mask of tokens
            places = index.flatten().nonzero().flatten()
            rows = places if before is None else before[places]
        elif (
            isinstance(index, Tensor)
            and index.ndim == 1
            and source.ndim == 2
            and index.dtype in (torch.int64, torch.int32)
        ):
            rows = index if before is None else before[index]
        elif name == "repeat_interleave" and source.ndim == 2 and len(args) > 1 and isinstance(args[1], int):
            rows = torch.arange(len(source), device=source.device) if before is None else before
            rows = rows.repeat_interleave(args[1])
        if rows is not None and output.ndim and len(output) == len(rows):
            self._keep(output)
            self._rows[id(output)] = rows

    def _linear(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        operands = [each for each in (*functions.flat(args), *kwargs.values()) if isinstance(each, Tensor)]
        if "addmm" in name or name == "baddbmm":
            operands = operands[1:]
        if len(operands) < 2 or not isinstance(output, Tensor):
            return
        data, columns = operands[:2]
        weight = self._weight(columns)
        if weight is None:  # weight @ data, whose hidden axis is the one before the last
            columns, data = operands[:2]
            weight = self._weight(columns)
            axis = -2
            if weight is None:
                return
        else:
            axis = 1 if name in functions.CONVOLUTION else -1
            if name == "einsum":
                turned = functions.contracted_last(args)
                if turned is None:
                    return
                columns = columns if turned else columns.transpose(-1, -2)
            elif name not in functions.CONVOLUTION and name != "linear" and columns.ndim > 1:
                columns = columns.transpose(-1, -2)
        self.multiplied.add(weight.name)
        value = self._values.get(id(data))
        if name in functions.CONVOLUTION:
            if columns.shape[1] == 1 and columns.shape[0] > 1:  # depthwise: neurons are not mixed
                if value is not None:
                    self._set(output, value)
                return
            if math.prod(columns.shape[2:]) > 1:
                return
        if value is not None and value.activation is not None:
            offsets = operands[2] if "grouped_mm" in name and len(operands) > 2 else None
            # What enters several products is one activation: that of the first (a projection before its adapter).
            first = self._first_use.setdefault((value.origin, id(value.activation)), weight.name)
            if first == weight.name:
                self._on_use(Use(value, data, self._owner(), weight, columns, axis, offsets))
        rows = self._rows.get(id(data)) if value is None else value.stream.rows
        source: object = self._sources.get(id(data), id(data))
        if value is not None:
            source = value.stream if value.activation is None else value.origin
        self._set(output, Value(Stream(data, rows, source, weight.name)))

    def _pointwise(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        operands = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        known = [(each, value) for each in operands if (value := self._values.get(id(each))) is not None]
        if not known:
            weight = next((made for each in operands if (made := self._weight(each)) is not None), None)
            if weight is not None and any(self._weight(each) and each.shape == output.shape for each in operands):
                self._keep(output)
                self._parts[id(output)] = weight  # a weight that is scaled or masked on its way
            for each in operands:
                if id(each) in self._rows and len(output) == len(self._rows[id(each)]):
                    self._keep(output)
                    self._rows[id(output)] = self._rows[id(each)]
            return
        width = output.shape[-1] if output.ndim else 1
        if width > 1 and output.ndim < 4:  # a weight for each row, from the router, say, leaves the neurons as they are
            known = [pair for pair in known if pair[0].shape[-1] > 1] or known
        strangers = [
            each
            for each in operands
            if id(each) not in self._values
            and self._weight(each) is None
            and each.numel() > width
            and each.shape[-1] > 1
            and not _is_factor(each, output)
        ]
        streams = {value.stream for _, value in known}
        if len(streams) == 1:
            scaled = name in functions.PRODUCT and known[0][1].activation is not None
            scaled = scaled and any(_scales_neurons(each, output) for each in operands if each is not known[0][0])
            self._one_stream(name, functions.is_relu(name, args, kwargs), known, strangers, scaled, output)
        elif name in functions.SUMS and output.ndim < 4 and all(value.activation is None for _, value in known):
            # A linear map and its adapter, or a linear map of two things.
            stream = known[0][1].stream
            source = stream.source if _one_root(streams) else object()
            self._set(output, Value(Stream(stream.data, stream.rows, source, stream.weight)))
        elif len(streams) == 2 and name in functions.PRODUCT:
            self._two_streams(known, output)
        else:
            self._values.pop(id(output), None)

    def _one_stream(
        self,
        name: str,
        relu: bool,
        known: list[tuple[Tensor, Value]],
        strangers: list[Tensor],
        scaled: bool,
        output: Tensor,
    ) -> None:
        tensor, value = max(known, key=lambda each: (each[1].activation is not None, each[1].hidden is not None))
        if strangers and _is_factor(tensor, output):
            self._values.pop(id(output), None)
        elif strangers and name not in ("masked_fill", "where"):
            if name in functions.PRODUCT and value.activation is not None:
                self._gated(value, output, foreign=True, other=None)
            else:
                self._values.pop(id(output), None)
        elif name in functions.NONLINEAR or (len(known) > 1 and _bends(name, [each for _, each in known])):
            self._activated(value, tensor, output, f"{value.function}·{name}" if value.function else name, None)
        elif relu and value.activation is None:
            self._activated(value, tensor, output, "relu", None)
        elif name in functions.MOVES and value.activation is not None and value.hidden is None:
            self._activated(value, tensor, output, value.function, value.module)
        elif value.hidden is not None or scaled:
            self._set(output, replace(value, hidden=output))
        else:
            self._set(output, value)

    def _two_streams(self, known: list[tuple[Tensor, Value]], output: Tensor) -> None:
        values = [value for tensor, value in known if not _is_factor(tensor, output)]
        if len(values) == 1:  # squeeze-and-excitation: each channel of an example has a factor
            self._set(output, replace(values[0], hidden=output if values[0].activation is not None else None))
            return
        gate = next((value for value in values if value.activation is not None), None)
        if gate is None:
            self._values.pop(id(output), None)
            return
        up = next(value for value in values if value.stream is not gate.stream)
        self._gated(gate, output, foreign=gate.stream.source != up.stream.source, other=up.stream.weight)

    def _gated(self, value: Value, output: Tensor, foreign: bool, other: str | None) -> None:
        if foreign:
            self.scans.add((value.owner, frozenset({value.stream.weight, other or ""})))
        self._set(output, replace(value, hidden=output, foreign=value.foreign or foreign))

    def _activated(self, value: Value, tensor: Tensor, output: Tensor, function: str, module: str | None) -> None:
        if value.activation is not None:  # one function written out in several steps
            self.activations.pop(value.origin, None)
        pre = tensor if value.activation is None else value.pre
        made = Value(
            value.stream, output, None if output is pre else pre, function, self._owner(), module, origin=id(output)
        )
        self.activations[id(output)] = made
        self._set(output, made)

    def _weight(self, tensor: Tensor) -> Weight | None:
        part = self._parts.get(id(tensor))
        if part is not None:
            return part
        if not isinstance(tensor, nn.Parameter):
            return None
        name = self._weights.get(id(tensor))
        if name is None and self._frames:  # one that has just taken the place of another (offloading)
            frame = self._frames[-1]
            own = (name for name, each in frame.module._parameters.items() if each is tensor)
            name = next((f"{frame.path}.{each}" if frame.path else each for each in own), None)
        return None if name is None else Weight(name)

    def _set(self, tensor: Tensor, value: Value) -> None:
        self._keep(tensor)
        self._values[id(tensor)] = value

    def _keep(self, tensor: Tensor) -> None:
        """Hold the tensor: the identity of one that is gone may be given to another."""
        self._alive.append(tensor)


def _is_factor(tensor: Tensor, output: Tensor) -> bool:
    """Whether what enters a product is one number for a whole row, or for a neuron of an example in all its places."""
    return _scales_neurons(tensor, output) or (tensor.ndim > 0 and tensor.shape[-1] == 1 < output.shape[-1])


def _scales_neurons(tensor: Tensor, output: Tensor) -> bool:
    """(example, …, neuron) or, of images, (example, neuron, …), with one place instead of the output's many."""
    if tensor.ndim != output.ndim or tensor.ndim < 3:
        return False
    places = (slice(1, -1), slice(2, None)) if tensor.ndim == 4 else (slice(1, -1),)
    return any(math.prod(tensor.shape[each]) == 1 < math.prod(output.shape[each]) for each in places)


def _bends(name: str, values: list[Value]) -> bool:
    """Whether a product, a sum or a quotient of functions of one linear map is no linear function of it.

    A sum of an activation and of what a scale made of it (global response normalisation) is that activation still.
    """
    origins = {value.origin for value in values}
    return name in functions.PRODUCT or (len(origins) > 1 and origins != {0})


def _one_root(streams: Iterable[Stream]) -> bool:
    """Whether linear maps, perhaps of linear maps, read one thing in the end."""
    roots = set()
    for stream in streams:
        while isinstance(stream.source, Stream):
            stream = stream.source
        roots.add(stream.source)
    return len(roots) == 1


def _again(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], number: int, tensor: Tensor
) -> Tensor:
    """The output, or the one of this number, of a function that is called with another first argument."""
    output = func(tensor, *args, **kwargs)
    found: Tensor = output if isinstance(output, Tensor) else output[number]
    return found
