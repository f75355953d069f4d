"""Following the data of a forward pass: linear → activation → (⊙ up) → linear.

``Flow`` is a ``TorchFunctionMode``: every torch function that the model calls passes through it, and what is known of a
function's inputs is noted for its outputs. When the output of a nonlinear function enters a matrix product with a
weight, that is a ``Use``: the place where a zero of the activation would have saved work. No list of architectures and
no attribute names are involved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from actratio.sites import functions
from actratio.sites.factors import have_one_root, is_factor, is_nonlinear, scales_neurons
from actratio.sites.followed import following, unfollowed
from actratio.sites.known import Known
from actratio.sites.running import RunningModule, RunningModules
from actratio.sites.values import Stream, Use, Value, Weight, cut, select


class Flow(TorchFunctionMode):
    """Follow the data of what runs inside the block, and call ``on_use`` at every down projection.

    >>> flow = Flow(model, print)                            # doctest: +SKIP
    >>> with torch.no_grad(), flow.modules(), flow:          # doctest: +SKIP
    ...     model(inputs)

    Attributes:
        activations: every value that came out of a nonlinear function of a linear map, by the identity of its tensor;
            for activations that never entered a product.
        scans: where an activation was multiplied by data that is not a linear map of the same input, whatever became
            of the product: the path of the module, and the names of the weights that made the two, as far as they are
            known.
        multiplied: names of the weights that entered a product.
        others: functions of linear maps that are not followed, and the path of the module that called them.
    """

    def __init__(
        self, model: nn.Module, on_use: Callable[[Use], None], on_unused: Callable[[Value], None] | None = None
    ) -> None:
        super().__init__()
        self._on_use, self._on_unused = on_use, on_unused
        self.activations: dict[int, Value] = {}
        self.scans: set[tuple[str, frozenset[str]]] = set()
        self.multiplied: set[str] = set()
        self.others: dict[str, str] = {}
        self._used: set[int] = set()  # origins of activations that entered a product
        self._known = Known(model)
        self._running = RunningModules(model, self._ran_atomic)
        self._first_use: dict[tuple[int, int], str] = {}

    @property
    def ran(self) -> set[str]:
        """Paths of the modules whose hooks were called."""
        return self._running.ran

    @contextmanager
    def modules(self, inside: nn.Module | None = None) -> Iterator[None]:
        """Know which module is running, through hooks that end with the block.

        Args:
            inside: a module that is running already.
        """
        try:
            with following, self._running.hooks(inside):
                yield
        finally:
            self.forget()

    def forget(self) -> None:
        """Let go of all tensors, between forward passes."""
        self.activations.clear()
        self._first_use.clear()
        self._used.clear()
        self._known.forget()

    def tell_unused(self) -> None:
        """Call ``on_unused`` for every activation that entered no product, at the end of what is followed."""
        if self._on_unused is not None:
            for origin, value in self.activations.items():
                if origin not in self._used:
                    self._on_unused(value)

    def _ran_atomic(self, ran: RunningModule, given: Tensor, output: Tensor) -> None:
        if functions.is_opaque_linear(ran.module):
            self._multiplied(given, output, ran)
            return
        value = self._known.value(given)
        if value is None:
            return
        if functions.is_activation(ran.module):
            path = ran.path if ran.is_part else None
            self._activated(value, given, output, functions.function_name(ran.module), path)
        else:
            self._known.set_value(output, value)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._running.atomic or unfollowed.depth:  # the steps of an activation module are not followed
            return func(*args, **kwargs)
        name, in_place = functions.canonical_name(func)
        name = functions.of_two_tensors(name, args, kwargs)
        in_place = in_place or functions.writes(name, args, kwargs)
        before = self._before_mask(name, args)
        if in_place and args and isinstance(args[0], Tensor):
            self._keep_before_writing(args[0])
            self._known.constants.discard(id(args[0]))
        output = func(*args, **kwargs)
        if name in functions.CONSTANT and isinstance(output, Tensor):
            self._known.set_constant(output)
        elif self._computed_weight(name, args, kwargs, output):
            pass
        elif before is not None:
            self._pointwise("masked_fill", (before, args[1]), {}, args[0])
        elif name == "__setitem__":
            self._written(args[0])
        elif name == "glu":
            self._glu(args, kwargs, output)
        elif name in functions.SPATIAL:
            self._moved_in_space(args, kwargs, output)
        elif name in functions.ALIAS:
            self._alias(func, name, args, kwargs, output)
        elif name in functions.LINEAR:
            self._linear(name, args, kwargs, output)
        elif name in functions.KNOWN and isinstance(output, Tensor):
            self._pointwise(name, args, kwargs, output)
        elif in_place and args:
            self._known.values.pop(id(args[0]), None)
        else:
            self._note_other(name, args, kwargs)
        return output

    def _note_other(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note a function of a linear map that isn't elementwise, such as softmax."""
        for operand in (*functions.flat(args), *kwargs.values()):
            value = self._known.value(operand)
            if value is not None and value.activation is None:
                self.others.setdefault(name, self._running.owner)

    def _computed_weight(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> bool:
        """Note a weight that is computed from other weights: weight norm, spectral norm, an adapter that is added."""
        if (
            not isinstance(output, Tensor)
            or name in functions.ALIAS
            or name in functions.CONVOLUTION
            or name == "linear"
        ):
            return False
        operands = [operand for operand in (*functions.flat(args), *kwargs.values()) if isinstance(operand, Tensor)]
        weights = [(operand, weight) for operand in operands if (weight := self._weight(operand)) is not None]
        fixed = 0 if name in functions.LINEAR else sum(self._known.is_fixed(operand) for operand in operands)
        if (
            not weights
            or len(weights) + fixed < len(operands)
            or any(weight.expert is not None for _, weight in weights)
        ):
            return False
        largest = max(weights, key=lambda pair: pair[0].numel())[1]
        self._known.set_part(output, replace(largest, is_computed=True))
        return True

    def _glu(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        """Follow a · σ(b), where a and b are the halves of a linear map."""
        given = args[0] if args else kwargs["input"]
        axis = args[1] if len(args) > 1 else kwargs.get("dim", -1)
        value = self._known.value(given)
        if value is None or value.activation is not None or axis % given.ndim != value.stream.axis % given.ndim:
            return
        gate = given.chunk(2, axis)[1]
        half = Value(replace(value.stream))
        opened = torch.sigmoid(gate)
        self._activated(half, gate, opened, "sigmoid", None)
        made = self._known.value(opened)
        assert made is not None
        self._gated(made, output, foreign=False, other=value.stream.weight)

    def _keep_before_writing(self, target: Tensor) -> None:
        """Copy an activation that is about to be overwritten."""
        value = self._known.value(target)
        if value is not None and value.activation is target:
            kept = self.activations[value.origin] = replace(value, activation=target.clone())
            self._known.set_value(target, kept)

    def _moved_in_space(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """Follow the output of a convolution through pooling. Then it isn't part of an MLP."""
        value = self._known.value(args[0] if args else kwargs.get("input"))
        if value is not None and value.activation is None and value.stream.axis == 1 and isinstance(output, Tensor):
            self._known.set_value(output, Value(replace(value.stream, is_spatial=True)))

    def _before_mask(self, name: str, args: tuple[Any, ...]) -> Tensor | None:
        """Copy a linear map, some of whose neurons are about to be overwritten, as in ``h[h < 0] = 0``."""
        if name != "__setitem__" or self._known.value(args[1]) is None:
            return None
        value = self._known.value(args[0])
        if value is None or value.activation is not None:
            return None
        copy: Tensor = args[0].clone()
        self._known.set_value(copy, value)
        return copy

    def _written(self, target: Any) -> None:
        value = self._known.value(target)
        if value is not None and value.activation is not None:
            self._activated(value, value.activation, target, value.function, None)  # no longer what the module returned

    def _alias(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        source = args[0] if args else kwargs.get("input")
        if isinstance(source, list | tuple):
            self._joined(source, output)
            return
        if not isinstance(source, Tensor):
            return
        outputs = [part for part in functions.flat((output,)) if isinstance(part, Tensor)]
        weight = self._weight(source)
        if weight is None and (name in functions.PERMUTES or name == "__get__"):  # buffer.T
            weight = self._known.buffer(source)
        if weight is not None:
            for number, part in enumerate(outputs):
                index = number if name == "unbind" else functions.index_of(name, args, kwargs)
                self._known.set_part(part, select(weight, index, len(source) if source.ndim else 1))
            return
        for part in outputs:
            if part is not source:
                self._select_rows(name, source, args, kwargs, part)
        value = self._known.value(source)
        if value is None:
            for part in outputs:
                self._known.set_source(part, source)
            return
        for number, part in enumerate(outputs):
            if name in functions.PERMUTES and value.activation is None and args:
                axis = _permuted(func, args, kwargs, value.stream.axis)
                moved = value if axis is None else replace(value, stream=replace(value.stream, axis=axis))
                self._known.set_value(part, moved)
            elif name not in functions.SPLITS and name != "index_select":
                self._known.set_value(part, value)
            elif value.activation is None:
                # Perhaps the gate or the up half of a fused projection: a stream of its own.
                stream = value.stream
                self._known.set_value(part, Value(replace(stream)))
            else:
                self._known.set_value(part, cut(value, source, partial(_again, func, args[1:], kwargs, number)))

    def _joined(self, parts: list[Any] | tuple[Any, ...], output: Any) -> None:
        """Follow cat and stack, if all parts have one value, or are the outputs of experts that share a weight."""
        values = [self._known.value(part) for part in parts]
        if not isinstance(output, Tensor) or not values or any(value is None for value in values):
            return
        known = [value for value in values if value is not None]
        streams = [value.stream for value in known]
        if all(value is known[0] for value in known):
            self._known.set_value(output, known[0])
        elif len({stream.weight for stream in streams}) == 1 and all(value.activation is None for value in known):
            every = [stream.rows for stream in streams if stream.rows is not None]
            rows = torch.cat(every) if len(every) == len(streams) else None
            joined = replace(streams[0], rows=rows, source=object())
            self._known.set_value(output, Value(joined))

    def _select_rows(
        self, name: str, source: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> None:
        """Note which rows of a (tokens, features) tensor were taken, as a router's dispatch does."""
        before = self._known.rows.get(id(source))
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
            self._known.set_rows(output, rows)

    def _linear(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        operands = [operand for operand in (*functions.flat(args), *kwargs.values()) if isinstance(operand, Tensor)]
        if "addmm" in name or name == "baddbmm":
            operands = operands[1:]
        if len(operands) < 2 or not isinstance(output, Tensor):
            return
        data, columns = operands[:2]
        weight = self._weight(columns)
        if weight is None and name in ("linear", "matmul", "mm"):
            weight = self._known.buffer(columns)
        if weight is None:  # weight @ data, whose hidden axis is the one before the last
            columns, data = operands[:2]
            weight = self._weight(columns)
            axis = -2
            if weight is None:
                return
        else:
            axis = 1 if name in functions.CONVOLUTION else -1
            if name == "einsum":
                last = functions.contracted_last(args)
                if last is None:
                    return
                columns = columns if last else columns.transpose(-1, -2)
            elif name not in functions.CONVOLUTION and name != "linear" and columns.ndim > 1:
                columns = columns.transpose(-1, -2)
        self.multiplied.add(weight.name)
        is_spatial = False
        value = self._known.value(data)
        if name in functions.CONVOLUTION:
            if output.ndim < columns.ndim:  # without an axis for examples, which everything after this expects
                return
            if columns.shape[1] == 1 < data.shape[1]:  # depthwise: neurons are not mixed
                if value is not None:
                    self._known.set_value(output, value)
                return
            is_spatial = math.prod(columns.shape[2:]) > 1 or "transpose" in name
        if value is not None and value.activation is not None and not is_spatial and not value.stream.is_spatial:
            offsets = operands[2] if "grouped_mm" in name and len(operands) > 2 else None
            # An activation that enters several products is counted at the first (a projection before its adapter).
            first = self._first_use.setdefault((value.origin, id(value.activation)), weight.name)
            self._used.add(value.origin)
            if first == weight.name:
                self._on_use(Use(value, data, self._running.owner, weight, columns, axis, offsets))
        rows = self._known.rows.get(id(data)) if value is None else value.stream.rows
        source: object = self._known.source(data)
        if value is not None:
            source = value.stream if value.activation is None else value.origin
        neurons = axis if output.ndim > 1 else -1
        self._known.set_value(output, Value(Stream(data, rows, source, weight.name, neurons, is_spatial)))

    def _multiplied(self, data: Tensor, output: Tensor, linear: RunningModule) -> None:
        """Follow a linear map whose weight can't be seen."""
        weight = Weight(f"{linear.path}.weight", is_computed=True)
        value = self._known.value(data)
        if value is not None and value.activation is not None and not value.stream.is_spatial:
            sizes = functions.linear_sizes(linear.module)
            assert sizes is not None  # a module without them isn't opaque
            columns = torch.empty(sizes, device="meta")
            if functions.has_transposed_weight(linear.module):
                columns = columns.t().contiguous().t()
            self._used.add(value.origin)
            self._on_use(Use(value, data, linear.path, weight, columns, -1))
        self.multiplied.add(weight.name)
        source: object = self._known.source(data)
        if value is not None:
            source = value.stream if value.activation is None else value.origin
        rows = self._known.rows.get(id(data)) if value is None else value.stream.rows
        self._known.set_value(output, Value(Stream(data, rows, source, weight.name)))

    def _pointwise(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        operands = [operand for operand in (*args, *kwargs.values()) if isinstance(operand, Tensor)]
        known = [(operand, value) for operand in operands if (value := self._known.value(operand)) is not None]
        if not known:
            weight = next((found for operand in operands if (found := self._weight(operand)) is not None), None)
            if weight is not None and any(
                self._weight(operand) and operand.shape == output.shape for operand in operands
            ):
                # A weight that is scaled or masked on its way.
                self._known.set_part(output, replace(weight, is_computed=True))
            for operand in operands:
                rows = self._known.rows.get(id(operand))
                if rows is not None and len(output) == len(rows):
                    self._known.set_rows(output, rows)
            return
        width = output.shape[-1] if output.ndim else 1
        if (
            width > 1 and output.ndim < 4
        ):  # a weight for each row, from the router, say, changes nothing about the neurons
            known = [pair for pair in known if pair[0].shape[-1] > 1] or known
        strangers = [
            operand
            for operand in operands
            if id(operand) not in self._known.values
            and id(operand) not in self._known.constants
            and self._weight(operand) is None
            and operand.numel() > width
            and operand.shape[-1] > 1
            and not is_factor(operand, output)
        ]
        streams = {value.stream for _, value in known}
        if len(streams) == 1:
            scaled = name in functions.PRODUCT and known[0][1].activation is not None
            scaled = scaled and any(
                scales_neurons(operand, output) for operand in operands if operand is not known[0][0]
            )
            self._one_stream(name, functions.is_relu(name, args, kwargs), known, strangers, scaled, output)
        elif name in functions.SUMS and output.ndim < 4 and all(value.activation is None for _, value in known):
            # A linear map and its adapter, or a linear map of two things.
            stream = known[0][1].stream
            source = stream.source if have_one_root(streams) else object()
            is_spatial = any(stream.is_spatial for stream in streams)
            self._known.set_value(output, Value(replace(stream, source=source, is_spatial=is_spatial)))
        elif len(streams) == 2 and name in functions.PRODUCT:
            self._two_streams(known, output)
        else:
            self._forget_or_sum(name, known, output)

    def _forget_or_sum(self, name: str, known: list[tuple[Tensor, Value]], output: Tensor) -> None:
        """Follow a sum with the output of a convolution. It may be activated, but isn't part of an MLP."""
        stream = next((value.stream for _, value in known if value.activation is None and value.stream.axis == 1), None)
        if name in functions.SUMS and stream is not None and output.ndim > 2:
            self._known.set_value(output, Value(replace(stream, source=object(), is_spatial=True)))
        else:
            self._known.values.pop(id(output), None)

    def _one_stream(
        self,
        name: str,
        relu: bool,
        known: list[tuple[Tensor, Value]],
        strangers: list[Tensor],
        scaled: bool,
        output: Tensor,
    ) -> None:
        tensor, value = max(known, key=lambda pair: (pair[1].activation is not None, pair[1].hidden is not None))
        if strangers and is_factor(tensor, output):
            self._known.values.pop(id(output), None)
        elif strangers and name not in ("masked_fill", "where"):
            if name in functions.PRODUCT and value.activation is not None:
                self._gated(value, output, foreign=True, other=None)
            else:
                self._forget_or_sum(name, known, output)
        elif name in functions.NONLINEAR or (len(known) > 1 and is_nonlinear(name, [other for _, other in known])):
            self._activated(value, tensor, output, f"{value.function}·{name}" if value.function else name, None)
        elif relu and value.activation is None:
            self._activated(value, tensor, output, "relu", None)
        elif name in functions.MOVES and value.activation is not None and value.hidden is None:
            self._activated(value, tensor, output, value.function, None)  # no longer what the module returned
        elif value.hidden is not None or scaled:
            self._known.set_value(output, replace(value, hidden=output))
        else:
            self._known.set_value(output, value)

    def _two_streams(self, known: list[tuple[Tensor, Value]], output: Tensor) -> None:
        values = [value for tensor, value in known if not is_factor(tensor, output)]
        if len(values) == 1:  # squeeze-and-excitation: each channel of an example has a factor
            self._known.set_value(
                output, replace(values[0], hidden=output if values[0].activation is not None else None)
            )
            return
        gate = next((value for value in values if value.activation is not None), None)
        if gate is None:
            self._known.values.pop(id(output), None)
            return
        up = next(value for value in values if value.stream is not gate.stream)
        self._gated(gate, output, foreign=gate.stream.source != up.stream.source, other=up.stream.weight)

    def _gated(self, value: Value, output: Tensor, foreign: bool, other: str | None) -> None:
        if foreign:
            self.scans.add((value.owner, frozenset({value.stream.weight, other or ""})))
        self._known.set_value(output, replace(value, hidden=output, foreign=value.foreign or foreign))

    def _activated(self, value: Value, tensor: Tensor, output: Tensor, function: str, module: str | None) -> None:
        if value.activation is not None:  # one function written out in several steps
            self.activations.pop(value.origin, None)
        pre = tensor if value.activation is None else value.pre
        made = Value(
            value.stream,
            output,
            None if output is pre else pre,
            function,
            self._running.owner,
            module,
            origin=id(output),
        )
        self.activations[id(output)] = made
        self._known.set_value(output, made)

    def _weight(self, tensor: Tensor) -> Weight | None:
        return self._known.weight(tensor, self._running.innermost)


def _again(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], number: int, tensor: Tensor
) -> Tensor:
    """Call a function with another first argument, and return its output, or the output of this number."""
    output = func(tensor, *args, **kwargs)
    found: Tensor = output if isinstance(output, Tensor) else output[number]
    return found


def _permuted(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], axis: int) -> int | None:
    """Return where a permutation of its first argument's axes moves one of them, or ``None`` if it stays."""
    ndim = args[0].ndim
    axes: Tensor = func(
        torch.empty(tuple(range(2, 2 + ndim)), device="meta"), *args[1:], **kwargs
    )  # each has a size of its own
    before, after = axis % ndim, axes.shape.index(2 + axis % ndim)
    return None if after == before else after - ndim if axis < 0 else after
