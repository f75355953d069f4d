"""The hot loops behind a small interface; ``reference`` is their specification in plain torch."""

from actratio.kernels.reference import count

__all__ = ["count"]
