"""What is known of the tensors of a forward pass, by their identity."""

from __future__ import annotations

from torch import Tensor, nn

from actratio.sites.running import RunningModule
from actratio.sites.values import Value, Weight


class Known:
    """What is known of each tensor; tensors are held until ``forget``, so that no other tensor gets their ``id``.

    Attributes:
        values: where a tensor came from, since the last linear map.
        sources: the identity of what a view or a cast was made from.
        parts: tensors that are a weight, or a part of one.
        rows: which tokens the rows of a tensor are, where rows were selected.
        constants: tensors that don't depend on the data.
    """

    def __init__(self, model: nn.Module) -> None:
        self.values: dict[int, Value] = {}
        self.sources: dict[int, int] = {}
        self.parts: dict[int, Weight] = {}
        self.rows: dict[int, Tensor] = {}
        self.constants: set[int] = set()
        self._weights = {id(parameter): name for name, parameter in model.named_parameters()}
        self._buffers = {id(buffer): name for name, buffer in model.named_buffers()}
        self._held: list[Tensor] = []

    def forget(self) -> None:
        """Let go of all tensors."""
        for tensors in (self.values, self.sources, self.parts, self.rows, self.constants, self._held):
            tensors.clear()

    def hold(self, tensor: Tensor) -> None:
        """Keep a tensor alive: ``id`` of a tensor that is freed may be given to another."""
        self._held.append(tensor)

    def value(self, tensor: object) -> Value | None:
        """Return where a tensor came from, if that is known."""
        return self.values.get(id(tensor))

    def set_value(self, tensor: Tensor, value: Value) -> None:
        """Note where a tensor came from."""
        self.hold(tensor)
        self.values[id(tensor)] = value

    def set_part(self, tensor: Tensor, weight: Weight) -> None:
        """Note that a tensor is a part of a weight."""
        self.hold(tensor)
        self.parts[id(tensor)] = weight

    def set_constant(self, tensor: Tensor) -> None:
        """Note that a tensor doesn't depend on the data."""
        self.hold(tensor)
        self.constants.add(id(tensor))

    def set_rows(self, tensor: Tensor, rows: Tensor) -> None:
        """Note which tokens the rows of a tensor are."""
        self.hold(tensor)
        self.rows[id(tensor)] = rows

    def set_source(self, tensor: Tensor, source: Tensor) -> None:
        """Note that a tensor is a view or a cast of another."""
        self.hold(source)
        self.hold(tensor)
        self.sources[id(tensor)] = self.source(source)

    def source(self, tensor: Tensor) -> int:
        """Return the identity of the tensor that a tensor is a view or a cast of, or its own."""
        return self.sources.get(id(tensor), id(tensor))

    def is_fixed(self, tensor: Tensor) -> bool:
        """Return whether a tensor is a buffer or a constant."""
        return id(tensor) in self._buffers or id(tensor) in self.constants

    def buffer(self, tensor: Tensor) -> Weight | None:
        """Return which buffer a tensor is, if it may be a weight: a matrix of floating-point numbers."""
        name = self._buffers.get(id(tensor))
        is_matrix = tensor.ndim == 2 and tensor.is_floating_point()
        return Weight(name) if name is not None and is_matrix else None

    def weight(self, tensor: Tensor, running: RunningModule | None) -> Weight | None:
        """Return which weight a tensor is, or is a part of.

        Args:
            running: the module that is running; one of its parameters may have taken the place of another (offloading).
        """
        part = self.parts.get(id(tensor))
        if part is not None:
            return part
        if not isinstance(tensor, nn.Parameter):
            return None
        name = self._weights.get(id(tensor))
        if name is None and running is not None:
            own = (name for name, parameter in running.module._parameters.items() if parameter is tensor)
            name = next((f"{running.path}.{own_name}" if running.path else own_name for own_name in own), None)
        return None if name is None else Weight(name)
