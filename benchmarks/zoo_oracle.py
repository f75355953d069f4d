"""What an MLP's activations are, heard where PyTorch computes them.

Below all of Python, every activation function ends in one of ATen's. ``Listening`` hears these calls, and knows nothing
of modules, hooks, weights or our finder. A function that is written out (``x · σ(1.702 x)``, GELU with ``tanh`` or ``erf``)
is heard by its sigmoid, tanh or erf, and is positive where that one's input is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_BY_OUTPUT = frozenset(
    ["where", "relu", "gelu", "silu", "mish", "elu", "leaky_relu", "hardswish", "hardtanh", "softplus", "threshold"]
)
_BY_INPUT = frozenset(["sigmoid", "tanh", "erf"])


class Heard(NamedTuple):
    """One call of an activation function: how many of its outputs are positive, of how many."""

    width: int
    active: int
    outputs: int


class Listening(TorchDispatchMode):
    """Write down every activation whose last axis (or channels) is a multiple of ``prime``, or one of ``widths``.

    Args:
        hears: the only functions to listen to; all of them by default.
        convolutions: of images (batch, channels, height, width), what is written down is what enters a pointwise
            convolution and came from one, with nothing between but depthwise ones, normalisation and a factor for
            each channel.
    """

    def __init__(
        self, prime: int, widths: Iterable[int] = (), hears: Iterable[str] = (), convolutions: bool = False
    ) -> None:
        super().__init__()
        self.heard: list[Heard] = []
        self._prime, self._widths, self._hears = prime, frozenset(widths), frozenset(hears)
        self._images = convolutions
        self._linear: set[int] = set()
        self._active: dict[int, Heard] = {}
        self._alive: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket.__name__).rstrip("_")
        listens = name in (self._hears or _BY_OUTPUT | _BY_INPUT)
        before = args[0].detach() > 0 if listens and name in _BY_INPUT else None
        output = func(*args, **(kwargs or {}))
        if self._images and args and isinstance(args[0], Tensor) and args[0].ndim == 4:
            self._follow(name, args, output)
        elif listens:
            self._write(output > 0 if before is None else before)
        return output

    def _write(self, positive: Tensor) -> None:
        shape = positive.shape
        axes = [shape[-1], shape[1]] if len(shape) > 2 else [shape[-1]] if shape else []
        width = next((size for size in axes if self._is_width(size)), 0)
        if width:
            self.heard.append(Heard(width, int(positive.sum()), positive.numel()))

    def _is_width(self, size: int) -> bool:
        return size in self._widths if self._widths else size > 0 and size % self._prime == 0

    def _follow(self, name: str, args: Any, output: Any) -> None:
        """An image's way from one pointwise convolution to the next, by where its numbers lie."""
        read, made = args[0].data_ptr(), output[0] if isinstance(output, tuple) else output
        if not isinstance(made, Tensor):
            return
        linear, active = read in self._linear, self._active.get(read)
        if name == "convolution":
            pointwise = args[1].shape[2:].numel() == 1 and args[8] == 1
            depthwise = args[8] == args[0].shape[1] > 1
            if pointwise and active is not None:
                self.heard.append(active)
            linear, active = pointwise or (depthwise and linear), active if depthwise else None
        elif name in _BY_OUTPUT:
            active = Heard(made.shape[1], int((made > 0).sum()), made.numel()) if linear else None
        elif "batch_norm" not in name and name not in ("constant_pad_nd", "view", "detach", "mul"):
            return
        self._alive.append(made)
        self._active.pop(made.data_ptr(), None)
        self._linear.discard(made.data_ptr())
        if linear:
            self._linear.add(made.data_ptr())
        if active is not None:
            self._active[made.data_ptr()] = active
