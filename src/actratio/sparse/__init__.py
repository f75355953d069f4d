"""The same model, skipping the neurons that are zero; see the README beside this file for how, and why so."""

from actratio.sparse.conversion import densify, plans, sparsify
from actratio.sparse.planning import Plan
from actratio.sparse.pruning import Pruned, prune
from actratio.sparse.saved import load_sparse

__all__ = ["Plan", "Pruned", "densify", "load_sparse", "plans", "prune", "sparsify"]
