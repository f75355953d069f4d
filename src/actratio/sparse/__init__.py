"""The same model, skipping the neurons that are zero."""

from actratio.sparse.modules import Plan, densify, plans, sparsify

__all__ = ["Plan", "densify", "plans", "sparsify"]
